"""Counts of right and wrong answers to one yes/no question, and the rates that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guard.types import require

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


def ratio(part: float, whole: float) -> float | None:
    """Return `part / whole`, or None for nothing of nothing."""
    return part / whole if whole else None


def any_of(matrix: BoolArray) -> BoolArray:
    """Return bool [N]: whether any column of `matrix` bool [N, C] is true; False where there is no column."""
    return np.asarray(matrix.any(axis=1), bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often each of the four outcomes occurred. Counts may be weighted, and so need not be whole."""

    tp: float
    fp: float
    fn: float
    tn: float

    @property
    def total(self) -> float:
        """All answers."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def accuracy(self) -> float | None:
        """Share of right answers."""
        return ratio(self.tp + self.tn, self.total)

    @property
    def precision(self) -> float | None:
        """Share of the flagged that violate; None where nothing was flagged."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the violating that were flagged; None without any."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def false_positive_rate(self) -> float | None:
        """Share of the harmless that were flagged (also: false refusal); None without any."""
        return ratio(self.fp, self.fp + self.tn)

    @property
    def leakage(self) -> float | None:
        """Share of the violating that were not flagged; None without any."""
        return ratio(self.fn, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where nothing violates and nothing was flagged."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of recall and specificity; None without both kinds."""
        if self.recall is None or self.false_positive_rate is None:
            return None
        return (self.recall + 1 - self.false_positive_rate) / 2

    def rates(self) -> dict[str, float | None]:
        """Return every rate by name."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "false_positive_rate": self.false_positive_rate,
            "leakage": self.leakage,
        }


def confusion(truth: BoolArray, flags: BoolArray, weights: FloatArray | None = None) -> Confusion:
    """Count the outcomes of `flags` bool [N] against `truth` bool [N], each clip `weights` [N] times."""
    require(truth.shape == flags.shape, "flags", f"of shape {truth.shape}", flags.shape)
    weight = np.ones(truth.shape) if weights is None else weights
    return Confusion(
        tp=float(weight[truth & flags].sum()),
        fp=float(weight[~truth & flags].sum()),
        fn=float(weight[truth & ~flags].sum()),
        tn=float(weight[~truth & ~flags].sum()),
    )
