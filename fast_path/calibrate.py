"""Fit a calibration: scaling and thresholds for every category of one detector.

`calibrate` takes scores, labels and groups as arrays, so that it does not matter how they were made. Two ways to ask:

* by risk, `fnr` and `fpr`: the most permissive thresholds whose risk is proven (definitions and proof:
  `fast_path.risk`);
* by `budget`: the strictest thresholds, with equal bounds on both risks, that escalate at most this share of the
  videos. Strictness is then chosen by looking at the data, so the stated bounds are estimates.

Both risks hold for one category. For several at once: a video that violates one category passes unseen with at most
the same probability, since it must be clear of every category; a harmless video is blocked by any of C categories
with at most C * fpr.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_path.calibration_file import CalibrationFile, CategoryCalibration
from fast_path.cuts import Plan, Sides
from fast_path.risk import Guarantee, Target
from fast_path.scaling import Scaling, choose, log_loss, map_scores
from guard.errors import InvalidManifest, UsageError
from guard.taxonomy import covers
from guard.types import Float32Array

Labels = NDArray[np.int8]
UNKNOWN = -1
"""Label of a clip for a category that nobody looked for: it counts neither way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """What one detector said of labelled clips."""

    categories: tuple[str, ...]
    scores: Float32Array
    """float32 [N, C] in [0, 1]: raw scores."""
    labels: Labels
    """int8 [N, C]: 1 violates, 0 does not, -1 unknown."""
    groups: tuple[str, ...]
    """N names: clips of one group are not independent."""
    detector: str
    fingerprint: str
    max_gap_seconds: float | None = None
    """How densely the clips were sampled; None where that is not known."""

    def __post_init__(self) -> None:
        shape = (len(self.groups), len(self.categories))
        if self.scores.shape != shape or self.labels.shape != shape:
            given = (self.scores.shape, self.labels.shape)
            raise InvalidManifest(f"Scores and labels must both have shape {shape} (clips, categories); got {given}.")
        if not len(self.groups):
            raise InvalidManifest("A calibration needs at least one clip; got none.")
        if not (np.all(self.scores >= 0) and np.all(self.scores <= 1)):  # false for NaN as well
            raise InvalidManifest("Scores must be finite and in [0, 1].")
        if not np.isin(self.labels, (0, 1, UNKNOWN)).all():
            raise InvalidManifest("Labels must be 1 (violates), 0 (does not) or -1 (unknown).")

    def data_hash(self) -> str:
        """Return a SHA-256 over the content that does not depend on the order of the clips."""
        rows = (
            f"{group!r}|{score.astype('<f4').tobytes().hex()}|{label.tobytes().hex()}"
            for group, score, label in zip(self.groups, self.scores, self.labels, strict=True)
        )
        return hashlib.sha256("\n".join([repr(self.categories), *sorted(rows)]).encode()).hexdigest()


def label_matrix(labels: Sequence[Sequence[str]], categories: Sequence[str]) -> Labels:
    """Return int8 [N, C] from the labels of each clip.

    A label below a category violates it. A label above it leaves it unknown: `violence` may or may not be
    `violence.fighting`.
    """
    table = np.zeros((len(labels), len(categories)), np.int8)
    for row, given in enumerate(labels):
        for column, category in enumerate(categories):
            if any(covers(category, label) for label in given):
                table[row, column] = 1
            elif any(covers(label, category) for label in given):
                table[row, column] = UNKNOWN
    return table


def calibrate(
    data: CalibrationSet,
    *,
    fnr: float | None = None,
    fpr: float | None = None,
    budget: float | None = None,
    guarantee: Guarantee = "expected",
    delta: float = 0.1,
    escalate_unproven: bool = False,
    only: Collection[str] = (),
    never_block: Collection[str] = (),
    now: datetime | None = None,
) -> CalibrationFile:
    """Fit scaling and thresholds for every category.

    Args:
        data: what the detector said of labelled clips; these must not have been trained on.
        fnr: largest miss rate, in (0, 1), of each category. Needs `fpr`.
        fpr: largest false-block rate, in (0, 1), of each category. Needs `fnr`.
        budget: largest share of videos that may be escalated, in (0, 1). With `fnr` and `fpr` it is checked, without
            them it decides.
        guarantee: `expected` or `high_probability` (at least 1 - `delta`).
        delta: see `guarantee`.
        escalate_unproven: rather than refuse, never clear (or never block) by a category with too few groups.
        only: fit these categories, and close the others: a rule on one of those always goes to the slow path. The
            budget and the stated escalation are then of a policy with rules on these alone. Empty: all.
        never_block: categories whose high scores may not block by themselves, whatever the target.
        now: date to write into the file; the present by default.

    Raises:
        InfeasibleTarget: the data cannot prove the target, or the target needs more escalation than the budget.
        InvalidManifest: arrays that do not fit together.
        UsageError: a request that says too little or too much, or names a category that the detector has not.
    """
    _check_request(fnr, fpr, budget)
    _check_names(data.categories, only, never_block)
    scalings = [_choose(data, column) for column in range(len(data.categories))]
    mapped = map_scores(data.scores, scalings)
    plan = Plan(
        categories=data.categories,
        scores=mapped,
        labels=data.labels,
        groups=data.groups,
        columns=tuple(i for i, name in enumerate(data.categories) if not only or name in only),
        silent=tuple(i for i, name in enumerate(data.categories) if name in never_block),
    )
    if fnr is not None and fpr is not None:
        clear, block = (Target(alpha=alpha, guarantee=guarantee, delta=delta) for alpha in (fnr, fpr))
        sides = plan.proven(clear, block)
        if not escalate_unproven:
            plan.refuse_unproven(sides, fnr, fpr)
        if budget is not None:
            plan.refuse_over_budget(sides, budget)
    else:
        sides = plan.for_budget(float(budget or 0.0))
    return CalibrationFile(
        detector=data.detector,
        fingerprint=data.fingerprint,
        guarantee=guarantee if fnr is not None else "estimate",
        delta=delta if fnr is not None and guarantee == "high_probability" else None,
        budget=budget,
        max_gap_seconds=data.max_gap_seconds,
        escalation=plan.escalation(sides)[0],
        clips=len(data.groups),
        groups=len(set(data.groups)),
        data_hash=data.data_hash(),
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        categories={
            category: _entry(data, mapped, column, scalings[column], sides[column])
            for column, category in enumerate(data.categories)
        },
    )


def _check_request(fnr: float | None, fpr: float | None, budget: float | None) -> None:
    if (fnr is None) != (fpr is None):
        raise UsageError("--fnr and --fpr belong together: one is for wrongly cleared videos, one for wrongly blocked.")
    if fnr is None and budget is None:
        raise UsageError("Say what to calibrate for: --fnr and --fpr, or --budget.")
    for name, value in (("--fnr", fnr), ("--fpr", fpr), ("--budget", budget)):
        if value is not None and not 0.0 < value < 1.0:
            raise UsageError(f"{name} must be between 0 and 1, both excluded; got {value!r}.")


def _check_names(categories: Sequence[str], only: Collection[str], never_block: Collection[str]) -> None:
    for option, names in (("--category", only), ("--never-block", never_block)):
        wrong = [name for name in names if name not in categories]
        if wrong:
            raise UsageError(f"{option} {wrong[0]}: the detector scores {', '.join(categories)}.")


def _choose(data: CalibrationSet, column: int) -> Scaling:
    known = data.labels[:, column] != UNKNOWN
    groups = [group for group, use in zip(data.groups, known, strict=True) if use]
    return choose(data.scores[known, column].astype(np.float64), data.labels[known, column] == 1, groups)


def _entry(
    data: CalibrationSet, mapped: Float32Array, column: int, scaling: Scaling, sides: Sides
) -> CategoryCalibration:
    known = data.labels[:, column] != UNKNOWN
    truth = data.labels[known, column] == 1
    losses: dict[str, Any] = {}
    if known.any():
        losses["log_loss_raw"] = log_loss(data.scores[known, column], truth)
        losses["log_loss_calibrated"] = log_loss(mapped[known, column], truth)
    return CategoryCalibration(
        method=scaling.method,
        slope=scaling.slope,
        offset=scaling.offset,
        knots_raw=scaling.knots_raw,
        knots_probability=scaling.knots_probability,
        clear=sides[0],
        block=sides[1],
        **losses,
    )
