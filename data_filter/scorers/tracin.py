"""TracInCP (arXiv 2002.08484): gradient inner products summed over checkpoints, weighted by the learning rate then
in use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    normalise: bool = False
    """Cosine instead of inner product at every checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracIn:
    """sum_t w_t <g_t(z), mean g_t(q)>, the weights w summing to one."""

    config: Config
    name: str = "tracin"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs gradients of both sides at the same checkpoints."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        view, query_view = train.need_gradients(self.name), asked.need_gradients(self.name)
        normalise = self.config.normalise
        values = np.zeros((len(train), len(names)))
        for weight, mine, theirs in zip(view.weights(), view.checkpoints, query_view.checkpoints, strict=True):
            linear.check_same_space(mine.rows, theirs.rows, self.name)
            directions = linear.group_means(theirs.rows, averaging, normalise=normalise)
            values += weight * linear.project(mine.rows, directions, normalise=normalise)
        return linear.matrix(train, names, values, self.name, signed=True)


def build(config: Config) -> TracIn:
    """Build the scorer."""
    return TracIn(config=config)


def tiny() -> TracIn:
    """Build the scorer as tests use it."""
    return build(Config())
