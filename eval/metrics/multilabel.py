"""Metrics of answers that may name several categories at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.confusion import BoolArray, Confusion, FloatArray, confusion, ratio
from guard.types import require


def exact_match(truth: BoolArray, flags: BoolArray, weights: FloatArray | None = None) -> float | None:
    """Return the share of clips whose flagged set is the true one; bool [N, C] both. None for no clips."""
    return _mean((truth == flags).all(axis=1).astype(np.float64), weights)


def jaccard(truth: BoolArray, flags: BoolArray, weights: FloatArray | None = None) -> float | None:
    """Return the mean of intersection over union of true and flagged sets, 1 where both are empty."""
    union = (truth | flags).sum(axis=1)
    shared = (truth & flags).sum(axis=1)
    return _mean(np.where(union == 0, 1.0, shared / np.maximum(union, 1)), weights)


def hamming_accuracy(truth: BoolArray, flags: BoolArray, weights: FloatArray | None = None) -> float | None:
    """Return the share of right answers over all clips and categories."""
    return _mean((truth == flags).mean(axis=1), weights) if truth.shape[1] else None


def per_category(
    truth: BoolArray, flags: BoolArray, known: BoolArray, weights: FloatArray | None = None
) -> list[Confusion]:
    """Return the counts of each of C categories over the clips whose label is `known`, one against the rest."""
    require(truth.shape == flags.shape == known.shape, "flags, known", f"of shape {truth.shape}", flags.shape)
    made = []
    for column in range(truth.shape[1]):
        rows = known[:, column]
        kept = None if weights is None else weights[rows]
        made.append(confusion(truth[rows, column], flags[rows, column], kept))
    return made


def micro(counts: Sequence[Confusion]) -> Confusion:
    """Return the sum of the counts: every answer weighs alike."""
    return Confusion(
        tp=sum(c.tp for c in counts),
        fp=sum(c.fp for c in counts),
        fn=sum(c.fn for c in counts),
        tn=sum(c.tn for c in counts),
    )


def macro(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are defined: every category weighs alike. None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def weighted(values: Sequence[float | None], supports: Sequence[float]) -> float | None:
    """Return the mean of the defined values, each weighing as many clips as truly violate its category."""
    pairs = [(v, s) for v, s in zip(values, supports, strict=True) if v is not None and s > 0]
    return ratio(sum(v * s for v, s in pairs), sum(s for _, s in pairs))


def sample_f1(truth: BoolArray, flags: BoolArray, weights: FloatArray | None = None) -> float | None:
    """Return the mean F1 of each clip's own sets, 1 where both are empty."""
    shared, size = (truth & flags).sum(axis=1), truth.sum(axis=1) + flags.sum(axis=1)
    return _mean(np.where(size == 0, 1.0, 2 * shared / np.maximum(size, 1)), weights)


def _mean(values: FloatArray, weights: FloatArray | None) -> float | None:
    if not len(values):
        return None
    if weights is None:
        return float(values.mean())
    return ratio(float((values * weights).sum()), float(weights.sum()))
