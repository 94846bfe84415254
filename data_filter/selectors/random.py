"""Uniform random picks, or balanced over strata: the controls that a selection must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import coverage
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection, selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    balanced: bool = False
    """The same number from every stratum, as far as it has rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Ignores the scores."""

    config: Config
    name: str = "random"

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
        """Pick `budget` rows at random."""
        rows = np.random.default_rng(seed).permutation(coverage.admissible(scores, budget, allowed, pool, self.name))
        if not self.config.balanced:
            return selection(rows[:budget], "drawn at random", self.name)
        groups = coverage.by_stratum(pool.strata(), rows)
        counts = coverage.shares([len(g) for g in groups.values()], budget, 0, balanced=True)
        picked = coverage.interleaved([group[:n] for group, n in zip(groups.values(), counts, strict=True)])
        return selection(picked, "drawn at random within its stratum", self.name)


def build(config: Config) -> Random:
    """Build the selector."""
    return Random(config=config)


def tiny() -> Random:
    """Build the selector as tests use it."""
    return build(Config())
