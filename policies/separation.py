"""How sure can one be: from standard deviations above ordinary clips to a probability with an interval.

How far violations lie above ordinary clips (the *separation*) is unknown. It has a prior, which the examples sharpen
(each is scored with the others as prototype), and the video itself: what lies where hardly any ordinary clip does
speaks for a large separation. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from guard.types import Float32Array, Float64Array

_LOWEST, _HIGHEST = -3.0, 30.0
"""Deviations beyond these count as these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What is assumed before any example is seen."""

    shrinkage: float = 0.9
    """Share of the identity in the background's correlation matrix, in (0, 1]."""
    base_rate: float = 0.2
    """Probability of a violation before looking, in (0, 1). Above `clear_below`, so that ignorance clears nothing."""
    separation_mean: float = 1.2
    """Expected distance of violations from the background, in standard deviations; 1.2 is an AUROC of 0.80."""
    separation_spread: float = 1.0
    """Standard deviation of that expectation."""
    correlation: float = 0.5
    """How alike the examples of one author are, in [0, 1): k of them count as k / (1 + (k - 1) * correlation)."""
    interval: float = 0.9
    """Share of the posterior between `low` and `high`, in (0, 1)."""
    harmless_strength: float = 4.0
    """Number of harmless examples at which their mean counts half."""
    window_moments: int = 8
    """Moments of a video that are pooled together; at 2 s between moments, 16 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What is known of n videos."""

    probability: Float32Array
    """float32 [n] in [0, 1]: expected over the unknown separation."""
    low: Float32Array
    """float32 [n]: lower end of the interval."""
    high: Float32Array
    """float32 [n]: upper end."""
    deviations: Float32Array
    """float32 [n]: standard deviations above the mean of the background."""

    @property
    def cautious(self) -> Float32Array:
        """float32 [n]: the value in the interval that is nearest to 0.5. Routing on it settles only what is sure."""
        return np.minimum(np.maximum(self.low, np.float32(0.5)), self.high)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Belief:
    """How far violations may lie above ordinary clips."""

    separations: Float64Array
    """float64 [G]: possible distances, from 0 (the encoder sees no difference) to 6 standard deviations."""
    weights: Float64Array
    """float64 [G], sum 1: how likely each is."""

    @property
    def expected(self) -> float:
        """The mean separation."""
        return float(self.separations @ self.weights)

    def score(self, deviations: Float64Array, *, base_rate: float, ordinary: int, interval: float) -> Scored:
        """Return the posterior probability of a violation, with its interval over the unknown separation.

        With 200 clips in the background and one example, 3 deviations give 0.86 [0.56, 0.95].

        Args:
            deviations: float64 [n].
            base_rate: probability before looking, in (0, 1).
            ordinary: number of clips in the background.
            interval: share of the posterior between `low` and `high`.
        """
        ratios = likelihood_ratios(deviations, self.separations, ordinary)
        odds = ratios * base_rate / (1 - base_rate)  # float64 [n, G]
        each = odds / (1 + odds)
        weights = self.weights * (1 + odds)  # how likely each separation makes what was seen, whatever the truth
        weights = weights / weights.sum(axis=1, keepdims=True)
        mean = (each * weights).sum(axis=1)
        low, high = (_quantile(each, weights, q) for q in ((1 - interval) / 2, (1 + interval) / 2))
        return Scored(
            probability=mean.astype(np.float32),
            low=np.minimum(low, mean).astype(np.float32),
            high=np.maximum(high, mean).astype(np.float32),
            deviations=deviations.astype(np.float32),
        )


def believe(observed: Float64Array, config: Config) -> Belief:
    """Return what to believe after seeing the deviations `observed`, float64 [k], of the examples themselves."""
    grid = np.linspace(0.0, 6.0, 121)
    log = -0.5 * ((grid - config.separation_mean) / config.separation_spread) ** 2
    if len(observed):
        effective = len(observed) / (1 + (len(observed) - 1) * config.correlation)  # 8 alike at 0.5 count as 1.8
        log -= 0.5 * effective * (grid - observed.mean()) ** 2
    weights = np.exp(log - log.max())
    return Belief(separations=grid, weights=weights / weights.sum())


def likelihood_ratios(deviations: Float64Array, separations: Float64Array, ordinary: int) -> Float64Array:
    """Return float64 [n, G]: how much likelier each deviation is of a violation, for each separation.

    Violations lie around the separation, ordinary clips around 0, both with unit spread. But N ordinary clips cannot
    rule out that one in N + 1 lies anywhere in the four deviations above, so the ratio is bounded, by some 190 for 200
    clips. It does not fall again further out, where a video is only more like the examples, but rises by a hundredth
    per deviation, which decides nothing and keeps the order.
    """
    ratios = _table(tuple(separations.tolist()), ordinary)
    at = (np.clip(deviations, _LOWEST, _HIGHEST) - _LOWEST) * (len(ratios) - 1) / (_HIGHEST - _LOWEST)
    below = np.minimum(at.astype(np.int64), len(ratios) - 2)
    share = (at - below)[:, None]
    found: Float64Array = ratios[below] * (1 - share) + ratios[below + 1] * share
    return found


@lru_cache(maxsize=8)
def _table(separations: tuple[float, ...], ordinary: int) -> Float64Array:
    """Return float64 [P, G]: the ratios at P even places from the lowest deviation to the highest."""
    unlikely = 1 / (4 * (ordinary + 1))
    places = np.linspace(_LOWEST, _HIGHEST, 1321)[:, None]
    ratios = _normal(places - np.array(separations)) / (_normal(places) + unlikely)
    table: Float64Array = np.maximum.accumulate(ratios, axis=0) * (1 + (places - _LOWEST) / 100)
    return table


def any_of(windows: Scored) -> Scored:
    """Return the score of one video (n = 1) from those of its windows: that at least one of them violates.

    The lower end is that of the surest window; the upper end is that of windows which fail independently.
    """
    mean, high = (1 - np.prod(1 - each.astype(np.float64)) for each in (windows.probability, windows.high))
    return Scored(
        probability=np.array([mean], np.float32),
        low=np.minimum(windows.low.max(keepdims=True), np.float32(mean)),
        high=np.array([max(mean, high)], np.float32),
        deviations=windows.deviations.max(keepdims=True),
    )


def _quantile(values: Float64Array, weights: Float64Array, q: float) -> Float64Array:
    """Return float64 [n]: the weighted quantile of each row of float64 [n, G]."""
    order = np.argsort(values, axis=1)
    cumulative = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    at = (cumulative >= q).argmax(axis=1)[:, None]
    found: Float64Array = np.take_along_axis(np.take_along_axis(values, order, axis=1), at, axis=1)[:, 0]
    return found


def _normal(values: Float64Array) -> Float64Array:
    density: Float64Array = np.exp(-0.5 * values**2) / np.sqrt(2 * np.pi)
    return density
