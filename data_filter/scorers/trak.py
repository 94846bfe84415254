"""TRAK (arXiv 2303.14186): influence in the linearised model, averaged over checkpoints or, better, independent models.

TRAK differentiates the margin f = log(p / (1 - p)), where p is the probability of the label. As the loss is L =
log(1 + e^-f), dL/df = -(1 - p), so a margin gradient is the stored loss gradient divided by -(1 - p), with 1 - p = 1
- e^-L: no second pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_filter import linear
from data_filter.types import FeatureView, Float64Array, Int64Array, Rows, ScoreMatrix
from guard.types import Float32Array, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    damping: float = 1.0
    """Added to the second moment of the margin gradients, as a share of its mean diagonal. With K close to N, less
    overfits."""
    checkpoints: Literal["last", "all"] = "last"
    """`all` is for independently trained models, where it gains most; early checkpoints of one run only add noise."""

    def __post_init__(self) -> None:
        require(self.damping > 0, "damping", "positive", self.damping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trak:
    """mean_t phi_t(q)^T (X_t^T X_t / N + d I)^-1 phi_t(z), times mean_t (1 - p_t(z))."""

    config: Config
    name: str = "trak"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs gradients and `loss` of both sides at the same checkpoints."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        mine = train.need_gradients(self.name).checkpoints
        theirs = asked.need_gradients(self.name).checkpoints
        doubt = _doubt(train.need_aux("loss", self.name))
        query_doubt = _doubt(asked.need_aux("loss", self.name))
        used = range(len(mine))[-1 if self.config.checkpoints == "last" else 0 :]
        values = np.zeros((len(train), len(names)))
        for t in used:
            linear.check_same_space(mine[t].rows, theirs[t].rows, self.name)
            features = MarginRows(mine[t].rows, doubt[:, t])
            directions = linear.group_means(MarginRows(theirs[t].rows, query_doubt[:, t]), averaging)
            values += linear.project(features, linear.solve_damped(features, directions, self.config.damping))
        values *= doubt[:, used.start :].mean(axis=1, keepdims=True) / len(used)
        return linear.matrix(train, names, values, self.name, signed=True)


def _doubt(losses: Float32Array) -> Float64Array:
    """Return 1 - p of the label, float64 like `losses`; the floor keeps a perfect fit from dividing by zero."""
    found: Float64Array = np.maximum(-np.expm1(-losses.astype(np.float64)), 1e-6)
    return found


class MarginRows:
    """Rows of margin gradients made from loss gradients on the way."""

    def __init__(self, rows: Rows, doubt: Float64Array) -> None:
        self._rows = rows
        self._scale = (-1.0 / doubt).astype(np.float32)[:, None]
        self.shape = rows.shape

    def __getitem__(self, key: slice | Int64Array) -> Float32Array:
        """Return margin gradients, float32 [rows, K]."""
        return self._rows[key] * self._scale[key]


def build(config: Config) -> Trak:
    """Build the scorer."""
    return Trak(config=config)


def tiny() -> Trak:
    """Build the scorer as tests use it."""
    return build(Config())
