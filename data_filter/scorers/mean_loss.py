"""Mean loss over the checkpoints of one training run: high for examples that the model learns late or never.

Finds single wrong labels well. Where all cuts of a clip carry the same wrong label, the head learns it by heart and
the loss forgets.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanLoss:
    """Minus the mean loss: examples that are easy to learn score high."""

    name: str = "mean_loss"
    signed: bool = False
    uses_queries: bool = False

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, 1]; needs `loss` [N, T]."""
        return linear.self_column(train, -train.need_aux("loss", self.name).mean(axis=1), self.name)


def build(config: Config) -> MeanLoss:
    """Build the scorer."""
    return MeanLoss()


def tiny() -> MeanLoss:
    """Build the scorer as tests use it."""
    return build(Config())
