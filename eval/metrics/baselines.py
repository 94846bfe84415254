"""The rows that every table carries: what one gets without looking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray
from eval.metrics.strict import Strict

ROWS = ("always_safe", "flag_all", "random", "prevalence")
_COIN_DRAWS = 20


def baselines(
    truth: BoolArray, known: BoolArray, columns: Sequence[str], *, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return the strict metrics of the four rows on these labels, bool [N, C].

    `random` tosses a fair coin for each category, with a uniform score (mean of 20 draws); `prevalence` tosses one
    that falls on "violates" as often as the category occurs.
    """
    rng = np.random.default_rng(seed)
    none = np.zeros(truth.shape)
    made: dict[str, dict[str, float | None]] = {
        "always_safe": Strict(truth, none > 0, none, known=known, columns=columns)(),
        "flag_all": Strict(truth, none == 0, none + 1, known=known, columns=columns)(),
    }
    rates = np.divide((truth & known).sum(axis=0), np.maximum(known.sum(axis=0), 1))
    for name, rate in (("random", np.full(truth.shape[1], 0.5)), ("prevalence", rates)):
        made[name] = _mean([_coin(truth, known, columns, rate, rng) for _ in range(_COIN_DRAWS)])
    return made


def _coin(
    truth: BoolArray, known: BoolArray, columns: Sequence[str], rate: FloatArray, rng: np.random.Generator
) -> dict[str, float | None]:
    score = rng.random(truth.shape)
    return Strict(truth, rng.random(truth.shape) < rate, score, known=known, columns=columns)()


def _mean(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    made: dict[str, float | None] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row[name]) is not None]
        made[name] = float(np.mean(values)) if values else None
    return made
