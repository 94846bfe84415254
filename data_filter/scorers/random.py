"""Random scores: the control that every comparison needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    seed: int = 0
    """Another seed, another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """A number in (-1, 1) from the hash of (seed, id): the same for an example wherever it stands in the list."""

    config: Config
    name: str = "random"
    signed: bool = False
    uses_queries: bool = False

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, 1]."""
        numbers = [hashlib.sha256(f"{self.config.seed}/{i}".encode()).digest()[:8] for i in train.ids]
        values = np.array([int.from_bytes(n, "little") for n in numbers]) / 2.0**63 - 1.0
        return linear.self_column(train, values, self.name)


def build(config: Config) -> Random:
    """Build the scorer."""
    return Random(config=config)


def tiny() -> Random:
    """Build the scorer as tests use it."""
    return build(Config())
