"""The strict metrics: every category over all clips, one against the rest, so that no false alarm is free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics import multilabel
from eval.metrics.confusion import BoolArray, FloatArray, any_of, confusion
from eval.metrics.ranking import Ranked

FPR_LIMITS = (0.01, 0.05)


class Strict:
    """The metrics of one set of answers, as a function of how often each clip counts."""

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
        self._truth, self._flags = truth, flags
        self._known = np.ones_like(truth) if known is None else known
        self._full = self._known.all(axis=1)
        self._columns = tuple(columns) or tuple(str(c) for c in range(truth.shape[1]))
        self._withheld = withheld
        score = scores.max(axis=1, initial=0.0) if any_score is None else any_score
        self._any = Ranked(any_of(truth), score)
        self._ranked = [
            Ranked(truth[self._known[:, c], c], scores[self._known[:, c], c]) for c in range(truth.shape[1])
        ]

    def __call__(self, weights: FloatArray | None = None) -> dict[str, float | None]:
        """Return every metric; with `weights` [N], each clip counts that often."""
        return {**self._sets(weights), **self._binary(weights), **self._categories(weights)}

    def headline(self, weights: FloatArray | None = None) -> dict[str, float | None]:
        """Return the metrics of whole sets, the binary ones, and macro-F1: what pairs of systems are tested on."""
        counts = multilabel.per_category(self._truth, self._flags, self._known, weights)
        return {**self._sets(weights), **self._binary(weights), "macro/f1": multilabel.macro([c.f1 for c in counts])}

    def _sets(self, weights: FloatArray | None) -> dict[str, float | None]:
        """Metrics of whole label sets; only clips whose label speaks of every column have one."""
        rows = self._full
        truth, flags = self._truth[rows], self._flags[rows]
        kept = None if weights is None else weights[rows]
        return {
            "exact_match": multilabel.exact_match(truth, flags, kept),
            "jaccard": multilabel.jaccard(truth, flags, kept),
            "hamming_accuracy": multilabel.hamming_accuracy(truth, flags, kept),
            "sample_f1": multilabel.sample_f1(truth, flags, kept),
        }

    def _binary(self, weights: FloatArray | None) -> dict[str, float | None]:
        unsafe = any_of(self._truth)
        counts = confusion(unsafe, any_of(self._flags), weights)
        made: dict[str, float | None] = {f"binary/{name}": value for name, value in counts.rates().items()}
        made["binary/false_refusal"] = counts.false_positive_rate
        made |= {f"binary/{name}": value for name, value in self._any.summary(FPR_LIMITS, weights).items()}
        if self._withheld is not None:
            held = confusion(unsafe, self._withheld, weights)
            made |= {"withheld/recall": held.recall, "withheld/leakage": held.leakage}
            made["withheld/false_refusal"] = held.false_positive_rate
        return made

    def _categories(self, weights: FloatArray | None) -> dict[str, float | None]:
        counts = multilabel.per_category(self._truth, self._flags, self._known, weights)
        made: dict[str, float | None] = {}
        for index, (name, count) in enumerate(zip(self._columns, counts, strict=True)):
            ranked = self._ranked[index]
            kept = None if weights is None else weights[self._known[:, index]]
            made |= {f"{name}/{metric}": value for metric, value in ranked.summary(FPR_LIMITS, kept).items()}
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
