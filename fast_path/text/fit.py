"""Fit the linear layer: one logistic regression for each category, on the rows whose label is known.

Needs scikit-learn (the `train` extra). Deterministic: same rows, same settings, same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fast_path.text.datasets import CATEGORIES, TextRow, label_matrix
from fast_path.text.features import Bags, FeatureConfig, bags
from fast_path.text.model import (
    VOCABULARY_BITS_LOG2,
    LinearModel,
    bit_positions,
    compand,
    expand,
    idf_values,
    quantise_idf,
)
from fast_path.text.normalise import Plain, normalise
from guard.plugins import missing_extra
from guard.types import Float32Array

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PRESUMED_CLEAN: dict[str, tuple[str, ...]] = {
    "violence": ("sst2", "uci_sms_spam", "paradetox", "convabuse"),
    "extremism.self_harm": ("sst2", "uci_sms_spam", "paradetox", "convabuse", "davidson", "olid"),
    "spam": ("sst2", "convabuse", "paradetox", "openai_moderation", "ethos"),
    "extremism.hate": ("sst2", "uci_sms_spam"),
    "harassment": ("sst2", "uci_sms_spam"),
}
"""Category to sources whose unlabelled rows are presumed free of it, at a low weight: otherwise a category with few
labelled rows would know no ordinary text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Settings of training."""

    categories: tuple[str, ...] = CATEGORIES
    features: FeatureConfig = field(default_factory=FeatureConfig)
    inverse_regularisation: float = 3.0
    min_groups: int = 3
    """A bucket, and a word of the vocabulary, is kept only if this many groups of texts share it: a name that occurs
    in one text leaves no trace."""
    presumed_weight: float = 0.2
    """Weight of a presumed negative beside a labelled row's 1."""
    rare_boost: float = 1.0
    """Power of the class balance put on positives: 0 none, 1 full balance."""
    folds: int = 3
    fold_seed: int = 0
    max_iterations: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Rows with their features, computed once and shared by all folds."""

    rows: tuple[TextRow, ...]
    plain: tuple[Plain, ...]
    bags: Bags
    labels: NDArray[np.int8]
    """int8 [N, C]: 1, 0, -1 unknown."""
    groups: NDArray[np.int64]
    """int64 [N]: number of each row's group."""
    sources: NDArray[np.str_]
    """str [N]: where each row is from."""

    def __len__(self) -> int:
        return len(self.rows)


def corpus(rows: Sequence[TextRow], config: FitConfig) -> Corpus:
    """Normalise and hash `rows`."""
    plain = tuple(normalise(row.text) for row in rows)
    _, groups = np.unique([row.group for row in rows], return_inverse=True)
    return Corpus(
        rows=tuple(rows),
        plain=plain,
        bags=bags(plain, config.features),
        labels=label_matrix(rows, config.categories),
        groups=groups.astype(np.int64),
        sources=np.array([row.source for row in rows], dtype=np.str_),
    )


def fold_of(rows: Sequence[TextRow], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold of each row, int64 [N], from a hash of its group: independent of order and of other rows."""
    keys = [hashlib.sha256(f"{seed}:{row.group}".encode()).hexdigest()[:8] for row in rows]
    return np.array([int(key, 16) % folds for key in keys], np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The weighting of buckets, and the rows seen through it. Made from texts alone, without labels."""

    idf: NDArray[np.uint8]
    """uint8 [2B]."""
    matrix: csr_matrix
    """float32 [N, 2B], over all rows of the corpus."""


def space(data: Corpus, use: NDArray[np.int64], config: FitConfig) -> Space:
    """Count buckets in the rows numbered `use`, and weight all rows by them."""
    idf = quantise_idf(_idf(data, use, config))
    return Space(idf=idf, matrix=design(data.bags, idf, config.features))


def fit(data: Corpus, use: NDArray[np.int64], config: FitConfig, seen: Space | None = None) -> LinearModel:
    """Fit on the rows numbered `use`, without calibration (slope 1, offset 0).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    seen = seen or space(data, use, config)
    weights, scales, biases = _weights(data, use, config, seen)
    width = len(config.categories)
    return LinearModel(
        categories=config.categories,
        features=config.features,
        weights=weights,
        scales=scales,
        bias=biases,
        idf=seen.idf,
        slope=np.ones(width, np.float32),
        offset=np.zeros(width, np.float32),
        vocabulary=_vocabulary(data, use, config.min_groups),
    )


def _weights(
    data: Corpus, use: NDArray[np.int64], config: FitConfig, seen: Space
) -> tuple[NDArray[np.int8], Float32Array, Float32Array]:
    columns, biases = [], []
    for column, category in enumerate(config.categories):
        at, truth, weight = _targets(data, use, column, category, config)
        coefficients, bias = _logistic(seen.matrix[at], truth, weight, config)
        columns.append(coefficients)
        biases.append(bias)
    weights, scales = compand(np.stack(columns, axis=1))
    return weights, scales, np.array(biases, np.float32)


def design(found: Bags, stored_idf: NDArray[np.uint8], features: FeatureConfig) -> csr_matrix:
    """Return the sparse float32 [N, 2B] matrix whose product with the weights is what `LinearModel.logits` computes."""
    sparse = _package("scipy.sparse")
    at = found.indices.astype(np.int64) + found.kinds.astype(np.int64) * features.buckets
    row = np.repeat(np.arange(len(found)), np.diff(found.starts))
    value = idf_values(stored_idf)[at]
    block = 2 * row + found.kinds
    length = np.sqrt(np.bincount(block, weights=value.astype(np.float64) ** 2, minlength=2 * len(found)))
    scaled = value / np.where(length == 0, 1.0, length)[block]
    shape = (len(found), 2 * features.buckets)
    matrix = sparse.csr_matrix((scaled.astype(np.float32), (row, at)), shape=shape)
    matrix.eliminate_zeros()
    return matrix


def cross_fit(data: Corpus, config: FitConfig, *, use: NDArray[np.int64] | None = None) -> Float32Array:
    """Return float32 [N, C] logits of every row from weights that never saw the row's group; NaN outside `use`.

    The weighting of buckets, which uses no labels, is counted once over all of `use`.
    """
    chosen = np.arange(len(data)) if use is None else use
    fold = fold_of(data.rows, config.folds, config.fold_seed)
    seen = space(data, chosen, config)
    out = np.full((len(data), len(config.categories)), np.nan, np.float32)
    for number in range(config.folds):
        held = chosen[fold[chosen] == number]
        weights, scales, bias = _weights(data, chosen[fold[chosen] != number], config, seen)
        out[held] = seen.matrix[held] @ expand(weights, scales) + bias
    return out


def matrix_logits(model: LinearModel, found: Bags) -> Float32Array:
    """Return the same logits as `model.logits`, up to rounding, much faster for many texts."""
    matrix = design(found, model.idf, model.features)
    return np.asarray(matrix @ expand(model.weights, model.scales) + model.bias, dtype=np.float32)


def calibrate(logits: Float32Array, labels: NDArray[np.int8]) -> tuple[Float32Array, Float32Array]:
    """Return Platt's slope and offset for each category, from held-out logits [N, C] and labels.

    Platt, "Probabilistic outputs for support vector machines", 1999. A category with fewer than five labels of either
    kind keeps its raw logits.
    """
    linear = _package("sklearn.linear_model")
    slope, offset = np.ones(labels.shape[1], np.float32), np.zeros(labels.shape[1], np.float32)
    for column in range(labels.shape[1]):
        known = (labels[:, column] >= 0) & np.isfinite(logits[:, column])
        truth = labels[known, column]
        if min(np.sum(truth == 1), np.sum(truth == 0)) < 5:
            continue
        line = linear.LogisticRegression(C=1e6).fit(logits[known, column, None].astype(np.float64), truth)
        slope[column], offset[column] = max(float(line.coef_[0, 0]), 1e-3), float(line.intercept_[0])
    return slope, offset


def _targets(
    data: Corpus, use: NDArray[np.int64], column: int, category: str, config: FitConfig
) -> tuple[NDArray[np.int64], NDArray[np.int8], Float32Array]:
    labels = data.labels[use, column]
    presumed = PRESUMED_CLEAN.get(category, ())
    guess = np.isin(data.sources[use], presumed) & (labels < 0)
    keep = (labels >= 0) | (guess & (config.presumed_weight > 0))
    truth = np.where(labels == 1, 1, 0)[keep].astype(np.int8)
    weight = np.where(guess, config.presumed_weight, 1.0)[keep].astype(np.float32)
    positive, negative = weight[truth == 1].sum(), weight[truth == 0].sum()
    if positive and negative:
        weight[truth == 1] *= max(1.0, float(negative / positive)) ** config.rare_boost
    return use[keep], truth, weight


def _logistic(
    matrix: csr_matrix, truth: NDArray[np.int8], weight: Float32Array, config: FitConfig
) -> tuple[Float32Array, float]:
    if len(set(truth.tolist())) < 2:
        return np.zeros(matrix.shape[1], np.float32), 0.0  # nothing to tell apart
    linear = _package("sklearn.linear_model")
    model = linear.LogisticRegression(C=config.inverse_regularisation, max_iter=config.max_iterations, tol=1e-4)
    model.fit(matrix, truth, sample_weight=weight)
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def _idf(data: Corpus, use: NDArray[np.int64], config: FitConfig) -> Float32Array:
    """Inverse document frequency counted in groups; 0 where fewer than `min_groups` share the bucket."""
    order = use[np.argsort(data.groups[use], kind="stable")]  # rows of a group follow each other
    count = np.zeros(2 * config.features.buckets, np.int64)
    last = np.full(2 * config.features.buckets, -1, np.int64)
    for index in order:
        row = data.bags.row(int(index))
        at = data.bags.indices[row].astype(np.int64) + data.bags.kinds[row].astype(np.int64) * config.features.buckets
        count[at] += last[at] != data.groups[index]
        last[at] = data.groups[index]
    total = len(np.unique(data.groups[use]))
    idf = np.log((total + 1) / (count + 1)) + 1
    return np.where(count >= config.min_groups, idf, 0.0).astype(np.float32)


def _vocabulary(data: Corpus, use: NDArray[np.int64], min_groups: int) -> NDArray[np.uint8]:
    pairs = []
    width = int(data.groups.max(initial=0)) + 1
    for index in use:
        bits = np.unique(bit_positions(data.plain[index].words))
        pairs.append(bits * width + data.groups[index])
    unique = np.unique(np.concatenate(pairs)) if pairs else np.empty(0, np.int64)
    count = np.bincount(unique // width, minlength=1 << VOCABULARY_BITS_LOG2)
    return np.packbits(count >= min_groups, bitorder="little")


def one_thread() -> AbstractContextManager[object]:
    """Keep linear algebra on one thread: sums in another order end in other weights."""
    limits: AbstractContextManager[object] = _package("threadpoolctl").threadpool_limits(limits=1)
    return limits


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra("Training the text classifier", "sklearn") from error
