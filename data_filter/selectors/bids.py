"""BIDS-like balance (after arXiv 2501.12147; no public code, so the update is our reading): serve the worst-served
query group next.

Columns are standardised, and each pick is argmax_i max_j (Z_ij - mean of Z_kj over the rows k picked so far). For a
fixed column the best free row is simply its next in order, so a pick costs J comparisons, not N x J.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import coverage
from data_filter.types import BoolArray, FeatureView, ScoreMatrix, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    floor: int = 0
    """First take this many of every stratum by mean score: the rule itself can leave rare classes empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bids:
    """Wants columns that are groups (classes, policies), not single queries: those drown the balance in noise."""

    config: Config
    name: str = "bids"

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
        z = scores.standardised().astype(np.float64)
        picked: dict[int, str] = {}
        for name, group in coverage.by_stratum(pool.strata(), rows).items() if self.config.floor else ():
            for i in coverage.ranked(z.mean(axis=1), group)[: self.config.floor]:
                picked[int(i)] = f"floor of {name}"
        indices = list(picked)[:budget]
        picked = {i: picked[i] for i in indices}
        total = z[indices].sum(axis=0)
        orders = [coverage.ranked(column, rows) for column in z.T]
        heads = [0] * len(orders)
        while len(picked) < budget:
            for j, order in enumerate(orders):
                while int(order[heads[j]]) in picked:
                    heads[j] += 1
            mean = total / max(len(picked), 1)
            lead = [z[order[heads[j]], j] - mean[j] for j, order in enumerate(orders)]
            j = int(np.argmax(lead))
            best = int(orders[j][heads[j]])
            picked[best] = f"serves {scores.columns[j]}, the worst served so far"
            total += z[best]
        return Selection(
            indices=np.array(list(picked), dtype=np.int64), reasons=tuple(picked.values()), selector=self.name
        )


def build(config: Config) -> Bids:
    """Build the selector."""
    return Bids(config=config)


def tiny() -> Bids:
    """Build the selector as tests use it."""
    return build(Config())
