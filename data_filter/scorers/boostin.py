"""BoostIn (JMLR 2023, "Adapting and evaluating influence-estimation methods for gradient-boosted decision trees").

In every tree, an example moves the value of its own leaf; a query feels it where it falls into the same leaf. Summed
over trees: lr x (residual of z) x (residual of q) / (weight of the leaf), where both share the leaf. One small
booster per category, on embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, Float64Array, Int64Array, ScoreMatrix
from guard.plugins import missing_extra
from guard.types import Float32Array, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the booster."""

    trees: int = 30
    depth: int = 3
    learning_rate: float = 0.2
    l2: float = 1.0
    """Added to a leaf's weight."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.trees > 0 and self.depth > 0, "trees and depth", "positive", (self.trees, self.depth))


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostIn:
    """sum over categories and trees of the leaf-sharing product of residuals."""

    config: Config
    name: str = "boostin"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs embeddings and labels of both sides, and scikit-learn."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        x, qx = train.need_embeddings(self.name), asked.need_embeddings(self.name)
        values = np.zeros((len(train), len(names)))
        for c in range(len(train.categories)):
            if 0 < train.targets[:, c].sum() < len(train):
                values += self._category(x, train.targets[:, c], qx, asked.targets[:, c], averaging)
        return linear.matrix(train, names, values, self.name, signed=True)

    def _category(
        self, x: Float32Array, y: Float32Array, qx: Float32Array, qy: Float32Array, averaging: Float32Array
    ) -> Float64Array:
        try:
            from sklearn.tree import DecisionTreeRegressor
        except ModuleNotFoundError as error:
            raise missing_extra("The scorer 'boostin'", "sklearn") from error
        config = self.config
        prior = float(np.clip(y.mean(), 1e-6, 1 - 1e-6))
        raw = np.full(len(y), np.log(prior / (1 - prior)))
        query_raw = np.full(len(qy), raw[0])
        values = np.zeros((len(y), averaging.shape[0]))
        for t in range(config.trees):
            p, qp = 1 / (1 + np.exp(-raw)), 1 / (1 + np.exp(-query_raw))
            residual, query_residual, weight = y - p, qy - qp, p * (1 - p)
            tree = DecisionTreeRegressor(max_depth=config.depth, random_state=config.seed + t).fit(x, residual)
            leaf, query_leaf = tree.apply(x), tree.apply(qx)
            size = tree.tree_.node_count
            heavy = np.bincount(leaf, weights=weight, minlength=size) + config.l2
            step = np.bincount(leaf, weights=residual, minlength=size) / heavy
            # how the value of z's leaf changes with z's weight: its own residual, less what the leaf already says
            moved = config.learning_rate * (residual - step[leaf] * weight) / heavy[leaf]
            values += moved[:, None] * _felt(query_leaf, query_residual, averaging, size)[:, leaf].T
            raw, query_raw = (
                raw + config.learning_rate * step[leaf],
                query_raw + config.learning_rate * step[query_leaf],
            )
        return values


def _felt(query_leaf: Int64Array, residual: Float64Array, averaging: Float32Array, size: int) -> Float64Array:
    """Return [J, leaves]: the mean residual of each query group in each leaf."""
    out = np.zeros((averaging.shape[0], size))
    for q, leaf in enumerate(query_leaf):
        out[:, leaf] += averaging[:, q] * residual[q]
    return out


def build(config: Config) -> BoostIn:
    """Build the scorer."""
    return BoostIn(config=config)


def tiny() -> BoostIn:
    """Build the scorer as tests use it."""
    return build(Config(trees=10))
