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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_path.calibration_file import NEVER_BLOCK, NEVER_CLEAR, CalibrationFile, CategoryCalibration, Side
from fast_path.risk import Cut, Guarantee, Target, block_threshold, clear_threshold, group_loss
from fast_path.scaling import Scaling, choose, log_loss, map_scores
from guard.errors import InfeasibleTarget, InvalidManifest, UsageError
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
        now: date to write into the file; the present by default.

    Raises:
        InfeasibleTarget: the data cannot prove the target, or the target needs more escalation than the budget.
        InvalidManifest: arrays that do not fit together.
    """
    _check_request(fnr, fpr, budget)
    scalings = [_choose(data, column) for column in range(len(data.categories))]
    mapped = map_scores(data.scores, scalings)
    if fnr is not None and fpr is not None:
        clear, block = (Target(alpha=alpha, guarantee=guarantee, delta=delta) for alpha in (fnr, fpr))
        sides = [_proven_sides(data, mapped, column, clear, block) for column in range(len(data.categories))]
        if not escalate_unproven:
            _refuse_unproven(data.categories, sides, fnr, fpr)
        if budget is not None:
            _refuse_over_budget(mapped, sides, data.groups, budget)
    else:
        sides = _sides_for_budget(data, mapped, float(budget or 0.0))
    return CalibrationFile(
        detector=data.detector,
        fingerprint=data.fingerprint,
        guarantee=guarantee if fnr is not None else "estimate",
        delta=delta if fnr is not None and guarantee == "high_probability" else None,
        budget=budget,
        escalation=_escalation(mapped, sides, data.groups)[0],
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


def _choose(data: CalibrationSet, column: int) -> Scaling:
    known = data.labels[:, column] != UNKNOWN
    groups = [group for group, use in zip(data.groups, known, strict=True) if use]
    return choose(data.scores[known, column].astype(np.float64), data.labels[known, column] == 1, groups)


_Sides = tuple[Side, Side]


def _clips(data: CalibrationSet, column: int, label: int) -> tuple[NDArray[np.bool_], list[str]]:
    chosen = data.labels[:, column] == label
    return chosen, [group for group, use in zip(data.groups, chosen, strict=True) if use]


def _proven_sides(data: CalibrationSet, mapped: Float32Array, column: int, clear: Target, block: Target) -> _Sides:
    """Return both sides of one category. Where they overlap, one cut between them serves both: each side only gets
    safer."""
    violating, groups1 = _clips(data, column, 1)
    other, groups0 = _clips(data, column, 0)
    low = clear_threshold(mapped[violating, column], groups1, clear)
    high = block_threshold(mapped[other, column], groups0, block)
    cut_low, cut_high = low.threshold, high.threshold
    if cut_low is not None and cut_high is not None and cut_low > cut_high:
        cut_low = cut_high = _best_cut(data, mapped[:, column], column, cut_high, cut_low)
    missed = None if cut_low is None else group_loss(mapped[violating, column] < cut_low, groups1)[0]
    blocked = None if cut_high is None else group_loss(mapped[other, column] >= cut_high, groups0)[0]
    return (
        _side(low, cut_low, missed, clear, NEVER_CLEAR),
        _side(high, cut_high, blocked, block, NEVER_BLOCK),
    )


def _best_cut(data: CalibrationSet, scores: Float32Array, column: int, low: float, high: float) -> float:
    """Return the cut from `low` to `high` with the fewest errors of both kinds, in the middle of those that tie."""
    violating, groups1 = _clips(data, column, 1)
    other, groups0 = _clips(data, column, 0)
    inside = scores[(scores >= low) & (scores <= high)].tolist()
    candidates = sorted({*inside, low, high})
    errors = []
    for cut in candidates:
        missed, count1 = group_loss(scores[violating] < cut, groups1)
        blocked, count0 = group_loss(scores[other] >= cut, groups0)
        errors.append(round(missed / count1 + blocked / count0, 9))
    ties = [cut for cut, error in zip(candidates, errors, strict=True) if error == min(errors)]
    return float(np.float32(ties[len(ties) // 2]))


def _side(cut: Cut, threshold: float | None, lost: float | None, target: Target, closed: float) -> Side:
    proven = threshold is not None and lost is not None
    return Side(
        threshold=min(threshold, NEVER_BLOCK) if threshold is not None else closed,
        proven=proven,
        target=target.alpha,
        bound=min(1.0, target.bound(lost, cut.groups) if lost is not None else cut.bound),
        clips=cut.clips,
        groups=cut.groups,
    )


def _refuse_unproven(categories: Sequence[str], sides: Sequence[_Sides], fnr: float, fpr: float) -> None:
    problems = []
    for category, (clear, block) in zip(categories, sides, strict=True):
        for side, kind, name, target in ((clear, "violating", "--fnr", fnr), (block, "other", "--fpr", fpr)):
            if not side.proven:
                problems.append(
                    f"{category}: {side.groups} groups of {kind} clips can prove no less than {side.bound:.3f}, "
                    f"and {name} is {target:g}"
                )
    if problems:
        raise InfeasibleTarget(
            f"The calibration set is too small for the target. {'; '.join(problems)}.",
            hint="Raise the target, label more groups, or let such categories always go to the slow path "
            "(--escalate-unproven).",
        )


def _escalation(mapped: Float32Array, sides: Sequence[_Sides], groups: Sequence[str]) -> tuple[float, float]:
    """Return the share of videos sent to the slow path, as a mean over groups, and its bound (sum + 1) / (G + 1).

    As the router does it where every rule blocks: a sure violation of any category settles the video.
    """
    low = np.array([clear.threshold for clear, _ in sides])
    high = np.array([block.threshold for _, block in sides])
    blocked = np.any(mapped >= high, axis=1)
    lost, count = group_loss(np.asarray(np.any(mapped >= low, axis=1) & ~blocked), groups)
    return lost / count, (lost + 1) / (count + 1)


def _refuse_over_budget(mapped: Float32Array, sides: Sequence[_Sides], groups: Sequence[str], budget: float) -> None:
    share, bound = _escalation(mapped, sides, groups)
    if bound > budget:
        raise InfeasibleTarget(
            f"These risks need {share:.3f} of the videos escalated (bound {bound:.3f}, {len(set(groups))} groups), "
            f"and the budget is {budget:g}.",
            hint="Raise the budget or the targets, or train a better detector.",
        )


def _sides_for_budget(data: CalibrationSet, mapped: Float32Array, budget: float) -> list[_Sides]:
    """Return the strictest sides, one level of risk for all, that keep escalation within the budget."""
    counts = set()
    for column, category in enumerate(data.categories):
        both = [len(set(_clips(data, column, label)[1])) for label in (0, 1)]
        if not all(both):
            raise InfeasibleTarget(f"{category} lacks clips of one kind: {both[1]} violating groups, {both[0]} others.")
        counts.update(both)
    levels = sorted({max(k / n, 1e-9) for n in counts for k in range(n)})

    def at(level: float) -> list[_Sides]:
        # with the finite-sample correction a category of few groups could never be cleared, and the budget would be met
        # by blocking everything
        target = Target(alpha=level, guarantee="empirical")
        return [_proven_sides(data, mapped, column, target, target) for column in range(len(data.categories))]

    low, high = 0, len(levels) - 1
    while low < high:  # escalation falls as the level rises
        middle = (low + high) // 2
        within = _escalation(mapped, at(levels[middle]), data.groups)[1] <= budget
        low, high = (low, middle) if within else (middle + 1, high)
    sides = at(levels[low])
    share, bound = _escalation(mapped, sides, data.groups)
    if bound > budget:
        raise InfeasibleTarget(
            f"No thresholds escalate at most {budget:g}: the best here escalate {share:.3f} (bound {bound:.3f}, "
            f"{len(set(data.groups))} groups)."
        )
    unproven = {"target": None, "proven": False}
    return [(clear.model_copy(update=unproven), block.model_copy(update=unproven)) for clear, block in sides]


def _entry(
    data: CalibrationSet, mapped: Float32Array, column: int, scaling: Scaling, sides: _Sides
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
