"""LESS (arXiv 2402.04333): cosine between the step Adam would take on an example and the plain gradient of a query.

Two things differ from the published recipe, both because they spoil the choice: the step is Adam's as published
(bias corrected, epsilon outside the root), and groups are columns of the result, so that no maximum over sub-tasks
is taken before selection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Less:
    """sum_t w_t mean_q cos(Gamma_t(z), g_t(q))."""

    name: str = "less"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs the Adam view of the training rows and plain gradients of the queries."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        view, query_view = train.need_gradients(self.name, adam=True), asked.need_gradients(self.name)
        values = np.zeros((len(train), len(names)))
        for weight, mine, theirs in zip(view.weights(), view.checkpoints, query_view.checkpoints, strict=True):
            linear.check_same_space(mine.rows, theirs.rows, self.name)
            directions = linear.group_means(theirs.rows, averaging, normalise=True)
            values += weight * linear.project(mine.rows, directions, normalise=True)
        return linear.matrix(train, names, values, self.name, signed=True)


def build(config: Config) -> Less:
    """Build the scorer."""
    return Less()


def tiny() -> Less:
    """Build the scorer as tests use it."""
    return build(Config())
