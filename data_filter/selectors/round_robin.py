"""Each query group in turn takes its best row that is still free: scores of two groups are never compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import coverage
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobin:
    """One pick per column, again and again."""

    name: str = "round_robin"

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
        # a column gives at most `budget` rows, so no more of its order is ever read
        queues = [iter(coverage.ranked(column, rows)[:budget]) for column in scores.values.T]
        picked: dict[int, str] = {}
        while len(picked) < budget:
            for j, queue in enumerate(queues):
                free = next((int(i) for i in queue if int(i) not in picked), None)
                if free is not None and len(picked) < budget:
                    picked[free] = f"best free row for {scores.columns[j]}"
        indices = np.array(list(picked), dtype=np.int64)
        return Selection(indices=indices, reasons=tuple(picked.values()), selector=self.name)


def build(config: Config) -> RoundRobin:
    """Build the selector."""
    return RoundRobin()


def tiny() -> RoundRobin:
    """Build the selector as tests use it."""
    return build(Config())
