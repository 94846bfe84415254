"""Thresholds with a proven risk, for one category.

Two risks are controlled, each for one side of the uncertain band. Let a *group* be clips that are not independent
(one source video, one camera), let groups be exchangeable, and let (S, Y) be the score and label of a clip drawn
evenly from a new group:

    miss rate          P(S <  clear_below | Y = 1)    the fast path clears a clip that violates
    false-block rate   P(S >= block_at    | Y = 0)    the fast path blocks a clip that does not

where for the miss rate the clip is drawn from the violating clips of a new group that has any, and for the
false-block rate from the other clips of one that has any. Both are conditional on the label, so they hold whatever
share of the traffic violates. They speak of the threshold alone: whatever else sends a clip to the slow path can only
lower them.

`expected` (conformal risk control, Angelopoulos et al., arXiv 2208.02814): with L_g(t) the share of group g that is
lost at threshold t, monotone in t and at most 1, the most permissive t with

    (sum_g L_g(t) + 1) / (G + 1) <= alpha

has E[risk] <= alpha, over the draw of the calibration groups and of the new clip. No threshold does it for alpha < 1
/ (G + 1).

`high_probability` (upper confidence bounds on a monotone risk, Bates et al., arXiv 2101.02703, with the
Hoeffding-Bentkus p-value of Angelopoulos et al., arXiv 2110.01052): P(risk <= alpha) >= 1 - delta over the draw of
the calibration groups. With no loss at all it needs (1 - alpha)^G <= delta.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from guard.types import Float32Array, require

Guarantee = Literal["expected", "high_probability"]
Rule = Literal["expected", "high_probability", "empirical"]
"""`empirical` proves nothing: the risk on the clips themselves is at most alpha."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A limit on one risk."""

    alpha: float
    """In (0, 1): the largest risk allowed."""
    guarantee: Rule = "expected"
    delta: float = 0.1
    """In (0, 1): for `high_probability`, how likely the calibration may be misled."""

    def __post_init__(self) -> None:
        require(0.0 < self.alpha < 1.0, "alpha", "between 0 and 1", self.alpha)
        require(0.0 < self.delta < 1.0, "delta", "between 0 and 1", self.delta)

    def bound(self, loss: float, groups: int) -> float:
        """Return the risk that is proven for a summed group loss `loss` over `groups` groups; 1 where nothing is.

        For `empirical`, the formula of `expected`, which is then no more than an estimate.
        """
        if self.guarantee != "high_probability":
            return (loss + 1) / (groups + 1)
        low, high = 0.0, 1.0
        for _ in range(50):  # the p-value falls as the risk that it tests grows
            middle = (low + high) / 2
            low, high = (low, middle) if hoeffding_bentkus(loss, groups, middle) <= self.delta else (middle, high)
        return high

    def holds(self, loss: float, groups: int) -> bool:
        """Whether the risk is proven (for `empirical`: was seen) to be at most alpha."""
        if self.guarantee == "empirical":
            return groups > 0 and loss / groups <= self.alpha + 1e-12
        if self.guarantee == "expected":
            return (loss + 1) / (groups + 1) <= self.alpha + 1e-12
        return groups > 0 and hoeffding_bentkus(loss, groups, self.alpha) <= self.delta


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A threshold, and what is proven of it."""

    threshold: float | None
    """None where no threshold has the risk."""
    groups: int
    clips: int
    lost: float
    """Sum over groups of the share of their clips that the threshold loses."""
    bound: float
    """Proven of a threshold that was fixed before the clips were seen; of this one, alpha is. Where there is none, the
    least that this many groups could prove."""


def clear_threshold(scores: Float32Array, groups: Sequence[str], target: Target) -> Cut:
    """Return the highest `clear_below` with a miss rate of at most `target`.

    `scores` float32 [N]: of violating clips only; `groups`: N names. A clip is cleared where its score is below the
    threshold.
    """
    values, lost, count = _loss_below(scores, groups)
    best = bisect_left(lost, True, key=lambda loss: not target.holds(loss, count)) - 1  # the loss grows with the score
    if best < 0:
        return Cut(threshold=None, groups=count, clips=len(scores), lost=0.0, bound=target.bound(0.0, count))
    return Cut(
        threshold=float(values[best]),
        groups=count,
        clips=len(scores),
        lost=lost[best],
        bound=target.bound(lost[best], count),
    )


def block_threshold(scores: Float32Array, groups: Sequence[str], target: Target) -> Cut:
    """Return the lowest `block_at` with a false-block rate of at most `target`.

    `scores` float32 [N]: of clips that do not violate; `groups`: N names. A clip is blocked at or above the threshold.
    """
    # blocked at b = not (score < b): the mirror image, whose rule is "above" and not "at or above", hence one float
    # more
    mirrored = clear_threshold(-np.asarray(scores, np.float32), groups, target)
    if mirrored.threshold is None:
        return mirrored
    above = float(np.nextafter(np.float32(-mirrored.threshold), np.float32(np.inf)))
    return Cut(threshold=above, groups=mirrored.groups, clips=mirrored.clips, lost=mirrored.lost, bound=mirrored.bound)


def group_loss(lost: NDArray[np.bool_], groups: Sequence[str]) -> tuple[float, int]:
    """Return the sum over groups of the share of clips that are lost, and the number of groups."""
    if not len(lost):
        return 0.0, 0
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(member)
    return float(np.sum(np.bincount(member, weights=lost) / sizes)), len(sizes)


def _loss_below(scores: Float32Array, groups: Sequence[str]) -> tuple[Float32Array, list[float], int]:
    """Return the distinct scores, for each the summed group loss of the clips *below* it, and the number of groups."""
    require(len(scores) == len(groups), "groups", "one per score", (len(scores), len(groups)))
    if not len(scores):
        return np.zeros(0, np.float32), [], 0
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    weight = 1.0 / np.bincount(member)[member]
    values, place = np.unique(np.asarray(scores, np.float32), return_inverse=True)
    mass = np.bincount(place, weights=weight)
    below = np.concatenate([[0.0], np.cumsum(mass)[:-1]])
    return values, below.tolist(), int(member.max()) + 1


def hoeffding_bentkus(loss: float, groups: int, alpha: float) -> float:
    """Return a p-value for "the risk is above alpha", from a summed loss over independent groups, each in [0, 1].

    The smaller of Hoeffding's bound and e times Bentkus' binomial tail (arXiv 2110.01052, proposition 2.6).
    """
    if not 0.0 < alpha < 1.0 or groups == 0:
        return 1.0
    mean = min(loss / groups, alpha)
    hoeffding = math.exp(-groups * _relative_entropy(mean, alpha))
    return min(1.0, hoeffding, math.e * binomial_cdf(math.ceil(loss - 1e-9), groups, alpha))


def binomial_cdf(successes: int, trials: int, p: float) -> float:
    """Return P(Binomial(trials, p) <= successes), summed in logarithms."""
    if successes >= trials:
        return 1.0
    terms = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(p) + (trials - k) * math.log1p(-p)
        for k in range(successes + 1)
    ]  # fmt: skip
    largest = max(terms)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(term - largest) for term in terms))


def _relative_entropy(a: float, b: float) -> float:
    left = a * math.log(a / b) if a > 0 else 0.0
    return left + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0)
