"""Shared pieces of the selectors that spread their picks: which space to work in, what may be picked, greedy
coverage, clusters."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from data_filter import linear
from data_filter.types import BoolArray, FeatureView, Float64Array, Int64Array, ScoreMatrix
from guard.errors import UsageError
from guard.types import Float32Array

Space: TypeAlias = Literal["embeddings", "gradients"]


def admissible(scores: ScoreMatrix, budget: int, allowed: BoolArray | None, pool: FeatureView, who: str) -> Int64Array:
    """Return the row numbers that may be picked. Raises `UsageError` for a budget that cannot be, or scores of other
    rows."""
    if scores.ids != pool.ids:
        raise UsageError(
            f"{who}: the scores are for other rows than the pool ({len(scores.ids)} and {len(pool)} rows)."
        )
    if allowed is not None and len(allowed) != len(pool):
        raise UsageError(f"{who}: allowed must have {len(pool)} entries; got {len(allowed)}.")
    rows = np.arange(len(pool)) if allowed is None else np.flatnonzero(allowed)
    if not 1 <= budget <= len(rows):
        raise UsageError(f"{who}: the budget must be in [1, {len(rows)}], the rows that may be kept; got {budget}.")
    return rows.astype(np.int64)


def ranked(values: Float32Array | Float64Array, rows: Int64Array) -> Int64Array:
    """Return `rows` from the highest value to the lowest; ties by row number."""
    found: Int64Array = rows[np.argsort(-values[rows], kind="stable")]
    return found


def space_rows(view: FeatureView, space: Space, who: str) -> Float32Array:
    """Return rows of length one in the space to spread over, float32 [N, D]; gradients at the last checkpoint."""
    if space == "embeddings":
        return linear.unit(view.need_embeddings(who))
    if space == "gradients":
        rows = view.need_gradients(who).last.rows
        return np.concatenate([linear.unit(block) for _, block in linear.blocks(rows)])
    raise UsageError(f"{who}: space must be 'embeddings' or 'gradients'; got {space!r}.")


def witnesses(total: int, limit: int, rng: np.random.Generator) -> Int64Array:
    """Return at most `limit` row numbers that stand for all: coverage of them estimates coverage of everything."""
    if total <= limit:
        return np.arange(total, dtype=np.int64)
    return np.sort(rng.choice(total, size=limit, replace=False)).astype(np.int64)


def greedy_coverage(similarity: Float32Array, budget: int, bonus: Float32Array) -> Int64Array:
    """Pick columns that maximise sum_w max_{j picked} s_wj + sum of bonus, lazily: exactly what plain greedy picks.

    `similarity` float32 [witnesses, candidates], non-negative; `bonus` float32 [candidates]. Greedy reaches 1 - 1/e
    of the best (facility location is submodular); a stale gain is an upper bound, so most candidates are never
    looked at again.
    """
    covered = np.zeros(similarity.shape[0], dtype=np.float32)
    gains = similarity.sum(axis=0, dtype=np.float64) + bonus
    heap = [(-float(gain), j) for j, gain in enumerate(gains)]
    heapq.heapify(heap)
    picked: list[int] = []
    while len(picked) < budget:
        _, j = heapq.heappop(heap)
        gain = float(np.maximum(similarity[:, j] - covered, 0).sum(dtype=np.float64) + bonus[j])
        if not heap or (-gain, j) <= heap[0]:
            picked.append(j)
            covered = np.maximum(covered, similarity[:, j])
        else:
            heapq.heappush(heap, (-gain, j))
    return np.array(picked, dtype=np.int64)


def stochastic_coverage(
    witness: Float32Array, candidates: Float32Array, budget: int, bonus: Float32Array, rng: np.random.Generator
) -> Int64Array:
    """As `greedy_coverage` for many candidates: each step looks at a sample of n/budget x ln(1/0.05) of them.

    Within 0.05 of greedy's bound in expectation (arXiv 1409.7938), and linear in the number of candidates whatever
    the budget.
    """
    left = np.ones(len(candidates), dtype=np.bool_)
    covered = np.zeros(len(witness), dtype=np.float32)
    size = max(1, round(len(candidates) / budget * np.log(20)))
    picked: list[int] = []
    for _ in range(budget):
        drawn = rng.integers(0, len(candidates), size=2 * size)
        drawn = np.unique(drawn[left[drawn]])[:size]
        if len(drawn) == 0:
            drawn = np.flatnonzero(left)[:size]
        near = np.maximum(witness @ candidates[drawn].T, 0)
        gain = np.maximum(near - covered[:, None], 0).sum(axis=0) + bonus[drawn]
        best = int(gain.argmax())
        picked.append(int(drawn[best]))
        left[drawn[best]] = False
        covered = np.maximum(covered, near[:, best])
    return np.array(picked, dtype=np.int64)


def k_means(
    rows: Float32Array, k: int, rng: np.random.Generator, *, rounds: int = 15, sample: int = 20_000
) -> Int64Array:
    """Return a cluster number per row, int64 [N]; centres are fitted on at most `sample` rows (k-means++ start)."""
    fit = rows[witnesses(len(rows), sample, rng)].astype(np.float64)
    k = min(k, len(fit))
    centres = [fit[rng.integers(len(fit))]]
    gap = np.square(fit - centres[0]).sum(axis=1)
    for _ in range(k - 1):
        total = gap.sum()
        at = rng.choice(len(fit), p=gap / total) if total > 0 else rng.integers(len(fit))
        centres.append(fit[at])
        gap = np.minimum(gap, np.square(fit - centres[-1]).sum(axis=1))
    centre = np.stack(centres)
    for _ in range(rounds):
        which = _nearest_centre(fit, centre)
        for c in np.unique(which):
            centre[c] = fit[which == c].mean(axis=0)
    return np.concatenate([_nearest_centre(rows[s : s + 8192], centre) for s in range(0, len(rows), 8192)])


def _nearest_centre(rows: Float32Array | Float64Array, centre: Float64Array) -> Int64Array:
    distance = np.square(centre).sum(axis=1) - 2 * rows @ centre.T
    found: Int64Array = distance.argmin(axis=1).astype(np.int64)
    return found


def by_stratum(strata: Sequence[str], rows: Int64Array) -> dict[str, Int64Array]:
    """Return the row numbers of every stratum, strata sorted by name."""
    names, which = np.unique(np.array([strata[i] for i in rows]), return_inverse=True)
    return {str(name): rows[which == i] for i, name in enumerate(names)}


def interleaved(parts: Sequence[Int64Array]) -> Int64Array:
    """Return the picks of several groups as one order in which every beginning holds about the same share of each.

    Parts of 2 and 4 picks give b0 a0 b1 b2 a1 b3: who takes the first half of a kept manifest takes half of each group.
    """
    place = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
    order = np.argsort(place, kind="stable")
    found: Int64Array = np.concatenate(parts)[order].astype(np.int64)
    return found


def shares(sizes: Sequence[int], budget: int, floor: int, *, balanced: bool) -> list[int]:
    """Split a budget over groups: first the floor for each, then evenly (or by size), never more than a group has.

    Water filling: sizes 2, 10, 10 with budget 12 give 2, 5, 5. Raises `UsageError` where the floors alone exceed the
    budget.
    """
    least = [min(floor, size) for size in sizes]
    if sum(least) > budget:
        raise UsageError(
            f"A floor of {floor} for {len(sizes)} groups needs {sum(least)} picks; the budget is {budget}."
        )
    given = list(least)
    weights = [1.0] * len(sizes) if balanced else [float(size) for size in sizes]
    while sum(given) < budget:
        # give one at a time to the group furthest under its fair share; ties to the first
        open_groups = [i for i, size in enumerate(sizes) if given[i] < size]
        given[min(open_groups, key=lambda i: ((given[i] + 0.5) / weights[i], i))] += 1
    return given
