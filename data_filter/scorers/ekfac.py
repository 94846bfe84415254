"""EK-FAC influence (arXiv 1806.03884, 2308.03296) on stored gradients, per linear layer.

A = E[a a^T] and S = E[d d^T] give eigenbases Q_A and Q_S; the eigenvalues are corrected to E[(Q_S^T G Q_A)^2] over
the gradients of drawn labels. Projection commutes with all of this: a projected layer has projected factors. Without
stored factors the bases come from E[G^T G] and E[G G^T] of the rows themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import Checkpoint, FeatureView, Float64Array, KroneckerFactors, Layer, Rows, ScoreMatrix
from guard.types import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings."""

    damping: float = 1.0
    """Share of a layer's mean eigenvalue. An absolute 1e-8, another library's default, costs a sixth of the LDS on
    small sets."""

    def __post_init__(self) -> None:
        require(self.damping > 0, "damping", "positive", self.damping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ekfac:
    """sum over layers of <Q_S ((Q_S^T V Q_A) / (Lambda + damping)) Q_A^T, G(z)> at the last checkpoint."""

    config: Config
    name: str = "ekfac"
    signed: bool = True
    uses_queries: bool = True

    def score(self, train: FeatureView, queries: FeatureView | None = None) -> ScoreMatrix:
        """Return [N, J]; needs gradients of both sides; better with drawn labels and factors."""
        asked = linear.require_queries(queries, self.name)
        names, averaging = linear.columns(asked)
        view = train.need_gradients(self.name)
        targets = asked.need_gradients(self.name).last.rows
        linear.check_same_space(view.last.rows, targets, self.name)
        directions = linear.group_means(targets, averaging)
        solved = np.empty_like(directions)
        for i, layer in enumerate(view.layers):
            at = slice(layer.start, layer.stop)
            solved[:, at] = self._precondition(view.last, layer, i, directions[:, at])
        return linear.matrix(train, names, linear.project(view.last.rows, solved), self.name, signed=True)

    def _precondition(self, checkpoint: Checkpoint, layer: Layer, i: int, directions: Float64Array) -> Float64Array:
        rows = checkpoint.rows if checkpoint.curvature is None else checkpoint.curvature
        factors = checkpoint.factors[i] if checkpoint.factors else _factors_of(rows, layer)
        _, q_in = np.linalg.eigh(factors.inputs)
        _, q_out = np.linalg.eigh(factors.outputs)
        values = _corrected(rows, layer, q_out, q_in)
        damping = max(self.config.damping * float(values.mean()), 1e-30)
        grid = directions.reshape(-1, layer.d_out, layer.d_in)
        rotated = np.einsum("op,joi,iq->jpq", q_out, grid, q_in, optimize=True) / (values + damping)
        back: Float64Array = np.einsum("op,jpq,iq->joi", q_out, rotated, q_in, optimize=True)
        return back.reshape(len(directions), -1)


def _grids(rows: Rows, layer: Layer) -> list[tuple[slice, slice]]:
    return [
        (slice(s, min(s + 1024, rows.shape[0])), slice(layer.start, layer.stop)) for s in range(0, rows.shape[0], 1024)
    ]


def _factors_of(rows: Rows, layer: Layer) -> KroneckerFactors:
    inputs, outputs = np.zeros((layer.d_in, layer.d_in)), np.zeros((layer.d_out, layer.d_out))
    for at, columns in _grids(rows, layer):
        grid = rows[at][:, columns].astype(np.float64).reshape(-1, layer.d_out, layer.d_in)
        inputs += np.einsum("noi,noj->ij", grid, grid, optimize=True)
        outputs += np.einsum("noi,npi->op", grid, grid, optimize=True)
    return KroneckerFactors(inputs=inputs / rows.shape[0], outputs=outputs / rows.shape[0])


def _corrected(rows: Rows, layer: Layer, q_out: Float64Array, q_in: Float64Array) -> Float64Array:
    total = np.zeros((layer.d_out, layer.d_in))
    for at, columns in _grids(rows, layer):
        grid = rows[at][:, columns].reshape(-1, layer.d_out, layer.d_in)
        total += np.square(q_out.T @ (grid @ q_in)).sum(axis=0)
    return total / rows.shape[0]


def build(config: Config) -> Ekfac:
    """Build the scorer."""
    return Ekfac(config=config)


def tiny() -> Ekfac:
    """Build the scorer as tests use it."""
    return build(Config())
