"""Outlier gradient analysis (arXiv 2405.03869): harmful examples as outliers among the gradients of the last layer;
no queries.

The norm is the default: in our comparison it beat the isolation forest at every noise level, and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, ScoreMatrix
from guard.errors import UsageError
from guard.plugins import missing_extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    method: Literal["l2", "l1", "forest"] = "l2"
    trees: int = 100
    """Of the isolation forest."""
    sample: int = 256
    """Rows per tree."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierGradients:
    """Minus how far the last layer's gradient lies outside: ordinary gradients score high."""

    config: Config
    name: str = "outlier_gradients"
    signed: bool = False
    uses_queries: bool = False

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, 1]; needs gradients, and scikit-learn for the forest."""
        if self.config.method not in ("l2", "l1", "forest"):
            raise UsageError(f"method must be l2, l1 or forest; got {self.config.method!r}.")
        view = train.need_gradients(self.name)
        layer, rows = view.layers[-1], view.last.rows
        columns = slice(layer.start, layer.stop)
        if self.config.method == "forest":
            return self._forest(train, columns)
        values = np.empty(len(train))
        for at, block in linear.blocks(rows):
            values[at] = np.linalg.norm(block[:, columns], ord=2 if self.config.method == "l2" else 1, axis=1)
        return linear.self_column(train, -values, self.name)

    def _forest(self, train: FeatureView, columns: slice) -> ScoreMatrix:
        try:
            from sklearn.ensemble import IsolationForest
        except ModuleNotFoundError as error:
            raise missing_extra("The isolation forest", "sklearn") from error
        rows = train.need_gradients(self.name).last.rows
        total = rows.shape[0]
        size = min(self.config.sample, total)
        rng = np.random.default_rng(self.config.seed)
        # a tree sees `sample` rows: trees x sample rows hold all that fitting reads, however many rows there are
        drawn = np.sort(rng.choice(total, size=min(total, size * self.config.trees), replace=False))
        forest = IsolationForest(n_estimators=self.config.trees, max_samples=size, random_state=self.config.seed)
        forest.fit(rows[drawn][:, columns])
        values = np.empty(total)
        for at, block in linear.blocks(rows):
            values[at] = forest.score_samples(block[:, columns])
        return linear.self_column(train, values, self.name)


def build(config: Config) -> OutlierGradients:
    """Build the scorer."""
    return OutlierGradients(config=config)


def tiny() -> OutlierGradients:
    """Build the scorer as tests use it."""
    return build(Config())
