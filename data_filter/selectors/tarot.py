"""TAROT (arXiv 2412.00420): whiten the features, then keep the rows that move the pool closest to the queries in
optimal transport.

Whitening takes out the directions in which everything varies, so that one of them cannot decide; distances are then
between rows of length one. With a budget, each query in turn takes its nearest free row (layer by layer), and the
last, partial layer goes to the rows with the best transport potentials. Without (`estimate`), queries are split in
folds and layers are added while the transport distance to the held-out fold falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from data_filter import coverage
from data_filter.coverage import Space
from data_filter.linear import require_queries
from data_filter.types import BoolArray, FeatureView, Float64Array, Int64Array, ScoreMatrix, Selection
from guard.types import Float32Array, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    space: Space = "gradients"
    """`gradients` of the last checkpoint, or `embeddings`."""
    ridge: float = 1e-2
    """Added to the covariance before whitening, as a share of its mean diagonal."""
    dimensions: int = 256
    """Principal directions kept; whitening noise would only add noise."""
    estimate: bool = False
    """Find the number of layers by held-out transport distance; the budget is then only an upper limit."""
    folds: int = 3
    blur: float = 0.05
    """Entropic regularisation of the transport, as a distance."""

    def __post_init__(self) -> None:
        require(self.ridge > 0 and self.blur > 0, "ridge and blur", "positive", (self.ridge, self.blur))
        require(self.folds >= 2, "folds", "at least 2", self.folds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tarot:
    """Ignores the scores; needs queries and gradients (or embeddings) of both sides."""

    config: Config
    name: str = "tarot"

    def select(
        self,
        scores: ScoreMatrix,
        budget: int,
        *,
        pool: FeatureView,
        queries: FeatureView | None = None,
        allowed: BoolArray | None = None,
        seed: int = 0,
    ) -> Selection:
        """Pick `budget` rows, or with `estimate` as many as the transport distance asks for, at most `budget`."""
        rows = coverage.admissible(scores, budget, allowed, pool, self.name)
        asked = require_queries(queries, self.name)
        raw = coverage.space_rows(pool, self.config.space, self.name)[rows]
        left, right = self._whiten(raw, coverage.space_rows(asked, self.config.space, self.name))
        distance = np.sqrt(np.maximum(2 - 2 * left @ right.T, 0))
        order = _nearest_first(distance, -(-budget // len(asked)) + 1)
        facts = {}
        if self.config.estimate:
            layers = self._layers(distance, order, np.random.default_rng(seed))
            budget = min(budget, len(_layered(order, layers, len(rows))))
            facts = {"layers": float(layers), "ratio": budget / len(rows)}
        picked = self._fill(distance, order, budget)
        reasons = tuple(f"near query {asked.ids[int(np.argmin(distance[i]))]} after whitening" for i in picked)
        return Selection(indices=rows[picked], reasons=reasons, selector=self.name, facts=MappingProxyType(facts))

    def _whiten(self, pool: Float32Array, queries: Float32Array) -> tuple[Float64Array, Float64Array]:
        centre = np.concatenate([pool, queries]).mean(axis=0, dtype=np.float64)
        left, right = pool - centre, queries - centre
        values, vectors, mean = _principal(np.concatenate([left, right]), self.config.dimensions)
        scale = vectors / np.sqrt(values + self.config.ridge * mean)
        return _unit(left @ scale), _unit(right @ scale)

    def _fill(self, distance: Float64Array, order: Int64Array, budget: int) -> Int64Array:
        depth = 0
        while len(_layered(order, depth + 1, len(distance))) <= budget and depth < order.shape[1]:
            depth += 1
        sure = _layered(order, depth, len(distance))
        if len(sure) >= budget:
            return sure[:budget]
        missing = budget - len(sure)
        layer = np.setdiff1d(order[:, depth], sure) if depth < order.shape[1] else np.array([], dtype=np.int64)
        if len(layer) >= missing:
            return np.concatenate([sure, self._best(distance, layer, missing)])
        taken = np.concatenate([sure, layer])
        free = np.setdiff1d(np.arange(len(distance)), taken)
        return np.concatenate([taken, self._best(distance, free, missing - len(layer))])

    def _best(self, distance: Float64Array, candidates: Int64Array, count: int) -> Int64Array:
        """Return the candidates with the best potentials; transport is solved among them alone, which is a layer of
        at most one row per query and not the whole pool."""
        potential = transport(distance[candidates], self.config.blur)[1]
        return candidates[np.argsort(-potential, kind="stable")[:count]]

    def _layers(self, distance: Float64Array, order: Int64Array, rng: np.random.Generator) -> int:
        """Return the number of layers that brings the kept rows closest to queries that did not choose them."""
        folds = rng.permutation(distance.shape[1]) % min(self.config.folds, distance.shape[1])
        costs = np.zeros(order.shape[1])
        for fold in np.unique(folds):
            for depth in range(order.shape[1]):
                kept = _layered(order[folds != fold], depth + 1, len(distance))
                costs[depth] += transport(distance[np.ix_(kept, folds == fold)], self.config.blur)[0]
        return int(np.argmin(costs)) + 1


def _principal(rows: Float64Array, count: int) -> tuple[Float64Array, Float64Array, float]:
    """Return the largest eigenvalues of R^T R / n, their vectors [K, count], and the mean of all K eigenvalues.

    Through the smaller of R^T R and R R^T: gradients have thousands of columns, and a pool may have fewer rows.
    """
    n, width = rows.shape
    mean = float(np.square(rows).sum()) / n / width
    if n >= width:
        values, vectors = np.linalg.eigh(rows.T @ rows / n)
        return np.maximum(values[-count:], 0), vectors[:, -count:], mean
    values, left = np.linalg.eigh(rows @ rows.T / n)
    used = values > 1e-10 * max(float(values[-1]), 1e-30)
    values, left = values[used][-count:], left[:, used][:, -count:]
    return values, rows.T @ left / np.sqrt(n * values), mean


def transport(cost: Float64Array, blur: float, *, rounds: int = 200) -> tuple[float, Float64Array]:
    """Return the entropic transport cost between uniform weights, and the potential of each row, by Sinkhorn in logs.

    `cost` float64 [n, m]. A row's potential is high where more weight on it would be worth least to move: it is far
    from its target; the sign is turned here, so that a high potential means a useful row.
    """
    n, m = cost.shape
    left, right = np.zeros(n), np.zeros(m)
    for _ in range(rounds):
        before = left
        right = -blur * _log_mean(-(cost - left[:, None]) / blur, axis=0)
        left = -blur * _log_mean(-(cost - right[None, :]) / blur, axis=1)
        if np.abs(left - before).max() < 1e-6:
            break
    plan = np.exp((left[:, None] + right[None, :] - cost) / blur) / (n * m)
    return float((plan * cost).sum() / plan.sum()), -left


def _log_mean(values: Float64Array, axis: int) -> Float64Array:
    top = values.max(axis=axis, keepdims=True)
    found: Float64Array = np.squeeze(top, axis) + np.log(np.exp(values - top).mean(axis=axis))
    return found


def _nearest_first(distance: Float64Array, depth: int) -> Int64Array:
    """Return for each query its `depth` nearest rows, int64 [M, depth]."""
    depth = min(depth, len(distance))
    top = np.argpartition(distance, depth - 1, axis=0)[:depth]
    order = np.argsort(np.take_along_axis(distance, top, axis=0), axis=0, kind="stable")
    return np.take_along_axis(top, order, axis=0).T.astype(np.int64)


def _layered(order: Int64Array, layers: int, total: int) -> Int64Array:
    """Return the rows of the first layers, each once, layer by layer."""
    flat = order[:, :layers].T.ravel()
    _, first = np.unique(flat, return_index=True)
    return flat[np.sort(first)]


def _unit(rows: Float64Array) -> Float64Array:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Float64Array = rows / np.where(norms > 0, norms, 1.0)
    return found


def build(config: Config) -> Tarot:
    """Build the selector."""
    return Tarot(config=config)


def tiny() -> Tarot:
    """Build the selector as tests use it."""
    return build(Config())
