"""A share of the budget for every stratum, the best-scored rows within each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_filter import coverage
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection, selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    share: Literal["balanced", "proportional"] = "balanced"
    """The same for every stratum, or by its size."""
    floor: int = 1
    """At least this many of every stratum, as far as it has rows."""
    by: Literal["stratum", "group"] = "stratum"
    """What to be fair to: label sets, or source groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Within a stratum, rows rank by the score column of that name where there is one, else by their mean score."""

    config: Config
    name: str = "quota"

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
        """Pick `budget` rows. Raises `UsageError` where the floors alone exceed it."""
        rows = coverage.admissible(scores, budget, allowed, pool, self.name)
        names = pool.strata() if self.config.by == "stratum" else (pool.groups or pool.strata())
        groups = coverage.by_stratum(names, rows)
        balanced = self.config.share == "balanced"
        counts = coverage.shares([len(g) for g in groups.values()], budget, self.config.floor, balanced=balanced)
        means = scores.mean()
        picked = []
        for (name, group), count in zip(groups.items(), counts, strict=True):
            own = scores.values[:, scores.columns.index(name)] if name in scores.columns else means
            picked.append(coverage.ranked(own, group)[:count])
        return selection(coverage.interleaved(picked), lambda i: f"among the best of {names[i]}", self.name)


def build(config: Config) -> Quota:
    """Build the selector."""
    return Quota(config=config)


def tiny() -> Quota:
    """Build the selector as tests use it."""
    return build(Config())
