"""Predictions beside gold, as arrays: what every metric is computed from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray, any_of
from eval.types import Column, Gold, Prediction
from guard.errors import UsageError

InvalidPolicy: TypeAlias = Literal["wrong", "negative", "exclude", "error"]
INVALID_POLICIES: tuple[InvalidPolicy, ...] = ("wrong", "negative", "exclude", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """N scored samples against C columns."""

    ids: tuple[str, ...]
    columns: tuple[str, ...]
    truth: BoolArray
    """bool [N, C]."""
    known: BoolArray
    """bool [N, C]: whether the label speaks of the column."""
    flags: BoolArray
    """bool [N, C]."""
    scores: FloatArray
    """float64 [N, C] in [0, 1]; 0 where the system did not judge the column."""
    any_score: FloatArray
    """float64 [N]: that the sample is unsafe at all."""
    withheld: BoolArray
    """bool [N]: anything but `allow`; the same as any flag for a system that does not decide."""
    valid: BoolArray
    """bool [N]: whether there was an answer."""
    groups: tuple[str, ...]
    not_judged: tuple[int, ...]
    """By column, valid answers that said nothing of it."""
    hard: bool
    """True where the system gives no scores: they are then its flags, and ranking metrics say little."""

    @property
    def unsafe(self) -> BoolArray:
        """bool [N]: whether any column is violated."""
        return any_of(self.truth)

    @property
    def flagged(self) -> BoolArray:
        """bool [N]: whether any column was flagged."""
        return any_of(self.flags)


def build_table(
    predictions: Sequence[Prediction],
    golds: Sequence[Gold],
    columns: Sequence[Column],
    *,
    invalid: InvalidPolicy = "wrong",
) -> Table:
    """Return the table; `golds[i]` is of `predictions[i]`.

    Args:
        predictions: one for each sample.
        golds: what is true.
        columns: of the benchmark.
        invalid: what an answer that is none counts as. `wrong`: a violating sample as waved through, a harmless one as
            flagged in every column, and the score of every column as far off as can be; `negative`: nothing flagged;
            `exclude`: left out, coverage says how many; `error`: refuse to score.

    Raises:
        UsageError: there is such an answer and `invalid` is `error`.
    """
    bad = Counter(str(p.code) for p in predictions if not p.valid)
    if bad and invalid == "error":
        named = ", ".join(f"{code} {count}" for code, count in bad.most_common())
        raise UsageError(
            f"{bad.total()} of {len(predictions)} samples have no answer: {named}.",
            hint="Use --invalid-policy wrong, negative or exclude, or repair them and --retry-failed.",
        )
    if invalid == "exclude":
        kept = [i for i, p in enumerate(predictions) if p.valid]
        predictions, golds = [predictions[i] for i in kept], [golds[i] for i in kept]
    truth, known = _truth(golds, columns)
    cells = [[_cell(p, column) for column in columns] for p in predictions]
    flags = np.array([[flag for flag, _ in row] for row in cells], bool).reshape(truth.shape)
    raw = np.array([[np.nan if s is None else s for _, s in row] for row in cells], np.float64).reshape(truth.shape)
    valid = np.array([p.valid for p in predictions], bool)
    hard = not any(p.scores for p in predictions)
    scores = flags.astype(np.float64) if hard else np.nan_to_num(raw, nan=0.0)
    withheld = np.array([_withheld(p, row.any()) for p, row in zip(predictions, flags, strict=True)], bool)
    any_score = np.array([_any(p, row) for p, row in zip(predictions, scores, strict=True)], np.float64)
    if invalid == "wrong":
        flags[~valid], scores[~valid] = ~truth[~valid], (~truth[~valid]).astype(np.float64)
        unsafe = truth[~valid].any(axis=1)
        withheld[~valid], any_score[~valid] = ~unsafe, (~unsafe).astype(np.float64)
        flags[~valid] &= ~unsafe[:, None]  # an unsafe one counts as waved through, not as flagged for something else
    return Table(
        ids=tuple(p.id for p in predictions),
        columns=tuple(column.id for column in columns),
        truth=truth,
        known=known,
        flags=flags,
        scores=scores,
        any_score=any_score,
        withheld=withheld,
        valid=valid,
        groups=tuple(g.group or g.name for g in golds),
        not_judged=tuple(int((np.isnan(raw[:, c]) & valid & ~flags[:, c]).sum()) for c in range(len(columns))),
        hard=hard,
    )


def column_values(values: Mapping[str, float], column: Column) -> float | None:
    """Return the highest score that answers `column`, or None where none does."""
    return max((score for category, score in values.items() if column.answered_by(category)), default=None)


def _truth(golds: Sequence[Gold], columns: Sequence[Column]) -> tuple[BoolArray, BoolArray]:
    shape = (len(golds), len(columns))
    truth = np.array([[c.id in g.labels for c in columns] for g in golds], bool).reshape(shape)
    known = np.array([[g.known is None or c.id in g.known for c in columns] for g in golds], bool).reshape(shape)
    return truth, known


def _cell(prediction: Prediction, column: Column) -> tuple[bool, float | None]:
    if not prediction.valid:
        return False, None
    return any(column.answered_by(c) for c in prediction.flagged), column_values(prediction.scores, column)


def _withheld(prediction: Prediction, flagged: bool) -> bool:
    if not prediction.valid:
        return False
    return bool(flagged) if prediction.decision is None else prediction.decision != "allow"


def _any(prediction: Prediction, scores: FloatArray) -> float:
    if not prediction.valid:
        return 0.0
    return prediction.any_score if prediction.any_score is not None else float(scores.max(initial=0.0))
