"""Quad-like (after arXiv 2409.16986): a bandit over clusters, for when scores are dear and only a few rows per
cluster can be probed.

Each round takes the cluster with the highest upper confidence bound on its mean score, probes a few of its rows, and
keeps a batch of it while the mean stays above the pool's. `facts["probed"]` says how many scores were read: what a
lazy scorer would have paid for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from data_filter import coverage
from data_filter.coverage import Space
from data_filter.types import BoolArray, FeatureView, Int64Array, ScoreMatrix, Selection
from guard.types import Float32Array, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    clusters: int = 0
    """0 takes the square root of the number of rows."""
    probes: int = 5
    """Rows whose scores are read each time a cluster is drawn."""
    exploration: float = 0.5
    """Weight of the confidence bound, in standard deviations of the probed scores."""
    batch: float = 0.05
    """Share of the budget taken from a cluster at once."""
    space: Space = "embeddings"

    def __post_init__(self) -> None:
        require(self.probes >= 1 and 0 < self.batch <= 1, "probes and batch", "at least 1 and in (0, 1]", self.batch)


@dataclass(slots=True)
class _Arm:
    left: list[int]
    probed: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quad:
    """UCB over k-means clusters."""

    config: Config
    name: str = "quad"

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
        rng = np.random.default_rng(seed)
        points = coverage.space_rows(pool, self.config.space, self.name)[rows]
        which = coverage.k_means(points, self.config.clusters or max(2, round(math.sqrt(len(rows)))), rng)
        arms = [_Arm(left=rng.permutation(rows[which == c]).tolist(), probed=[]) for c in np.unique(which)]
        means = scores.mean()
        size = max(1, round(self.config.batch * budget))
        picked: dict[int, str] = {}
        while len(picked) < budget:
            arm = self._next(arms, means)
            take = min(size, len(arm.left), budget - len(picked))
            reward = float(np.mean(arm.probed))
            # probed rows are known: of the batch and the probes, the best go in
            for row in self._best(arm, take, means):
                picked[row] = f"from a cluster with mean probed score {reward:.4g}"
        probed = sum(len(arm.probed) for arm in arms)
        return Selection(
            indices=np.array(list(picked), dtype=np.int64),
            reasons=tuple(picked.values()),
            selector=self.name,
            facts=MappingProxyType({"probed": float(probed), "clusters": float(len(arms))}),
        )

    def _next(self, arms: list[_Arm], means: Float32Array) -> _Arm:
        alive = [arm for arm in arms if arm.left]
        new = next((arm for arm in alive if not arm.probed), None)
        if new is None:
            every = np.concatenate([arm.probed for arm in arms if arm.probed])
            total, spread = len(every), float(every.std())
            new = max(
                alive,
                key=lambda arm: (
                    np.mean(arm.probed)
                    + self.config.exploration * spread * math.sqrt(2 * math.log(total + 1) / len(arm.probed))
                ),
            )
        new.probed.extend(float(means[row]) for row in new.left[: self.config.probes])
        return new

    def _best(self, arm: _Arm, take: int, means: Float32Array) -> Int64Array:
        probes = sorted(arm.left[: self.config.probes], key=lambda row: (-float(means[row]), row))
        chosen = (probes + arm.left[self.config.probes :])[:take]
        gone = set(chosen)
        arm.left = [row for row in arm.left if row not in gone]
        return np.array(chosen, dtype=np.int64)


def build(config: Config) -> Quad:
    """Build the selector."""
    return Quad(config=config)


def tiny() -> Quad:
    """Build the selector as tests use it."""
    return build(Config(clusters=6))
