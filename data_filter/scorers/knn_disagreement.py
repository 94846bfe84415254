"""Disagreement of an example's label with those of its nearest neighbours: no training, and among the best flags for
wrong labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import linear, neighbours
from data_filter.types import FeatureView, ScoreMatrix
from guard.types import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    k: int = 10
    exclude_same_group: bool = True
    """Cuts of one video share a label, so their vote says nothing."""
    seed: int = 0
    """Of the reference sample where there are more than 20,000 rows."""

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", "at least 1", self.k)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnDisagreement:
    """Minus the largest gap, over categories, between the label and the neighbours' vote: in [-1, 0]."""

    config: Config
    name: str = "knn_disagreement"
    signed: bool = False
    uses_queries: bool = False

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, 1]; needs embeddings."""
        groups = train.groups if self.config.exclude_same_group else ()
        found = neighbours.nearest(
            train.need_embeddings(self.name), min(self.config.k, len(train) - 1), groups=groups, seed=self.config.seed
        )
        gap = np.abs(neighbours.vote(found, train.targets) - train.targets).max(axis=1)
        return linear.self_column(train, -gap, self.name)


def build(config: Config) -> KnnDisagreement:
    """Build the scorer."""
    return KnnDisagreement(config=config)


def tiny() -> KnnDisagreement:
    """Build the scorer as tests use it."""
    return build(Config(k=5))
