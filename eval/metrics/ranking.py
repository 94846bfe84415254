"""How well scores order what violates before what does not.

Everything is computed on one sorted pass, in which a clip may count any number of times: a bootstrap then needs no
second sort. Equal scores enter together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray
from guard.types import require


class Ranked:
    """N clips in falling order of score."""

    def __init__(self, truth: BoolArray, score: FloatArray) -> None:
        """`truth` bool [N], `score` float [N], finite."""
        require(truth.shape == score.shape, "score", f"of shape {truth.shape}", score.shape)
        require(bool(np.isfinite(score).all()), "score", "finite", "NaN or infinity")
        self._order = np.argsort(-score, kind="stable")
        self._truth = truth[self._order].astype(np.float64)
        ordered = score[self._order]
        self._ends = np.r_[np.flatnonzero(np.diff(ordered)), len(score) - 1] if len(score) else np.zeros(0, np.int64)

    def _curves(self, weights: FloatArray | None) -> tuple[FloatArray, FloatArray]:
        """Return the weight of true and of false alarms at each threshold, from the highest score down."""
        weight = np.ones(len(self._order)) if weights is None else weights[self._order]
        hits = np.cumsum(weight * self._truth)[self._ends]
        alarms = np.cumsum(weight * (1 - self._truth))[self._ends]
        return hits, alarms

    def average_precision(self, weights: FloatArray | None = None) -> float | None:
        """Return the area under the precision-recall steps, without interpolation; None without a positive."""
        return _step_area(*self._curves(weights))

    def auroc(self, weights: FloatArray | None = None) -> float | None:
        """Return the chance that a positive outranks a negative, ties counted half; None without both kinds."""
        return _roc_area(*self._curves(weights))

    def recall_at_fpr(self, limit: float, weights: FloatArray | None = None) -> float | None:
        """Return the best recall whose false-positive rate is at most `limit`; None without both kinds."""
        return _best_recall(*self._curves(weights), limit)

    def summary(self, limits: Sequence[float], weights: FloatArray | None = None) -> dict[str, float | None]:
        """Return all of the above by name, on one pass: a bootstrap asks for them a thousand times."""
        hits, alarms = self._curves(weights)
        found = {"average_precision": _step_area(hits, alarms), "auroc": _roc_area(hits, alarms)}
        return found | {f"recall_at_fpr_{limit:g}": _best_recall(hits, alarms, limit) for limit in limits}

    def precision_recall_trapezoid(self) -> float | None:
        """Return the area under straight lines between the precision-recall points, from recall 0 at precision 1.

        This is what `auc(recall, precision)` of scikit-learn gives, and what SafeWatch and XD-Violence report. Straight
        lines flatter: a constant score on 5 positives and 1 negative gets 0.917, where average precision gives 0.833.
        Without a positive the recall counts as 1, which yields 0.5, as there. None for no clips.
        """
        hits, alarms = self._curves(None)
        if not len(hits):
            return None
        recall = hits / hits[-1] if hits[-1] > 0 else np.ones(len(hits))
        precision = _precision(hits, alarms)
        return float(np.trapezoid(np.r_[1.0, precision], np.r_[0.0, recall]))


def _step_area(hits: FloatArray, alarms: FloatArray) -> float | None:
    if not len(hits) or hits[-1] <= 0:
        return None
    steps = np.diff(hits, prepend=0.0) / hits[-1]
    return float(np.sum(steps * _precision(hits, alarms)))


def _roc_area(hits: FloatArray, alarms: FloatArray) -> float | None:
    """Trapezoids between the thresholds, the first from the origin."""
    if not len(hits) or hits[-1] <= 0 or alarms[-1] <= 0:
        return None
    width, middle = np.diff(alarms, prepend=0.0), hits.copy()
    middle[1:] += hits[:-1]
    return float(width @ middle / 2 / (hits[-1] * alarms[-1]))


def _best_recall(hits: FloatArray, alarms: FloatArray, limit: float) -> float | None:
    if not len(hits) or hits[-1] <= 0 or alarms[-1] <= 0:
        return None
    # alarms only grow from one threshold to the next, and hits with them: the last one allowed is the best
    allowed = int(np.searchsorted(alarms, (limit + 1e-12) * alarms[-1], side="right"))
    return float(hits[allowed - 1] / hits[-1]) if allowed else 0.0


def _precision(hits: FloatArray, alarms: FloatArray) -> FloatArray:
    """Return precision at each threshold, 0 where nothing with weight lies above it: such a step has no width."""
    total = hits + alarms
    return np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)


def average_precision(truth: BoolArray, score: FloatArray) -> float | None:
    """Return the area under the precision-recall steps; `truth` bool [N], `score` float [N]."""
    return Ranked(truth, score).average_precision()


def auroc(truth: BoolArray, score: FloatArray) -> float | None:
    """Return the area under the receiver operating characteristic; `truth` bool [N], `score` float [N]."""
    return Ranked(truth, score).auroc()


def recall_at_fpr(truth: BoolArray, score: FloatArray, limit: float) -> float | None:
    """Return the best recall at a false-positive rate of at most `limit`; `truth` bool [N], `score` float [N]."""
    return Ranked(truth, score).recall_at_fpr(limit)
