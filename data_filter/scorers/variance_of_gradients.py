"""Variance of gradients (arXiv 2008.11600): how much the gradient with respect to the *input* changes over checkpoints.

High means hard for its class. As a flag for wrong labels it was worse than chance in our comparison: do not use it
for that.
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
class VarianceOfGradients:
    """Deviation of the input gradient over checkpoints, standardised within the row's stratum: hard examples score
    high."""

    name: str = "variance_of_gradients"
    signed: bool = False
    uses_queries: bool = False

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, 1]; needs `input_gradient_variance` [N]."""
        raw = train.need_aux("input_gradient_variance", self.name).astype(np.float64)
        strata = np.array(train.strata())
        values = np.zeros(len(train))
        for stratum in np.unique(strata):
            mine = strata == stratum
            spread = raw[mine].std()
            values[mine] = (raw[mine] - raw[mine].mean()) / (spread if spread > 0 else 1.0)
        return linear.self_column(train, values, self.name)


def build(config: Config) -> VarianceOfGradients:
    """Build the scorer."""
    return VarianceOfGradients()


def tiny() -> VarianceOfGradients:
    """Build the scorer as tests use it."""
    return build(Config())
