"""Synthetic rows with a known truth, for tests, demos and growth measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_filter.types import FeatureView, Int64Array, LossKind
from guard.types import Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Blobs:
    """Gaussian classes in D dimensions, some labels flipped."""

    train: FeatureView
    queries: FeatureView
    clean_targets: Float32Array
    """float32 [N, C]: the labels of the training rows before flipping."""
    flipped: Int64Array
    """Row numbers with a wrong label."""


def blobs(
    *,
    rows: int = 300,
    queries: int = 60,
    classes: int = 4,
    width: int = 16,
    flips: float = 0.0,
    spread: float = 1.0,
    loss: LossKind = "softmax",
    seed: int = 0,
) -> Blobs:
    """Draw classes whose centres are about sqrt(2 width) / 2 apart, `spread` wide.

    With `sigmoid`, class 0 is benign (no category) and there are `classes - 1` categories.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    kinds = rng.permutation(np.arange(rows + queries) % classes)
    points = (centres[kinds] + spread * 0.5 * rng.normal(size=(len(kinds), width))).astype(np.float32)
    given = kinds.copy()
    wrong = np.sort(rng.permutation(rows)[: round(flips * rows)])
    given[wrong] = (given[wrong] + rng.integers(1, classes, size=len(wrong))) % classes
    names = tuple(f"class_{i}" for i in range(classes))

    def view(at: slice, prefix: str, kinds: Int64Array) -> FeatureView:
        targets = np.eye(classes, dtype=np.float32)[kinds[at]]
        return FeatureView(
            ids=tuple(f"{prefix}{i:06d}" for i in range(len(targets))),
            targets=targets if loss == "softmax" else targets[:, 1:],
            categories=names if loss == "softmax" else names[1:],
            loss=loss,
            embeddings=points[at],
        )

    first, last = slice(0, rows), slice(rows, None)
    return Blobs(
        train=view(first, "t", given),
        queries=view(last, "q", given),
        clean_targets=view(first, "t", kinds).targets,
        flipped=wrong.astype(np.int64),
    )
