"""A pointwise surrogate: score a sample with an expensive scorer, learn to predict its scores from embedding and
label, predict the rest.

The idea of MATES (arXiv 2406.06046) and NN-CIFT (arXiv 2502.09969) with a regressor that is solved in one step:
ridge regression on the embedding crossed with the label, its penalty chosen on held-out rows of the sample. It
states how well it predicts them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, Float64Array, Int64Array, ScoreMatrix
from guard import plugins
from guard.types import require

_log = logging.getLogger(__name__)
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    teacher: str = "grad_cos"
    """Registry key of the scorer to imitate."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its settings."""
    share: float = 0.2
    """Share of the rows that the teacher scores."""
    least: int = 64
    """At least this many."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", "in (0, 1]", self.share)
        require(self.teacher != "surrogate", "teacher", "another scorer", self.teacher)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """The teacher's scores on its sample, predictions elsewhere."""

    config: Config
    teacher: Any
    name: str = "surrogate"

    @property
    def signed(self) -> bool:
        """Never: a prediction keeps the order roughly, not the zero."""
        return False

    @property
    def uses_queries(self) -> bool:
        """As the teacher."""
        return bool(self.teacher.uses_queries)

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs embeddings, and on the sample what the teacher needs."""
        count = min(len(train), max(self.config.least, round(self.config.share * len(train))))
        rng = np.random.default_rng(self.config.seed)
        sample = np.sort(rng.permutation(len(train))[:count]).astype(np.int64)
        taught: ScoreMatrix = self.teacher.score(train.take(sample), queries)
        features = _features(train)
        weights, agreement = _fit(features[sample], taught.values.astype(np.float64), rng)
        _log.info("surrogate of %s: held-out correlation %.3f on %d rows", self.config.teacher, agreement, count)
        values = features @ weights
        values[sample] = taught.values
        return linear.matrix(train, taught.columns, values, self.name, signed=self.signed)


def _features(train: FeatureView) -> Float64Array:
    """Return [N, (1 + C)(1 + D)]: constant, embedding, and both crossed with every category of the label."""
    raw = train.need_embeddings("surrogate").astype(np.float64)
    spread = raw.std(axis=0)
    scaled = (raw - raw.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    base = np.concatenate([np.ones((len(raw), 1)), scaled], axis=1)
    crossed = [base, *(base * column[:, None] for column in train.targets.T)]
    return np.concatenate(crossed, axis=1)


def _fit(x: Float64Array, y: Float64Array, rng: np.random.Generator) -> tuple[Float64Array, float]:
    order: Int64Array = rng.permutation(len(x)).astype(np.int64)
    held, fit = order[: len(x) // 4], order[len(x) // 4 :]
    errors = {p: float(np.square(x[held] @ _ridge(x[fit], y[fit], p) - y[held]).sum()) for p in _PENALTIES}
    best = min(errors, key=lambda penalty: errors[penalty])
    predicted = x[held] @ _ridge(x[fit], y[fit], best)
    left, right = predicted.ravel() - predicted.mean(), y[held].ravel() - y[held].mean()
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return _ridge(x, y, best), float(left @ right) / scale if scale > 0 else 0.0


def _ridge(x: Float64Array, y: Float64Array, penalty: float) -> Float64Array:
    share = penalty * float(np.square(x).sum()) / x.shape[1]
    if len(x) >= x.shape[1]:
        solved: Float64Array = np.linalg.solve(x.T @ x + share * np.eye(x.shape[1]), x.T @ y)
        return solved
    dual: Float64Array = x.T @ np.linalg.solve(x @ x.T + share * np.eye(len(x)), y)
    return dual


def build(config: Config) -> Surrogate:
    """Build the scorer and its teacher."""
    return Surrogate(config=config, teacher=plugins.load("scorer", config.teacher, **config.settings))


def tiny() -> Surrogate:
    """Build the scorer as tests use it."""
    return build(Config(share=0.5))
