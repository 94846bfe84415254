"""Which confidence of the slow path is enough: the lowest floor whose error is bounded, from labelled answers. Pure.

Labels at or above the floor settle a rule. Candidate floors are tested from the strictest down and the first that fails
ends the search (fixed-sequence testing, as in Learn then Test, arXiv 2110.01052), so the bound holds for the floor
returned with probability 1 - delta without a correction for the number of candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guard.errors import InfeasibleTarget
from guard.types import Judgement, require

FLOORS: tuple[float, ...] = tuple(round(0.99 - 0.01 * i, 2) for i in range(50))
"""Candidate floors from 0.99 down to 0.5."""
MARGIN = 4
"""The search starts where there are this many times the labels that would do without any error.

At alpha 0.1 and delta 0.1, 22 flawless labels would do, so 88 are wanted: fewer would fail the first floor for one
error. The start depends on the confidences alone, not on what is right, so the bound stays valid.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One label of the slow path, held against the truth."""

    confidence: float
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What a calibration found."""

    floor: float
    """Labels at or above it settle a rule."""
    alpha: float
    delta: float
    settled: int
    """Labels at or above the floor, of `total`."""
    total: int
    errors: int
    bound: float
    """Upper bound of the error rate among settled labels, at confidence 1 - delta."""


def answered(judgements: Iterable[tuple[Judgement, frozenset[str]]]) -> list[Answered]:
    """Return the labels of `judgements`, each paired with the set of rules that its video truly violates.

    Answers that are none, `unsure` labels and labels without a confidence settle nothing and are left out.
    """
    return [
        Answered(confidence=check.confidence, right=(check.violated == "yes") == (check.rule in truth))
        for judgement, truth in judgements
        if judgement.status == "ok"
        for check in judgement.checks
        if check.violated != "unsure" and check.confidence is not None
    ]


def fit(labels: Sequence[Answered], *, alpha: float = 0.05, delta: float = 0.1) -> Floor:
    """Return the lowest floor that keeps the error rate of settled labels at or below `alpha`.

    Args:
        labels: labels of videos that the model was not trained on.
        alpha: largest error rate allowed, in (0, 1).
        delta: chance, in (0, 1), that the promise fails over the draw of these videos.

    Raises:
        InfeasibleTarget: not even the strictest floor with enough labels holds it; the message has its bound.
    """
    require(0 < alpha < 1, "alpha", "in (0, 1)", alpha)
    require(0 < delta < 1, "delta", "in (0, 1)", delta)
    least = math.ceil(MARGIN * math.log(delta) / math.log1p(-alpha))
    best: Floor | None = None
    first_bound: float | None = None
    for floor in FLOORS:
        above = [label for label in labels if label.confidence >= floor]
        if len(above) < least:
            continue
        errors = sum(not label.right for label in above)
        bound = upper_bound(errors, len(above), delta)
        first_bound = bound if first_bound is None else first_bound
        if bound > alpha:
            break
        best = Floor(
            floor=floor, alpha=alpha, delta=delta, settled=len(above), total=len(labels), errors=errors, bound=bound
        )
    if best is None:
        known = (
            f"the strictest floor has the bound {first_bound:.3f}"
            if first_bound is not None
            else f"{len(labels)} labels are too few, {least} would do"
        )
        raise InfeasibleTarget(f"No confidence floor of the slow path keeps its error at or below {alpha}: {known}.")
    return best


def upper_bound(errors: int, total: int, delta: float) -> float:
    """Return the one-sided Clopper-Pearson upper bound of an error rate: the rate at which so few errors have chance
    delta.

    0 errors in 58 give 0.0389 at delta 0.1 (1 - 0.1 ** (1 / 58)).
    """
    if errors >= total:
        return 1.0
    low, high = errors / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _chance_of_at_most(errors, total, middle) > delta else (low, middle)
    return high


def _chance_of_at_most(errors: int, total: int, rate: float) -> float:
    """Binomial distribution function, by logarithms so that large counts do not underflow."""
    if rate <= 0.0:
        return 1.0
    if rate >= 1.0:
        return 0.0
    terms = (
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(rate)
        + (total - k) * math.log1p(-rate)
        for k in range(errors + 1)
    )
    return math.fsum(math.exp(term) for term in terms)
