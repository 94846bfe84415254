"""The rows that every table carries: what one gets without looking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray, any_of
from eval.metrics.strict import Strict

ROWS = ("always_safe", "flag_all", "random", "prevalence")
_COIN_DRAWS = 20


def baselines(
    truth: BoolArray, known: BoolArray, columns: Sequence[str], *, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return the strict metrics of the four rows on these labels, bool [N, C].

    `random` tosses a fair coin for each category, with a uniform score (mean of 20 draws); `prevalence` tosses one
    that falls on "violates" as often as the category occurs, and has that share as its score for every clip, so that
    its average precision is the prevalence.
    """
    rng = np.random.default_rng(seed)
    none = np.zeros(truth.shape)
    made: dict[str, dict[str, float | None]] = {
        "always_safe": _row(truth, none > 0, none, known, columns),
        "flag_all": _row(truth, none == 0, none + 1, known, columns),
    }
    rates = np.divide((truth & known).sum(axis=0), np.maximum(known.sum(axis=0), 1))
    for name, rate in (("random", np.full(truth.shape[1], 0.5)), ("prevalence", rates)):
        constant = rate if name == "prevalence" else None
        made[name] = _mean([_coin(truth, known, columns, rate, rng, constant) for _ in range(_COIN_DRAWS)])
    return made


def _coin(
    truth: BoolArray,
    known: BoolArray,
    columns: Sequence[str],
    rate: FloatArray,
    rng: np.random.Generator,
    constant: FloatArray | None,
) -> dict[str, float | None]:
    score = rng.random(truth.shape) if constant is None else np.broadcast_to(constant, truth.shape)
    return _row(truth, rng.random(truth.shape) < rate, score, known, columns)


def _row(
    truth: BoolArray, flags: BoolArray, scores: FloatArray, known: BoolArray, columns: Sequence[str]
) -> dict[str, float | None]:
    return Strict(truth, flags, scores, known=known, withheld=any_of(flags), columns=columns)()


def _mean(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    made: dict[str, float | None] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row[name]) is not None]
        made[name] = float(np.mean(values)) if values else None
    return made
