"""Gradient inner product at the last checkpoint: what one small step on the example does to the query loss."""

from __future__ import annotations

from dataclasses import dataclass

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradDot:
    """<g(z), mean g(q)>. Long gradients dominate: prefer `grad_cos` or `fisher` for choosing."""

    name: str = "grad_dot"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs gradients of both sides."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        rows, targets = train.need_gradients(self.name).last.rows, asked.need_gradients(self.name).last.rows
        linear.check_same_space(rows, targets, self.name)
        values = linear.project(rows, linear.group_means(targets, averaging))
        return linear.matrix(train, names, values, self.name, signed=True)


def build(config: Config) -> GradDot:
    """Build the scorer."""
    return GradDot()


def tiny() -> GradDot:
    """Build the scorer as tests use it."""
    return build(Config())
