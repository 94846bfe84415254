"""Facility location: keep rows such that every row has a kept one near it. Needs no queries; the scores are an
optional bonus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_filter import coverage
from data_filter.coverage import Space
from data_filter.types import BoolArray, FeatureView, Int64Array, ScoreMatrix, Selection, selection
from guard.types import Float32Array, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    space: Space = "embeddings"
    cover: str = "pool"
    """What must be covered: the `pool` (what may be kept), or the `queries`."""
    score_weight: float = 0.0
    """Worth of one standard deviation of mean score, as a share of the mean coverage gain of one pick."""
    witnesses: int = 4096
    """Rows that stand for all the rows to cover."""
    share: Literal["none", "balanced", "proportional"] = "balanced"
    """Split the budget over label sets first, and cover each with its own rows; `none` covers everything at once."""
    exact_entries: int = 1 << 25
    """Up to this many similarities greedy is exact; beyond, each step looks at a sample of the candidates."""

    def __post_init__(self) -> None:
        require(self.cover in ("pool", "queries"), "cover", "'pool' or 'queries'", self.cover)
        require(
            self.share in ("none", "balanced", "proportional"), "share", "none, balanced or proportional", self.share
        )
        require(self.score_weight >= 0, "score_weight", "zero or more", self.score_weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class FacilityLocation:
    """Greedy maximum of sum_w max_{j kept} cos+(w, j)."""

    config: Config
    name: str = "facility_location"

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
        """Pick `budget` rows, each adding most to the coverage."""
        rows = coverage.admissible(scores, budget, allowed, pool, self.name)
        rng = np.random.default_rng(seed)
        points = coverage.space_rows(pool, self.config.space, self.name)
        asked = None
        if self.config.cover == "queries":
            asked = coverage.space_rows(_given(queries), self.config.space, self.name)
        means = scores.mean()
        if self.config.share == "none":
            picked = self._cover(points, asked, rows, budget, means, rng)
        else:
            groups = list(coverage.by_stratum(pool.strata(), rows).values())
            counts = coverage.shares([len(g) for g in groups], budget, 0, balanced=self.config.share == "balanced")
            parts = [self._cover(points, asked, g, n, means, rng) for g, n in zip(groups, counts, strict=True) if n]
            picked = coverage.interleaved(parts)
        return selection(picked, f"covers rows of the {self.config.cover} that nothing kept was near", self.name)

    def _cover(
        self,
        points: Float32Array,
        asked: Float32Array | None,
        rows: Int64Array,
        budget: int,
        means: Float32Array,
        rng: np.random.Generator,
    ) -> Int64Array:
        """Return the picks among `rows` that cover them, or the queries."""
        candidates = points[rows]
        source = candidates if asked is None else asked
        witness = source[coverage.witnesses(len(source), self.config.witnesses, rng)]
        bonus = self._bonus(means[rows], len(witness), budget)
        if len(witness) * len(rows) <= self.config.exact_entries:
            return rows[coverage.greedy_coverage(np.maximum(witness @ candidates.T, 0), budget, bonus)]
        return rows[coverage.stochastic_coverage(witness, candidates, budget, bonus, rng)]

    def _bonus(self, values: Float32Array, witnesses: int, budget: int) -> Float32Array:
        means = values.astype(np.float64)
        spread = means.std()
        z = (means - means.mean()) / (spread if spread > 0 else 1.0)
        # rows of one pick cover about witnesses / budget others
        bonus: Float32Array = (self.config.score_weight * z * witnesses / budget).astype(np.float32)
        return bonus


def _given(queries: FeatureView | None) -> FeatureView:
    from data_filter.linear import require_queries

    return require_queries(queries, "facility_location")


def build(config: Config) -> FacilityLocation:
    """Build the selector."""
    return FacilityLocation(config=config)


def tiny() -> FacilityLocation:
    """Build the selector as tests use it."""
    return build(Config())
