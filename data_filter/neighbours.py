"""Nearest neighbours by cosine, exact against a reference set of bounded size: time grows linearly in the number of
rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_filter import linear
from data_filter.types import Int64Array
from guard.errors import UsageError
from guard.types import Float32Array

MAX_REFERENCE = 20_000
"""Rows that neighbours are looked up among. 200,000 x 20,000 x 64 floats take about half a minute on one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The k nearest of every row, nearest first."""

    indices: Int64Array
    """int64 [N, k], row numbers; -1 where a row has fewer admissible neighbours."""
    cosine: Float32Array
    """float32 [N, k], 0 where the index is -1."""

    @property
    def found(self) -> Float32Array:
        """float32 [N, k]: 1 where there is a neighbour."""
        return (self.indices >= 0).astype(np.float32)


def reference_rows(total: int, seed: int, limit: int = MAX_REFERENCE) -> Int64Array:
    """Return the sorted row numbers of the reference set: all rows, or a seeded sample of `limit`."""
    if total <= limit:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(total, size=limit, replace=False)).astype(np.int64)


def nearest(
    embeddings: Float32Array,
    k: int,
    *,
    groups: Sequence[str] = (),
    seed: int = 0,
    limit: int = MAX_REFERENCE,
) -> Neighbours:
    """Return the k nearest rows of every row, itself left out.

    With `groups`, rows of the same group are left out too: cuts of one video share its label, right or wrong, so
    their agreement is no evidence.
    """
    total = len(embeddings)
    if k < 1 or total < 2:
        raise UsageError(f"Neighbours need k of at least 1 and two rows; got k={k} and {total} rows.")
    reference = reference_rows(total, seed, limit)
    targets = linear.unit(embeddings[reference])
    codes = np.unique(np.array(groups), return_inverse=True)[1] if groups else np.arange(total)
    indices = np.full((total, k), -1, dtype=np.int64)
    cosine = np.zeros((total, k), dtype=np.float32)
    width = min(k, len(reference))
    for at, block in linear.blocks(embeddings, 1024):
        near = linear.unit(block) @ targets.T
        near[codes[at, None] == codes[reference][None, :]] = -np.inf
        top = np.argpartition(-near, width - 1, axis=1)[:, :width]
        value = np.take_along_axis(near, top, axis=1)
        order = np.lexsort((top, -value), axis=1)  # ties by row number: the result does not depend on the partition
        top, value = np.take_along_axis(top, order, axis=1), np.take_along_axis(value, order, axis=1)
        usable = np.isfinite(value)
        indices[at, :width] = np.where(usable, reference[top], -1)
        cosine[at, :width] = np.where(usable, value, 0.0)
    return Neighbours(indices=indices, cosine=cosine)


def vote(neighbours: Neighbours, targets: Float32Array) -> Float32Array:
    """Return the share of a row's neighbours that carry each category, float32 [N, C]; rows without neighbours keep
    their own."""
    weight = neighbours.found
    held = targets[np.maximum(neighbours.indices, 0)] * weight[:, :, None]
    count = weight.sum(axis=1, keepdims=True)
    return np.where(count > 0, held.sum(axis=1) / np.maximum(count, 1), targets).astype(np.float32)
