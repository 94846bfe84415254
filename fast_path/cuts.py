"""Both thresholds of every category at once: proven ones, or the strictest that a budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_path.calibration_file import NEVER_BLOCK, NEVER_CLEAR, Side
from fast_path.risk import Cut, Target, block_threshold, clear_threshold, group_loss
from guard.errors import InfeasibleTarget
from guard.types import Float32Array

Sides = tuple[Side, Side]
"""What clears and what blocks, of one category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Scored and labelled clips, and which sides of the uncertain band may be opened."""

    categories: tuple[str, ...]
    scores: Float32Array
    """float32 [N, C] in [0, 1], after scaling."""
    labels: NDArray[np.int8]
    """int8 [N, C]: 1 violates, 0 does not, anything else counts neither way."""
    groups: tuple[str, ...]
    columns: tuple[int, ...]
    """Categories to fit. The others are closed on both sides, and left out of budget and escalation."""
    silent: tuple[int, ...] = ()
    """Categories that never block."""

    def proven(self, clear: Target, block: Target) -> list[Sides]:
        """Return the most permissive sides with these risks; closed where too few groups could prove one."""
        return [self._proven(column, clear, block) for column in range(len(self.categories))]

    def for_budget(self, budget: float) -> list[Sides]:
        """Return the strictest sides, one level of risk for all, that keep escalation within `budget`.

        Raises:
            InfeasibleTarget: there are none, or a category lacks clips of one kind.
        """
        levels = self._levels()

        def at(level: float) -> list[Sides]:
            # with the finite-sample correction a category of few groups could never be cleared, and the budget would
            # be met by blocking everything
            target = Target(alpha=level, guarantee="empirical")
            return self.proven(target, target)

        low, high = 0, len(levels) - 1
        while low < high:  # escalation falls as the level rises
            middle = (low + high) // 2
            within = self.escalation(at(levels[middle]))[1] <= budget
            low, high = (low, middle) if within else (middle + 1, high)
        sides = at(levels[low])
        share, bound = self.escalation(sides)
        if bound > budget:
            raise InfeasibleTarget(
                f"No thresholds escalate at most {budget:g}: the best here escalate {share:.3f} (bound {bound:.3f}, "
                f"{len(set(self.groups))} groups)."
            )
        unproven = {"target": None, "proven": False}
        return [(clear.model_copy(update=unproven), block.model_copy(update=unproven)) for clear, block in sides]

    def escalation(self, sides: Sequence[Sides]) -> tuple[float, float]:
        """Return the share of videos sent to the slow path, as a mean over groups, and its bound (sum + 1) / (G + 1).

        As the router does it where every rule on a fitted category blocks: a sure violation of any settles the video.
        """
        mapped = self.scores[:, list(self.columns)]
        low = np.array([sides[column][0].threshold for column in self.columns])
        high = np.array([sides[column][1].threshold for column in self.columns])
        blocked = np.any(mapped >= high, axis=1)
        lost, count = group_loss(np.asarray(np.any(mapped >= low, axis=1) & ~blocked), self.groups)
        return lost / count, (lost + 1) / (count + 1)

    def refuse_unproven(self, sides: Sequence[Sides], fnr: float, fpr: float) -> None:
        """Raise `InfeasibleTarget`, with the least provable risk, where a side that was asked for is closed."""
        problems = []
        for column in self.columns:
            clear, block = sides[column]
            asked = [(clear, "violating", "--fnr", fnr)]
            asked += [(block, "other", "--fpr", fpr)] if column not in self.silent else []
            problems += [
                f"{self.categories[column]}: {side.groups} groups of {kind} clips can prove no less than "
                f"{side.bound:.3f}, and {name} is {target:g}"
                for side, kind, name, target in asked
                if not side.proven
            ]
        if problems:
            raise InfeasibleTarget(
                f"The calibration set is too small for the target. {'; '.join(problems)}.",
                hint="Raise the target, label more groups, or let such categories always go to the slow path "
                "(--escalate-unproven).",
            )

    def refuse_over_budget(self, sides: Sequence[Sides], budget: float) -> None:
        """Raise `InfeasibleTarget` where `sides` escalate more than `budget`."""
        share, bound = self.escalation(sides)
        if bound > budget:
            raise InfeasibleTarget(
                f"These risks need {share:.3f} of the videos escalated (bound {bound:.3f}, {len(set(self.groups))} "
                f"groups), and the budget is {budget:g}.",
                hint="Raise the budget or the targets, or train a better detector.",
            )

    def _levels(self) -> list[float]:
        counts = set()
        for column in self.columns:
            both = [len(set(self._clips(column, label)[1])) for label in (0, 1)]
            if not all(both):
                raise InfeasibleTarget(
                    f"{self.categories[column]} lacks clips of one kind: {both[1]} violating groups, {both[0]} others."
                )
            counts.update(both)
        return sorted({max(k / n, 1e-9) for n in counts for k in range(n)})

    def _clips(self, column: int, label: int) -> tuple[NDArray[np.bool_], list[str]]:
        chosen = self.labels[:, column] == label
        return chosen, [group for group, use in zip(self.groups, chosen, strict=True) if use]

    def _proven(self, column: int, clear: Target, block: Target) -> Sides:
        """Return both sides of one category. Where they overlap, one cut between them serves both: each side only
        gets safer."""
        scores = self.scores[:, column]
        (violating, groups1), (other, groups0) = self._clips(column, 1), self._clips(column, 0)
        low = clear_threshold(scores[violating], groups1, clear)
        high = block_threshold(scores[other], groups0, block)
        may_clear, may_block = column in self.columns, column in self.columns and column not in self.silent
        cut_low, cut_high = low.threshold if may_clear else None, high.threshold if may_block else None
        if cut_low is not None and cut_high is not None and cut_low > cut_high:
            cut_low = cut_high = self._best_cut(column, cut_high, cut_low)
        missed = None if cut_low is None else group_loss(scores[violating] < cut_low, groups1)[0]
        blocked = None if cut_high is None else group_loss(scores[other] >= cut_high, groups0)[0]
        return (
            _side(low, cut_low, missed, clear, NEVER_CLEAR),
            _side(high, cut_high, blocked, block, NEVER_BLOCK),
        )

    def _best_cut(self, column: int, low: float, high: float) -> float:
        """Return the cut from `low` to `high` with the fewest errors of both kinds, in the middle of those that tie."""
        scores = self.scores[:, column]
        (violating, groups1), (other, groups0) = self._clips(column, 1), self._clips(column, 0)
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
