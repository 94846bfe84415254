"""Confident learning (arXiv 1911.00068): is another class more probable than the given one, each measured against
its own average?

The threshold of a class is the mean out-of-fold probability of the rows that carry it, so that an over- or
under-confident class does not drown the others. Multi-label rows are judged category by category and take their worst.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import BoolArray, FeatureView, Float64Array, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidentLearning:
    """Adjusted probability of the label minus that of its strongest rival: negative where another label is more
    plausible."""

    name: str = "confident_learning"
    signed: bool = False
    uses_queries: bool = False

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, 1]; needs the out-of-fold `probability` [N, C]."""
        probability = train.need_aux("probability", self.name).astype(np.float64)
        held = train.targets > 0
        if train.loss == "softmax":
            return linear.self_column(train, _margin(probability, held), self.name)
        margins = [
            _margin(np.stack([1 - p, p], axis=1), np.stack([~h, h], axis=1))
            for p, h in zip(probability.T, held.T, strict=True)
        ]
        return linear.self_column(train, np.min(margins, axis=0), self.name)


def _margin(probability: Float64Array, held: BoolArray) -> Float64Array:
    """Return [N] for probabilities [N, K] of exclusive classes and the one-hot label."""
    count = held.sum(axis=0)
    threshold = np.where(count > 0, (probability * held).sum(axis=0) / np.maximum(count, 1), 1.0)
    adjusted = probability - threshold
    rival = np.where(held, -np.inf, adjusted).max(axis=1)
    found: Float64Array = np.where(held, adjusted, 0.0).sum(axis=1) - rival
    return found


def build(config: Config) -> ConfidentLearning:
    """Build the scorer."""
    return ConfidentLearning()


def tiny() -> ConfidentLearning:
    """Build the scorer as tests use it."""
    return build(Config())
