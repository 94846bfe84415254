"""Ranking metrics with honest intervals: counts beside every number, and a bootstrap that draws whole groups.

Clips of one camera or one source video fail together. A bootstrap over clips would treat them as independent and report
intervals that are too narrow, so groups are drawn instead, with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard.types import require

Array = NDArray[np.float64]


def auroc(truth: NDArray[np.bool_], score: Array) -> float:
    """Return the probability that a positive outranks a negative, ties counted half; NaN without both kinds.

    `truth` bool [N], `score` float [N].
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # ranks start at 1; tied scores share their mean rank
    return float((mean_rank[place][truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(truth: NDArray[np.bool_], score: Array) -> float:
    """Return the area under the precision-recall steps (no interpolation); NaN without a positive."""
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.r_[np.flatnonzero(np.diff(score[order])), len(score) - 1]  # equal scores enter together
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


def recall_at_fpr(truth: NDArray[np.bool_], score: Array, limit: float = 0.05) -> float:
    """Return the best recall whose false-positive rate is at most `limit`; NaN without both kinds."""
    if not truth.any() or truth.all():
        return float("nan")
    negatives = np.sort(score[~truth])[::-1]
    allowed = int(np.floor(limit * len(negatives) + 1e-9))
    threshold = negatives[allowed] if allowed < len(negatives) else -np.inf
    return float(np.mean(score[truth] > threshold))


METRICS: dict[str, Callable[[NDArray[np.bool_], Array], float]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "recall_at_5_fpr": recall_at_fpr,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One metric of one category: the value, its interval, and how much data stands behind it."""

    value: float
    low: float
    """2.5 % point of the group bootstrap."""
    high: float
    """97.5 % point of the group bootstrap."""
    positives: int
    negatives: int
    groups: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields as JSON values; NaN becomes None."""
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    metric: Callable[[NDArray[np.bool_], Array], float],
    truth: NDArray[np.bool_],
    score: Array,
    groups: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Return `metric` with a 95 % group-clustered bootstrap interval.

    `truth` bool [N], `score` float [N], `groups` N names. Draws without both kinds are left out of the interval.
    """
    require(len(truth) == len(score) == len(groups), "lengths", "equal", (len(truth), len(score), len(groups)))
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(member == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws if len(names) > 1 else 0):
        drawn = np.concatenate([members[index] for index in rng.integers(0, len(names), len(names))])
        values.append(metric(truth[drawn], score[drawn]))
    kept = np.asarray([value for value in values if not np.isnan(value)])
    low, high = (float(q) for q in np.percentile(kept, [2.5, 97.5])) if len(kept) else (float("nan"),) * 2
    return Estimate(
        value=metric(truth, score),
        low=low,
        high=high,
        positives=int(truth.sum()),
        negatives=int((~truth).sum()),
        groups=len(names),
    )


def table(
    categories: Sequence[str],
    truth: NDArray[np.bool_],
    score: Array,
    groups: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Return every metric of every category: `truth` bool [N, C], `score` float [N, C]."""
    return {
        category: {
            name: estimate(metric, truth[:, column], score[:, column], groups, draws=draws, seed=seed)
            for name, metric in METRICS.items()
        }
        for column, category in enumerate(categories)
    }


def table_json(estimates: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    """Return `table`'s result as JSON values."""
    return {c: {name: value.as_dict() for name, value in row.items()} for c, row in estimates.items()}
