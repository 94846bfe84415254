"""One answer out of K classes, "safe" among them: for tables that report single labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray, confusion
from eval.metrics.multilabel import macro

SAFE = "safe"


def single_label(flags: BoolArray, scores: FloatArray, columns: Sequence[str]) -> list[str]:
    """Return for each of N clips the flagged category with the highest score, or `safe` where none is flagged.

    `flags` bool [N, C], `scores` float [N, C]; equal scores go to the first column.
    """
    names = []
    for row, values in zip(flags, scores, strict=True):
        names.append(columns[int(np.argmax(np.where(row, values, -np.inf)))] if row.any() else SAFE)
    return names


def multiclass(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> dict[str, Any] | None:
    """Return accuracy, macro-F1 over the classes that occur, recall of each class and the table of counts.

    `counts[i][j]` is how often class i was called class j. None for no clips.
    """
    if not truth:
        return None
    at = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for true, said in zip(truth, predicted, strict=True):
        counts[at[true], at[said]] += 1
    true_array, said_array = np.asarray(truth), np.asarray(predicted)
    each = {name: confusion(true_array == name, said_array == name) for name in classes}
    return {
        "clips": len(truth),
        "accuracy": float(np.trace(counts) / len(truth)),
        "macro_f1": macro([c.f1 for c in each.values()]),
        "recall": {name: c.recall for name, c in each.items()},
        "classes": list(classes),
        "counts": counts.tolist(),
    }
