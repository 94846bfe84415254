"""Whether scores can be taken at their word."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray
from fast_path import reliability


def calibration(truth: BoolArray, score: FloatArray, *, bins: int = 10) -> dict[str, Any]:
    """Return ECE over bins of equal count, Brier score, and the bins of a reliability diagram.

    `truth` bool [N], `score` float [N] in [0, 1]; the numbers are None for no clips. Each bin has the mean score, the
    share of violating clips and the count.
    """
    if not len(truth):
        return {"ece": None, "brier": None, "bins": []}
    parts = [part for part in np.array_split(np.argsort(score, kind="stable"), bins) if len(part)]
    return {
        "ece": reliability.expected_calibration_error(score, truth, bins=bins),
        "brier": reliability.brier(score, truth),
        "bins": [[float(score[p].mean()), float(truth[p].mean()), len(p)] for p in parts],
    }
