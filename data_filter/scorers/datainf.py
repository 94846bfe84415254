"""DataInf (arXiv 2310.00902): closed-form influence that swaps the mean over examples with the inverse, layer by layer.

For a layer with gradients g_i and damping l = share x mean squared entry, H^-1 v is taken as
(1 / n l) sum_i (v - <g_i, v> / (l + |g_i|^2) g_i): two passes over the rows and memory of one row per query group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, Float64Array, Layer, Rows, ScoreMatrix
from guard.types import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    damping: float = 0.1
    """Share of a layer's mean squared gradient entry. Zero would divide by zero, and is refused."""

    def __post_init__(self) -> None:
        require(self.damping > 0, "damping", "positive", self.damping)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInf:
    """sum over layers of <H^-1 mean g(q), g(z)> at the last checkpoint."""

    config: Config
    name: str = "datainf"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs gradients of both sides."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        view = train.need_gradients(self.name)
        rows, targets = view.last.rows, asked.need_gradients(self.name).last.rows
        linear.check_same_space(rows, targets, self.name)
        directions = linear.group_means(targets, averaging)
        solved = np.zeros_like(directions)
        damping = self._damping(rows, view.layers)
        for layer, amount in zip(view.layers, damping, strict=True):
            at = slice(layer.start, layer.stop)
            solved[:, at] = _inverse(rows, at, amount, directions[:, at])
        return linear.matrix(train, names, linear.project(rows, solved), self.name, signed=True)

    def _damping(self, rows: Rows, layers: tuple[Layer, ...]) -> list[float]:
        totals = np.zeros(len(layers))
        for _, block in linear.blocks(rows):
            totals += [
                np.square(block[:, layer.start : layer.stop], dtype=np.float64).mean(axis=1).sum() for layer in layers
            ]
        return [max(self.config.damping * total / rows.shape[0], 1e-30) for total in totals]


def _inverse(rows: Rows, at: slice, damping: float, directions: Float64Array) -> Float64Array:
    taken = np.zeros_like(directions)
    for _, block in linear.blocks(rows):
        part = block[:, at].astype(np.float64)
        coefficient = (part @ directions.T) / (damping + np.square(part).sum(axis=1, keepdims=True))
        taken += coefficient.T @ part
    solved: Float64Array = (directions - taken / rows.shape[0]) / damping
    return solved


def build(config: Config) -> DataInf:
    """Build the scorer."""
    return DataInf(config=config)


def tiny() -> DataInf:
    """Build the scorer as tests use it."""
    return build(Config())
