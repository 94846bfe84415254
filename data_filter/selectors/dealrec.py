"""DEALRec-like (after arXiv 2401.17197): influence plus effort, drawn evenly over bins of their sum.

Effort is how much the model would have to learn from the row: the norm of its gradient. Both enter as ranks (a
minimum and a maximum would hand the scale to one outlier). The hardest share is cut first; then the smallest bin is
filled first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import coverage
from data_filter.selectors.fifa import rank
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection, selection
from guard.types import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    effort: float = 0.5
    """Weight of effort against influence."""
    bins: int = 25
    cut: float = 0.1
    """Share of the admissible rows with the highest effort that is never taken, as far as the budget allows."""

    def __post_init__(self) -> None:
        require(0 <= self.cut < 1 and self.bins >= 1, "cut and bins", "in [0, 1) and at least 1", (self.cut, self.bins))


@dataclass(frozen=True, slots=True, kw_only=True)
class DealRec:
    """Needs `norm`, the gradient norms at the checkpoints."""

    config: Config
    name: str = "dealrec"

    def select(
        self,
        scores: ScoreMatrix,
        budget: int,
        *,
        pool: FeatureView,
        queries: FeatureView | None = None,
        allowed: BoolArray | None = None,
        seed: int = 0,
    ) -> Selection:
        """Pick `budget` rows."""
        rows = coverage.admissible(scores, budget, allowed, pool, self.name)
        effort = pool.need_aux("norm", self.name)[:, -1]
        keep = max(budget, len(rows) - int(self.config.cut * len(rows)))
        rows = np.sort(rows[np.argsort(effort[rows], kind="stable")[:keep]])
        total = rank(scores.mean()) + self.config.effort * rank(effort)
        low, high = float(total[rows].min()), float(total[rows].max())
        width = max(high - low, 1e-12) / self.config.bins
        which = np.minimum(((total[rows] - low) / width).astype(np.int64), self.config.bins - 1)
        rng = np.random.default_rng(seed)
        bins = sorted((rng.permutation(rows[which == b]) for b in np.unique(which)), key=len)
        picked: list[int] = []
        for i, members in enumerate(bins):
            quota = -(-(budget - len(picked)) // (len(bins) - i))
            picked.extend(int(row) for row in members[:quota])
        return selection(picked[:budget], lambda i: f"bin of influence + effort around {total[i]:.2f}", self.name)


def build(config: Config) -> DealRec:
    """Build the selector."""
    return DealRec(config=config)


def tiny() -> DealRec:
    """Build the selector as tests use it."""
    return build(Config(bins=5))
