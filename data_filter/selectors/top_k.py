"""The highest mean scores. A baseline: at small budgets it collapses onto a few classes and loses to random picks."""

from __future__ import annotations

from dataclasses import dataclass

from data_filter import coverage
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection, selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Highest mean over the query groups first."""

    name: str = "top_k"

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
        """Pick the `budget` best."""
        rows = coverage.admissible(scores, budget, allowed, pool, self.name)
        means = scores.mean()
        return selection(coverage.ranked(means, rows)[:budget], lambda i: f"mean score {means[i]:.4g}", self.name)


def build(config: Config) -> TopK:
    """Build the selector."""
    return TopK()


def tiny() -> TopK:
    """Build the selector as tests use it."""
    return build(Config())
