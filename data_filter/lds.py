"""Linear datamodelling score: does a scorer predict what happens when the model is trained on other subsets?

Many heads are trained on random halves of the rows. For each query, the sum of a scorer's values over the rows of a
half is compared with minus the loss of the heads trained on it, by rank correlation over the halves (arXiv
2303.14186, section 4). Retraining is noisy, so no scorer can reach 1: `ceiling` says how well one half of the
repeats predicts the other, and is printed beside every result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from data_filter import ensemble
from data_filter.ensemble import HeadSpec
from data_filter.interfaces import Scorer
from data_filter.types import BoolArray, FeatureView, Float64Array
from guard.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Truth:
    """What retraining showed."""

    masks: BoolArray
    """bool [S, N]: the rows of each subset."""
    losses: Float64Array
    """float64 [S, R, Q]: loss of each query after training on each subset, for each repeat."""

    def ceiling(self) -> float:
        """Return the mean rank correlation between the means of two halves of the repeats, stepped up to all of them.

        Spearman-Brown: two halves that agree with r give 2r / (1 + r) for the whole; a perfect scorer reaches its
        square root.
        """
        repeats = self.losses.shape[1]
        if repeats < 2:
            raise UsageError(f"A ceiling needs two repeats per subset; there is {repeats}.")
        first, second = self.losses[:, : repeats // 2].mean(axis=1), self.losses[:, repeats // 2 :].mean(axis=1)
        halves = float(np.mean([spearman(a, b) for a, b in zip(first.T, second.T, strict=True)]))
        whole = 2 * halves / (1 + halves)
        return float(np.sqrt(max(whole, 0.0)))


def inputs_of(train: FeatureView) -> tuple[Float64Array, Float64Array]:
    """Return the mean and deviation that embeddings are scaled with, [D] each."""
    raw = train.need_embeddings("retraining")
    spread = raw.std(axis=0)
    return raw.mean(axis=0), np.where(spread > 1e-6, spread, 1.0)


def retrain(
    train: FeatureView,
    queries: FeatureView,
    spec: HeadSpec,
    *,
    subsets: int = 100,
    repeats: int = 5,
    share: float = 0.5,
    seed: int = 0,
    at_once: int = 100,
) -> Truth:
    """Train `subsets` x `repeats` heads and return their losses on the queries; `at_once` bounds memory."""
    rng = np.random.default_rng(seed)
    size = round(share * len(train))
    masks = np.zeros((subsets, len(train)), dtype=np.bool_)
    for mask in masks:
        mask[rng.permutation(len(train))[:size]] = True
    mean, scale = inputs_of(train)
    x = ((train.need_embeddings("retraining") - mean) / scale).astype(np.float32)
    qx = torch.from_numpy(((queries.need_embeddings("retraining") - mean) / scale).astype(np.float32))
    qy = torch.from_numpy(queries.targets)
    jobs = [np.flatnonzero(mask) for mask in masks for _ in range(repeats)]
    found = []
    for start in range(0, len(jobs), at_once):
        part = replace(spec, seed=seed + 1000 + start)
        last = ensemble.train(x, train.targets, jobs[start : start + at_once], part, train.loss)[-1]
        with torch.no_grad():
            found.append(ensemble.row_losses(last.logits(qx), qy, train.loss).double().numpy())
    return Truth(masks=masks, losses=np.concatenate(found).reshape(subsets, repeats, len(queries)))


def lds(values: Float64Array, truth: Truth) -> float:
    """Return the mean over queries of the rank correlation between predicted and true effect of the subsets.

    `values` [N, Q], one column per query, positive = keeping the row lowers the query's loss.
    """
    predicted = truth.masks.astype(np.float64) @ values
    true = -truth.losses.mean(axis=1)
    return float(np.mean([spearman(p, t) for p, t in zip(predicted.T, true.T, strict=True)]))


def per_query(queries: FeatureView) -> FeatureView:
    """Return the queries with each as its own column."""
    return replace(queries, groups=tuple(f"query {i}" for i in range(len(queries))))


def tune(
    build: Callable[[float], Scorer], dampings: Iterable[float], train: FeatureView, queries: FeatureView, truth: Truth
) -> tuple[float, dict[float, float]]:
    """Return the damping with the highest score, and the score of each. Queries must not be those of the final
    measurement."""
    own = per_query(queries)
    found = {d: lds(build(d).score(train, own).values.astype(np.float64), truth) for d in dampings}
    return max(found, key=lambda d: found[d]), found


def spearman(a: Float64Array, b: Float64Array) -> float:
    """Return the rank correlation, ties sharing their mean rank; 0 where one side is constant."""
    left, right = _ranks(a), _ranks(b)
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale > 0 else 0.0


def _ranks(values: Float64Array) -> Float64Array:
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    found: Float64Array = (np.cumsum(count) - (count - 1) / 2)[which]
    return found
