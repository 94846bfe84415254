"""Few-shot text classification: a handful of examples of each class make a classifier, without training weights.

The space is the hashed, weighted n-grams of the shipped classifier, so examples that share words or spelling are near.
Three arms: class prototypes, nearest neighbours, and kernel logistic regression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_path.text.features import Bags, bags
from fast_path.text.model import LinearModel, idf_values
from fast_path.text.normalise import normalise
from guard.errors import InvalidConfig
from guard.types import Float32Array, require

Arm: TypeAlias = Literal["prototype", "knn", "logistic"]
ARMS: tuple[Arm, ...] = ("prototype", "knn", "logistic")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Embedded:
    """N sparse vectors of length 1 over the model's buckets; their product is the cosine."""

    at: NDArray[np.int64]
    """int64 [K]: bucket numbers of all vectors, one after the other."""
    value: Float32Array
    """float32 [K]: their weights."""
    starts: NDArray[np.int64]
    """int64 [N + 1]: vector i owns `starts[i]` to `starts[i + 1]`."""
    width: int
    """Number of buckets."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(self, rows: Sequence[int]) -> Embedded:
        """Return the vectors numbered `rows`, in that order."""
        kept = [np.arange(self.starts[i], self.starts[i + 1]) for i in rows]
        index = np.concatenate(kept) if kept else np.empty(0, np.int64)
        starts = np.cumsum([0, *(len(k) for k in kept)], dtype=np.int64)
        return Embedded(at=self.at[index], value=self.value[index], starts=starts, width=self.width)

    def cosine(self, others: Embedded) -> Float32Array:
        """Return float32 [len(self), len(others)], each in [0, 1]; row i depends on vector i alone."""
        out = np.zeros((len(self), len(others)), np.float32)
        scratch = np.zeros(self.width, np.float32)
        filled = np.flatnonzero(np.diff(self.starts) > 0)  # `reduceat` has no notion of an empty stretch
        for column in range(len(others)):
            own = slice(int(others.starts[column]), int(others.starts[column + 1]))
            scratch[others.at[own]] = others.value[own]
            if len(filled):
                out[filled, column] = np.add.reduceat(scratch[self.at] * self.value, self.starts[:-1][filled])
            scratch[others.at[own]] = 0.0
        return np.clip(out, 0.0, 1.0)


def embed(texts: Sequence[str], model: LinearModel) -> Embedded:
    """Embed texts; a text without n-grams that the model knows is the zero vector."""
    return weigh(bags([normalise(text) for text in texts], model.features), model)


def weigh(found: Bags, model: LinearModel) -> Embedded:
    """Weight bags by inverse document frequency; characters and words count half each."""
    kinds = found.kinds.astype(np.int64)
    at = found.indices.astype(np.int64) + kinds * model.features.buckets
    value = idf_values(model.idf)[at].astype(np.float64)
    block = 2 * np.repeat(np.arange(len(found)), np.diff(found.starts)) + kinds
    for index in (block, block // 2):  # each kind to length 1, then both together
        length = np.sqrt(np.bincount(index, weights=value**2, minlength=2 * len(found)))
        value = value / np.where(length == 0, 1.0, length)[index]
    return Embedded(at=at, value=value.astype(np.float32), starts=found.starts, width=2 * model.features.buckets)


def scores(
    queries: Sequence[str],
    examples: Sequence[str],
    labels: Sequence[int],
    model: LinearModel,
    *,
    arm: Arm = "logistic",
) -> Float32Array:
    """Return float32 [len(queries)] in [0, 1]: how much each query resembles the positive examples.

    `labels` holds 1 for a positive example and 0 for a negative one; at least one of each is needed.

    Raises:
        InvalidConfig: the arm is unknown, or one class has no example.
    """
    if arm not in ARMS:
        raise InvalidConfig(f"arm must be one of {', '.join(ARMS)}; got {arm!r}.")
    if set(labels) != {0, 1}:
        raise InvalidConfig(
            f"Few-shot scores need examples of both classes; got labels {sorted(set(labels))}.",
            hint="Add at least one example that violates the rule and one that does not.",
        )
    require(len(examples) == len(labels), "labels", f"{len(examples)} of them", len(labels))
    known = embed(examples, model)
    return vote(embed(queries, model).cosine(known), known.cosine(known), np.asarray(labels), arm=arm)


def vote(
    similarity: Float32Array, among: Float32Array, labels: NDArray[np.integer[Any]], *, arm: Arm = "logistic"
) -> Float32Array:
    """Return float32 [Q] in [0, 1] from cosines of Q queries to E examples [Q, E] and among the examples [E, E]."""
    return _ARMS[arm](similarity, among, labels.astype(np.int64))


def _prototype(similarity: Float32Array, among: Float32Array, labels: NDArray[np.int64]) -> Float32Array:
    """Cosine to the mean of either class; the difference of the two through a sigmoid eight times as steep."""
    means = []
    for label in (0, 1):
        mine = labels == label
        length = float(np.sqrt(max(among[np.ix_(mine, mine)].mean(), 1e-6)))
        means.append(similarity[:, mine].mean(axis=1) / length)
    return _squash(8.0 * (means[1] - means[0]))


def _knn(similarity: Float32Array, among: Float32Array, labels: NDArray[np.int64]) -> Float32Array:
    """Similarity-weighted vote of the nearest five, classes evened out; without any likeness the vote is a half."""
    del among
    near = np.argsort(-similarity, axis=1, kind="stable")[:, : min(5, len(labels))]
    weight = np.take_along_axis(similarity, near, axis=1) ** 2
    share = np.bincount(labels, minlength=2)
    even = np.where(labels == 1, 1.0 / share[1], 1.0 / share[0])[near]
    votes = np.where(labels[near] == 1, 1.0, 0.0)
    total = (weight * even).sum(axis=1)
    share_of_votes: Float32Array = (((weight * even * votes).sum(axis=1) + 5e-5) / (total + 1e-4)).astype(np.float32)
    return share_of_votes


def _logistic(similarity: Float32Array, among: Float32Array, labels: NDArray[np.int64]) -> Float32Array:
    """Kernel logistic regression on cosines, by Newton steps; ridge 1/8, classes evened out.

    The dual form: a few dozen coefficients for a few dozen examples, whatever the number of buckets.
    """
    share = np.bincount(labels, minlength=2) / len(labels)
    weight = np.where(labels == 1, 0.5 / share[1], 0.5 / share[0])
    kernel = among.astype(np.float64)
    alpha: NDArray[np.float64] = np.zeros(len(labels))
    bias, ridge = 0.0, 1.0 / 8.0
    for _ in range(25):
        p = 1.0 / (1.0 + np.exp(-np.clip(kernel @ alpha + bias, -30, 30)))
        curve = np.maximum(weight * p * (1 - p), 1e-6)
        target = kernel @ alpha + bias + weight * (labels - p) / curve
        system = np.zeros((len(labels) + 1, len(labels) + 1))
        system[:-1, :-1] = kernel + ridge * np.diag(1.0 / curve)
        system[:-1, -1] = system[-1, :-1] = 1.0
        solved = np.linalg.solve(system, np.r_[target, 0.0])
        step = float(np.abs(solved[:-1] - alpha).max())
        alpha, bias = solved[:-1].astype(np.float64), float(solved[-1])
        if step < 1e-6:
            break
    return _squash(similarity @ alpha.astype(np.float32) + np.float32(bias))


def _squash(z: NDArray[np.floating[Any]]) -> Float32Array:
    result: Float32Array = (1.0 / (1.0 + np.exp(-np.clip(z, -30, 30)))).astype(np.float32)
    return result


_ARMS: dict[str, Callable[[Float32Array, Float32Array, NDArray[np.int64]], Float32Array]] = {
    "prototype": _prototype, "knn": _knn, "logistic": _logistic,
}  # fmt: skip
