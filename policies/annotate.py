"""Which unlabelled items a person should look at first, so that few labels serve many queries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guard.errors import InvalidConfig
from guard.types import Float32Array

_DISCOUNT = 10.0
"""Each neighbour already chosen makes a vote count this many times less (rho in the paper)."""


def nearest(vectors: Float32Array, neighbours: int) -> NDArray[np.int64]:
    """Return int64 [n, k]: the rows most similar to each row by cosine, itself left out."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    k = min(neighbours, len(vectors) - 1)
    return np.argsort(-similar, axis=1, kind="stable")[:, :k].astype(np.int64)


def vote_k(vectors: Float32Array, count: int, *, neighbours: int = 10) -> tuple[int, ...]:
    """Choose `count` rows that are typical of many others and unlike each other.

    Fast vote-k of "Selective Annotation Makes Language Models Better Few-Shot Learners" (arXiv 2209.01975): an item
    gets a vote from every item that has it among its nearest; a vote is worth rho^-s, where s of the voter's
    neighbours are chosen already.

    Args:
        vectors: float32 [n, D], embeddings of the unlabelled items.
        count: how many to choose, at most n.
        neighbours: size of a neighbourhood.
    """
    _check(vectors, count)
    if count == 0 or len(vectors) < 2:
        return tuple(range(count))
    graph = nearest(vectors, neighbours)
    voters: list[list[int]] = [[] for _ in vectors]
    for voter, candidates in enumerate(graph):
        for candidate in candidates:
            voters[candidate].append(voter)
    taken = np.zeros(len(vectors), np.int64)  # by voter: how many of its neighbours are chosen
    chosen: list[int] = []
    for _ in range(count):
        scores = np.array([np.sum(_DISCOUNT ** -taken[v].astype(float)) if v else 0.0 for v in voters])
        scores[chosen] = -1.0
        best = int(scores.argmax())
        chosen.append(best)
        taken[voters[best]] += 1
    return tuple(chosen)


def ideal(
    vectors: Float32Array, count: int, *, neighbours: int = 10, trials: int = 10, seed: int = 0
) -> tuple[int, ...]:
    """Choose `count` rows whose joint influence on the others is largest.

    After IDEAL (arXiv 2310.10873): influence spreads over the nearest-neighbour graph by an independent cascade whose
    edges are open with the normalised similarity as probability; rows are added greedily by the mean number of rows
    they reach.

    Args:
        vectors: float32 [n, D], embeddings of the unlabelled items.
        count: how many to choose, at most n.
        neighbours: out-degree of the graph.
        trials: sampled graphs over which the reach is averaged.
        seed: of the sampled edges.
    """
    _check(vectors, count)
    if count == 0 or len(vectors) < 2:
        return tuple(range(count))
    graph = nearest(vectors, neighbours)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    weights = np.clip(np.einsum("nd,nkd->nk", unit, unit[graph]), 0, None).astype(np.float64)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    rng = np.random.default_rng(seed)
    reaches = [_reach(graph, rng.random(graph.shape) < weights) for _ in range(trials)]
    covered = [np.zeros(len(vectors), bool) for _ in range(trials)]
    chosen: list[int] = []
    for _ in range(count):
        gains = np.zeros(len(vectors))
        for reach, done in zip(reaches, covered, strict=True):
            gains += (reach & ~done).sum(axis=1)
        gains[chosen] = -1.0
        best = int(gains.argmax())
        chosen.append(best)
        for reach, done in zip(reaches, covered, strict=True):
            done |= reach[best]
    return tuple(chosen)


def _reach(graph: NDArray[np.int64], open_edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [n, n]: which rows each row reaches over open edges, itself included."""
    total = len(graph)
    reach = np.eye(total, dtype=bool)
    for start in range(total):
        stack = [start]
        while stack:
            node = stack.pop()
            fresh = [int(n) for n in graph[node][open_edges[node]] if not reach[start, n]]
            reach[start, fresh] = True
            stack.extend(fresh)
    return reach


def _check(vectors: Float32Array, count: int) -> None:
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise InvalidConfig(f"vectors must be finite [n, D]; got shape {vectors.shape}.")
    if not 0 <= count <= len(vectors):
        raise InvalidConfig(f"count must be between 0 and the {len(vectors)} items; got {count}.")
