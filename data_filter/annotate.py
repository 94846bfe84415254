"""Which unlabelled clips should a person label, so that an in-context pool of a few examples serves as many clips as
it can?

IDEAL (arXiv 2310.10873): influence spreads over a kNN graph, each edge passing it on with a probability; choose the
rows that reach most of it. Instead of simulating the spread from every candidate again and again, reverse-reachable
sets are drawn once (Borgs et al., arXiv 1212.0884): a random row and everything that would have reached it. Rows
that hit most sets reach most rows.

Vote-k (arXiv 2209.01975): a row votes for its neighbours, and votes for the neighbours of what was chosen count less.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_filter import neighbours
from data_filter.neighbours import Neighbours
from data_filter.types import Float64Array, Int64Array
from guard.errors import UsageError
from guard.types import Float32Array, require


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateConfig:
    """Settings."""

    method: Literal["ideal", "vote_k"] = "ideal"
    k: int = 10
    """Neighbours per row."""
    sets: int = 20_000
    """Reverse-reachable sets: the estimate of a row's reach is off by about 1 / sqrt(sets) of all rows."""
    discount: float = 10.0
    """Vote-k: each chosen neighbour in common divides a vote by this."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.k >= 1 and self.sets >= 1, "k and sets", "at least 1", (self.k, self.sets))
        require(self.discount > 1, "discount", "above 1", self.discount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """Rows to label, the most useful first."""

    indices: Int64Array
    """int64 [B]."""
    reach: Float64Array
    """float64 [B]: expected share of all rows reached by the picks up to each (IDEAL), or votes at the time
    (Vote-k)."""


def pick(embeddings: Float32Array, budget: int, config: AnnotateConfig | None = None) -> Picks:
    """Return `budget` rows to label, for embeddings float32 [N, D]."""
    settings = config or AnnotateConfig()
    if not 1 <= budget <= len(embeddings):
        raise UsageError(f"The number of clips to label must be in [1, {len(embeddings)}]; got {budget}.")
    if len(embeddings) == 1:
        return Picks(indices=np.zeros(1, dtype=np.int64), reach=np.ones(1))
    near = neighbours.nearest(embeddings, min(settings.k, len(embeddings) - 1), seed=settings.seed)
    return _ideal(near, budget, settings) if settings.method == "ideal" else _vote_k(near, budget, settings)


def edges(near: Neighbours) -> Float32Array:
    """Return the probability that row i passes on to its j-th neighbour: its share of the likeness, float32 [N, k]."""
    weight = np.maximum(near.cosine, 0) * near.found
    total = weight.sum(axis=1, keepdims=True)
    found: Float32Array = (weight / np.where(total > 0, total, 1.0)).astype(np.float32)
    return found


def reverse_sets(near: Neighbours, count: int, rng: np.random.Generator) -> list[list[int]]:
    """Return `count` random reverse-reachable sets under independent cascade, each starting with the row it is
    about."""
    total = len(near.indices)
    into: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for i, (row, probability) in enumerate(zip(near.indices, edges(near), strict=True)):
        for j, p in zip(row, probability, strict=True):
            if j >= 0:
                into[int(j)].append((i, float(p)))
    sources = {j: (np.array([i for i, _ in e]), np.array([p for _, p in e])) for j, e in into.items()}
    found = []
    for root in rng.integers(0, total, size=count):
        seen = {int(root)}
        queue = [int(root)]
        while queue:
            node = queue.pop()
            if node not in sources:
                continue
            origin, probability = sources[node]
            for i in origin[rng.random(len(origin)) < probability]:
                if int(i) not in seen:
                    seen.add(int(i))
                    queue.append(int(i))
        found.append([int(root), *(seen - {int(root)})])
    return found


def _ideal(near: Neighbours, budget: int, settings: AnnotateConfig) -> Picks:
    total = len(near.indices)
    sets = reverse_sets(near, settings.sets, np.random.default_rng(settings.seed))
    member: list[list[int]] = [[] for _ in range(total)]
    for number, rows in enumerate(sets):
        for row in rows:
            member[row].append(number)
    count = np.array([len(numbers) for numbers in member], dtype=np.float64)
    open_sets = np.ones(len(sets), dtype=np.bool_)
    picked, reach, hit = [], [], 0
    for _ in range(budget):
        best = int(np.argmax(count))
        picked.append(best)
        for number in member[best]:
            if open_sets[number]:
                open_sets[number] = False
                hit += 1
                count[sets[number]] -= 1
        count[best] = -1.0
        reach.append(hit / len(sets))
    return Picks(indices=np.array(picked, dtype=np.int64), reach=np.array(reach))


def _vote_k(near: Neighbours, budget: int, settings: AnnotateConfig) -> Picks:
    total = len(near.indices)
    voters: list[list[int]] = [[] for _ in range(total)]
    for i, row in enumerate(near.indices):
        for j in row[row >= 0]:
            voters[int(j)].append(i)
    common = np.zeros(total)
    picked, votes = [], []
    free = np.ones(total, dtype=np.bool_)
    for _ in range(budget):
        # a voter that already has s chosen neighbours gives discount^-s
        score = np.array([(settings.discount ** -common[v]).sum() if v else 0.0 for v in voters])
        best = int(np.argmax(np.where(free, score, -np.inf)))
        picked.append(best)
        votes.append(float(score[best]))
        free[best] = False
        common[voters[best]] += 1
    return Picks(indices=np.array(picked, dtype=np.int64), reach=np.array(votes))
