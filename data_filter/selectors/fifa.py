"""FiFA-like (after arXiv 2410.10166): margin + quality + diversity as one number per row, then the top.

The published terms are a preference margin, a text quality and the entropy of a kNN graph, with weights that are not
public. Here: the model's margin on the label (an easy, clearly labelled row), the mean score as quality, and the log
distance to the k-th nearest neighbour (a row in a thin region adds entropy). All three as ranks in [0, 1], so that
no scale dominates. The top of the sum is taken within each stratum: over all of them it collapses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import coverage, neighbours
from data_filter.types import BoolArray, FeatureView, Float64Array, ScoreMatrix, Selection, selection
from guard.types import Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    margin: float = 1.0
    quality: float = 1.0
    diversity: float = 1.0
    k: int = 10
    per_stratum: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifa:
    """Weighted sum of three ranks; needs `margin` and embeddings."""

    config: Config
    name: str = "fifa"

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
        k = min(self.config.k, len(pool) - 1)
        found = neighbours.nearest(pool.need_embeddings(self.name), k, seed=seed)
        parts = (
            (self.config.margin, pool.need_aux("margin", self.name)[:, -1]),
            (self.config.quality, scores.mean()),
            (self.config.diversity, np.log(np.maximum(1.0 - found.cosine[:, -1], 1e-6))),
        )
        total = sum((weight * rank(values) for weight, values in parts), start=np.zeros(len(pool)))
        if not self.config.per_stratum:
            return selection(coverage.ranked(total, rows)[:budget], lambda i: f"rank sum {total[i]:.3f}", self.name)
        groups = coverage.by_stratum(pool.strata(), rows)
        counts = coverage.shares([len(g) for g in groups.values()], budget, 0, balanced=True)
        picked = [coverage.ranked(total, g)[:n] for g, n in zip(groups.values(), counts, strict=True)]
        return selection(coverage.interleaved(picked), lambda i: f"rank sum {total[i]:.3f} in its stratum", self.name)


def rank(values: Float64Array | Float32Array) -> Float64Array:
    """Return ranks in [0, 1], equal values sharing their mean rank."""
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count + 1) / 2
    found: Float64Array = middle[which] / max(len(values) - 1, 1)
    return found


def build(config: Config) -> Fifa:
    """Build the selector."""
    return Fifa(config=config)


def tiny() -> Fifa:
    """Build the selector as tests use it."""
    return build(Config(k=5))
