"""Strictly increasing maps from a detector's raw score to a probability, and the choice between them.

Strictly increasing matters twice: ranking metrics do not change, and a threshold chosen on mapped scores is the same
rule as one chosen on raw scores, so that fitting the map on the calibration set does not spoil the risk guarantee
(`fast_path.risk`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from guard.types import Float32Array, require

Method = Literal["identity", "temperature", "platt", "isotonic"]
Array = NDArray[np.float64]

_CLIP = 1e-6
_TIE_BREAK = 0.01
"""Part of the raw score mixed into the isotonic steps, which are flat otherwise."""
_ISOTONIC_FROM = 100
"""Isotonic regression follows every wiggle: it is tried from so many clips, a fifth of them of the rarer kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """One map. `platt`: sigmoid(a * logit(p) + b); `temperature`: with b = 0; `isotonic`: through the knots."""

    method: Method
    slope: float = 1.0
    offset: float = 0.0
    knots_raw: tuple[float, ...] = ()
    """Increasing raw scores of the isotonic steps."""
    knots_probability: tuple[float, ...] = ()
    """Non-decreasing probabilities at the knots."""

    def __post_init__(self) -> None:
        require(self.slope > 0, "slope", "above 0", self.slope)
        paired = len(self.knots_raw) == len(self.knots_probability) and bool(np.all(np.diff(self.knots_raw) > 0))
        require(paired, "knots", "pairs with increasing raw scores", (self.knots_raw, self.knots_probability))

    def apply(self, raw: NDArray[np.floating]) -> Float32Array:
        """Map raw scores in [0, 1], of any shape, to float32 probabilities in [0, 1]."""
        values = np.asarray(raw, np.float64)
        if self.method == "identity":
            return values.astype(np.float32)
        if self.method == "isotonic":
            steps = np.interp(values, self.knots_raw, self.knots_probability)
            return ((1 - _TIE_BREAK) * steps + _TIE_BREAK * values).astype(np.float32)
        return _sigmoid(self.slope * _logit(values) + self.offset).astype(np.float32)


def map_scores(raw: Float32Array, scalings: Sequence[Scaling]) -> Float32Array:
    """Map float32 [N, C] column by column."""
    columns = [scaling.apply(raw[:, index]) for index, scaling in enumerate(scalings)]
    return np.stack(columns, axis=1) if columns else raw.astype(np.float32)


def choose(raw: Array, truth: NDArray[np.bool_], groups: Sequence[str], *, folds: int = 5) -> Scaling:
    """Return the map with the least cross-validated log-loss, fitted on everything.

    `raw` float [N] in [0, 1], `truth` bool [N], `groups` N names; a group is never in two folds. With fewer than two
    groups of either kind nothing can be validated, and the scores stay as they are. A tie goes to the simpler map.
    """
    names = np.asarray(groups)
    kinds = [len(set(names[truth == kind])) for kind in (False, True)]
    if min(kinds) < 2:
        return Scaling(method="identity")
    fold = _folds(truth, names, min(folds, *kinds))
    rare = min(int(truth.sum()), int((~truth).sum()))
    methods: list[Method] = ["identity", "temperature", "platt"]
    if len(raw) >= _ISOTONIC_FROM and rare >= _ISOTONIC_FROM // 5:
        methods.append("isotonic")
    losses = {method: _validated_loss(method, raw, truth, fold) for method in methods}
    return fit(min(methods, key=lambda method: round(losses[method], 6)), raw, truth)


def fit(method: Method, raw: Array, truth: NDArray[np.bool_]) -> Scaling:
    """Fit one kind of map to raw scores float [N] in [0, 1] and `truth` bool [N]."""
    return _FITS[method](np.asarray(raw, np.float64), truth)


def log_loss(probability: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Return the mean negative log-likelihood, in nats; probabilities are kept 1e-6 away from 0 and 1."""
    kept = np.clip(np.asarray(probability, np.float64), _CLIP, 1 - _CLIP)
    return float(-np.mean(np.where(truth, np.log(kept), np.log1p(-kept))))


def _validated_loss(method: Method, raw: Array, truth: NDArray[np.bool_], fold: NDArray[np.int64]) -> float:
    losses = np.empty(len(raw))
    for index in np.unique(fold):
        held = fold == index
        mapped = fit(method, raw[~held], truth[~held]).apply(raw[held])
        kept = np.clip(mapped.astype(np.float64), _CLIP, 1 - _CLIP)
        losses[held] = -np.where(truth[held], np.log(kept), np.log1p(-kept))
    return float(losses.mean())


def _folds(truth: NDArray[np.bool_], names: NDArray[np.str_], count: int) -> NDArray[np.int64]:
    """Deal whole groups to folds: groups with positives first, each to the fold that has fewest of its kind."""
    unique, member = np.unique(names, return_inverse=True)
    positives = np.bincount(member, weights=truth)
    sizes = np.bincount(member)
    order = sorted(range(len(unique)), key=lambda g: (-positives[g], -sizes[g], unique[g]))
    load = np.zeros((count, 2))
    fold_of = np.zeros(len(unique), np.int64)
    for group in order:
        kind = 0 if positives[group] else 1
        target = min(range(count), key=lambda f: (load[f, kind], load[f].sum()))
        fold_of[group] = target
        load[target, kind] += positives[group] if positives[group] else sizes[group]
    return np.asarray(fold_of[member])


def _fit_identity(raw: Array, truth: NDArray[np.bool_]) -> Scaling:
    del raw, truth
    return Scaling(method="identity")


def _fit_temperature(raw: Array, truth: NDArray[np.bool_]) -> Scaling:
    slope, _ = _fit_sigmoid(raw, truth, with_offset=False)
    return Scaling(method="temperature", slope=slope)


def _fit_platt(raw: Array, truth: NDArray[np.bool_]) -> Scaling:
    slope, offset = _fit_sigmoid(raw, truth, with_offset=True)
    return Scaling(method="platt", slope=slope, offset=offset)


def _fit_sigmoid(raw: Array, truth: NDArray[np.bool_], *, with_offset: bool) -> tuple[float, float]:
    """Maximum likelihood of sigmoid(exp(u) * logit(p) + b) by damped Newton steps (Platt 1999, with his smoothed
    targets).

    The smoothed targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) keep the slope finite where the scores separate perfectly.
    """
    positives, negatives = float(truth.sum()), float((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    logit = _logit(raw)

    def loss(at: Array) -> float:
        z = np.exp(at[0]) * logit + at[1]
        return float(np.mean(np.logaddexp(0, z) - target * z)) + 1e-6 * float(at @ at)

    at = np.zeros(2)
    for _ in range(100):
        slope = np.exp(at[0])
        p = _sigmoid(slope * logit + at[1])
        inner = np.stack([slope * logit, np.full_like(logit, float(with_offset))])
        gradient = inner @ (p - target) / len(raw) + 2e-6 * at
        curvature = (inner * (p * (1 - p))) @ inner.T / len(raw) + np.diag(
            [1e-4, 1e-4]
        )  # Gauss-Newton: always descends
        step, scale = np.linalg.solve(curvature, gradient), 1.0
        while scale > 1e-8 and loss(at - scale * step) > loss(at):
            scale /= 2
        at = np.clip(at - scale * step, -8.0, 8.0)
        if np.abs(scale * step).max() < 1e-9:
            break
    return float(np.exp(at[0])), float(at[1])


def _fit_isotonic(raw: Array, truth: NDArray[np.bool_]) -> Scaling:
    """Pool adjacent violators (Ayer et al. 1955) over the distinct raw scores."""
    values, place = np.unique(raw, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, weights=truth) / weights
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, number of distinct scores)
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        blocks.append((mean, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (m1, w1, n1), (m2, w2, n2) = blocks[-2:]
            blocks[-2:] = [((m1 * w1 + m2 * w2) / (w1 + w2), w1 + w2, n1 + n2)]
    fitted = np.repeat([block[0] for block in blocks], [block[2] for block in blocks])
    return Scaling(method="isotonic", knots_raw=tuple(values.tolist()), knots_probability=tuple(fitted.tolist()))


_FITS: Mapping[Method, Callable[[Array, NDArray[np.bool_]], Scaling]] = {
    "identity": _fit_identity,
    "temperature": _fit_temperature,
    "platt": _fit_platt,
    "isotonic": _fit_isotonic,
}


def _logit(probability: Array) -> Array:
    kept = np.clip(probability, _CLIP, 1 - _CLIP)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def _sigmoid(value: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -50, 50))))
