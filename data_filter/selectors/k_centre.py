"""k-centre (core-set, arXiv 1708.00489): each pick is the row furthest from everything kept. Loves outliers: audit
first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import coverage
from data_filter.coverage import Space
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection, selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    space: Space = "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class KCentre:
    """Starts at the best-scored row; within twice the smallest possible radius."""

    config: Config
    name: str = "k_centre"

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
        points = coverage.space_rows(pool, self.config.space, self.name)[rows]
        picked = [int(np.argmax(scores.mean()[rows]))]
        near = points @ points[picked[0]]
        near[picked[0]] = np.inf  # never again, though a duplicate of it may come last
        while len(picked) < budget:
            best = int(np.argmin(near))
            picked.append(best)
            near = np.maximum(near, points @ points[best])
            near[best] = np.inf
        return selection(rows[np.array(picked)], "furthest from everything kept before it", self.name)


def build(config: Config) -> KCentre:
    """Build the selector."""
    return KCentre(config=config)


def tiny() -> KCentre:
    """Build the selector as tests use it."""
    return build(Config())
