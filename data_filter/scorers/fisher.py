"""Influence with the Fisher matrix of the projected gradients, solved exactly.

With K columns the matrix is K x K, a sum over shards, and one Cholesky factor serves every query. Where there are
fewer rows than columns, the same inverse is applied through the N x N Gram matrix (Woodbury). The gradients of drawn
labels give the true Fisher matrix; those of the given labels the empirical one, which is what is left where nobody
drew any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_filter import linear
from data_filter.types import Checkpoint, FeatureView, Float64Array, ScoreMatrix
from guard.types import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    damping: float = 1.0
    """Added to the diagonal, as a share of its mean. Decides the quality; tune it with `data_filter.lds.tune` on a
    query split."""
    labels: Literal["drawn", "given"] = "drawn"
    """Which gradients make the matrix; `drawn` falls back to `given` where the store has none."""
    checkpoints: Literal["last", "all"] = "last"
    """`all` averages over checkpoints, which is worth its time where they are independently trained models."""

    def __post_init__(self) -> None:
        require(self.damping > 0, "damping", "positive", self.damping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fisher:
    """g(z)^T (F + d mean(diag F) I)^-1 mean g(q)."""

    config: Config
    name: str = "fisher"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs gradients of both sides."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        mine, theirs = train.need_gradients(self.name).checkpoints, asked.need_gradients(self.name).checkpoints
        pairs = list(zip(mine, theirs, strict=True))[-1 if self.config.checkpoints == "last" else 0 :]
        values = np.zeros((len(train), len(names)))
        for checkpoint, query in pairs:
            linear.check_same_space(checkpoint.rows, query.rows, self.name)
            solved = self.precondition(checkpoint, linear.group_means(query.rows, averaging))
            values += linear.project(checkpoint.rows, solved) / len(pairs)
        return linear.matrix(train, names, values, self.name, signed=True)

    def precondition(self, checkpoint: Checkpoint, directions: Float64Array) -> Float64Array:
        """Return (F + damping)^-1 applied to each direction [J, K]."""
        drawn = checkpoint.curvature if self.config.labels == "drawn" else None
        return linear.solve_damped(checkpoint.rows if drawn is None else drawn, directions, self.config.damping)


def build(config: Config) -> Fisher:
    """Build the scorer."""
    return Fisher(config=config)


def tiny() -> Fisher:
    """Build the scorer as tests use it."""
    return build(Config())
