"""What routing gains: errors of the part that is kept, and what the slow path mends and spoils."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray, ratio
from fast_path.reliability import risk_coverage

POINTS = 60
"""Points kept of a curve: enough for a plot."""


def selective(confidence: FloatArray, wrong: BoolArray) -> dict[str, Any] | None:
    """Return AURC, excess AURC, the AURC of random routing, and the curve; None for no clips.

    Random routing keeps any clip alike, so its risk is the error rate at every coverage.
    """
    if not len(wrong):
        return None
    found = risk_coverage(confidence, wrong)
    kept = np.unique(np.linspace(0, len(found.coverage) - 1, POINTS).round().astype(np.int64))
    return {
        "aurc": found.aurc,
        "excess_aurc": found.excess_aurc,
        "aurc_random": float(wrong.mean()),
        "coverage": [float(found.coverage[i]) for i in kept],
        "risk": [float(found.risk[i]) for i in kept],
    }


def routing(
    escalated: BoolArray, fast_right: BoolArray, final_right: BoolArray, *, answered: bool = True
) -> dict[str, Any] | None:
    """Return what escalation did; bool [N] each. None for no clips.

    A rescue is a clip that the fast path had wrong and the cascade right; a regression the other way round. `random`
    is the accuracy that escalating as many clips at random would give, the slow path's accuracy being that on the
    escalated clips: a router that does not beat it has no value.
    """
    if not len(escalated):
        return None
    rescued = int((escalated & ~fast_right & final_right).sum())
    spoiled = int((escalated & fast_right & ~final_right).sum())
    rate = float(escalated.mean())
    slow = ratio(float((escalated & final_right).sum()), float(escalated.sum()))
    fast_all = float(fast_right.mean())
    found: dict[str, Any] = {
        "escalation_rate": rate,
        "accuracy": float(final_right.mean()),
        "accuracy_fast_alone": fast_all,
        "accuracy_fast_kept": ratio(float((~escalated & fast_right).sum()), float((~escalated).sum())),
        "accuracy_slow_on_escalated": slow,
        "accuracy_random_routing": None if slow is None else (1 - rate) * fast_all + rate * slow,
        "accuracy_oracle": float((fast_right | final_right).mean()),
        "rescues": rescued,
        "regressions": spoiled,
    }
    return found if answered else {name: value if name in _WITHOUT_SLOW else None for name, value in found.items()}


_WITHOUT_SLOW = frozenset({"escalation_rate", "accuracy_fast_kept"})
