"""The strict metrics: every category over all clips, one against the rest, so that no false alarm is free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics import multilabel
from eval.metrics.confusion import BoolArray, Confusion, FloatArray, any_of, ratio
from eval.metrics.ranking import Ranked

FPR_LIMITS = (0.01, 0.05)


class Strict:
    """The metrics of one set of answers, as a function of how often each clip counts.

    What a bootstrap asks for a thousand times is laid out once: every count is a column of one matrix, so that a draw
    is one product with the weights, and every ranking is sorted already.
    """

    def __init__(
        self,
        truth: BoolArray,
        flags: BoolArray,
        scores: FloatArray,
        *,
        known: BoolArray | None = None,
        any_score: FloatArray | None = None,
        withheld: BoolArray | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        """`truth`, `flags`, `known` bool [N, C], `scores` float64 [N, C], `any_score` [N], `withheld` bool [N]."""
        known = np.ones_like(truth) if known is None else known
        self._columns = tuple(columns) or tuple(str(c) for c in range(truth.shape[1]))
        unsafe, flagged = any_of(truth), any_of(flags)
        held = [_outcomes(unsafe, withheld)] if withheld is not None else []
        each = [_outcomes(truth[:, c], flags[:, c]) * known[:, c, None] for c in range(truth.shape[1])]
        self._counts = np.hstack([_sets(truth, flags, known), _outcomes(unsafe, flagged), *held, *each])
        self._has_withheld = bool(held)
        self._known = known
        self._any = Ranked(unsafe, scores.max(axis=1, initial=0.0) if any_score is None else any_score)
        self._ranked = [Ranked(truth[known[:, c], c], scores[known[:, c], c]) for c in range(truth.shape[1])]

    def __call__(self, weights: FloatArray | None = None) -> dict[str, float | None]:
        """Return every metric; with `weights` [N], each clip counts that often."""
        sets, binary, held, each = self._sums(weights)
        return {
            **_set_metrics(sets),
            **_binary_metrics(binary, held),
            **{f"binary/{name}": value for name, value in self._any.summary(FPR_LIMITS, weights).items()},
            **self._categories(each, weights),
        }

    def headline(self, weights: FloatArray | None = None) -> dict[str, float | None]:
        """Return the metrics of whole sets, the binary ones, and macro-F1: what pairs of systems are tested on."""
        sets, binary, held, each = self._sums(weights)
        return {
            **_set_metrics(sets),
            **_binary_metrics(binary, held),
            "binary/auroc": self._any.auroc(weights),
            "macro/f1": multilabel.macro([c.f1 for c in each]),
        }

    def _sums(self, weights: FloatArray | None) -> tuple[FloatArray, Confusion, Confusion | None, list[Confusion]]:
        total = self._counts.sum(axis=0) if weights is None else weights @ self._counts
        quads = [Confusion(tp=q[0], fp=q[1], fn=q[2], tn=q[3]) for q in total[_SETS:].reshape(-1, 4).tolist()]
        held = quads[1] if self._has_withheld else None
        return total[:_SETS], quads[0], held, quads[1 + self._has_withheld :]

    def _categories(self, counts: Sequence[Confusion], weights: FloatArray | None) -> dict[str, float | None]:
        made: dict[str, float | None] = {}
        for index, (name, count) in enumerate(zip(self._columns, counts, strict=True)):
            kept = None if weights is None else weights[self._known[:, index]]
            made |= {f"{name}/{m}": value for m, value in self._ranked[index].summary(FPR_LIMITS, kept).items()}
            rates = ("f1", "precision", "recall", "false_positive_rate")
            made |= {f"{name}/{rate}": getattr(count, rate) for rate in rates}
        micro = multilabel.micro(counts)
        return made | {
            "micro/f1": micro.f1,
            "micro/precision": micro.precision,
            "micro/recall": micro.recall,
            "macro/f1": multilabel.macro([c.f1 for c in counts]),
            "weighted/f1": multilabel.weighted([c.f1 for c in counts], [c.tp + c.fn for c in counts]),
            "macro/average_precision": multilabel.macro([made[f"{n}/average_precision"] for n in self._columns]),
        }


_SET_NAMES = ("exact_match", "jaccard", "hamming_accuracy", "sample_f1")
_SETS = 1 + len(_SET_NAMES)


def _sets(truth: BoolArray, flags: BoolArray, known: BoolArray) -> FloatArray:
    """Return float64 [N, 5]: whether a clip has a whole label set, and its four set metrics times that."""
    full = known.all(axis=1).astype(np.float64)
    shared, union = (truth & flags).sum(axis=1), (truth | flags).sum(axis=1)
    size = truth.sum(axis=1) + flags.sum(axis=1)
    each = (
        (truth == flags).all(axis=1),
        np.where(union == 0, 1.0, shared / np.maximum(union, 1)),
        (truth == flags).mean(axis=1) if truth.shape[1] else np.zeros(len(truth)),
        np.where(size == 0, 1.0, 2 * shared / np.maximum(size, 1)),
    )
    return np.stack([full, *(full * values for values in each)], axis=1)


def _outcomes(truth: BoolArray, flags: BoolArray) -> FloatArray:
    """Return float64 [N, 4] of 0 and 1: true positive, false positive, false negative, true negative."""
    return np.stack([truth & flags, ~truth & flags, truth & ~flags, ~truth & ~flags], axis=1).astype(np.float64)


def _set_metrics(sums: FloatArray) -> dict[str, float | None]:
    return {name: ratio(float(sums[i]), float(sums[0])) for i, name in enumerate(_SET_NAMES, 1)}


def _binary_metrics(counts: Confusion, held: Confusion | None) -> dict[str, float | None]:
    made: dict[str, float | None] = {f"binary/{name}": value for name, value in counts.rates().items()}
    made["binary/false_refusal"] = counts.false_positive_rate
    if held is not None:
        made |= {"withheld/recall": held.recall, "withheld/leakage": held.leakage}
        made["withheld/false_refusal"] = held.false_positive_rate
    return made
