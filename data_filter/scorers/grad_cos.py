"""Gradient cosine at the last checkpoint: as `grad_dot`, with the length of gradients taken out.

The score of an example with itself is always one, so it says nothing about mislabelled examples.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradCos:
    """Mean over a group's queries of cos(g(z), g(q))."""

    name: str = "grad_cos"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J] in [-1, 1]; needs gradients of both sides."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        rows, targets = train.need_gradients(self.name).last.rows, asked.need_gradients(self.name).last.rows
        linear.check_same_space(rows, targets, self.name)
        values = linear.project(rows, linear.group_means(targets, averaging, normalise=True), normalise=True)
        return linear.matrix(train, names, values, self.name, signed=True)


def build(config: Config) -> GradCos:
    """Build the scorer."""
    return GradCos()


def tiny() -> GradCos:
    """Build the scorer as tests use it."""
    return build(Config())
