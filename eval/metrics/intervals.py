"""Intervals and paired tests that draw whole groups.

Clips of one camera or source video fail together; a bootstrap over clips would give intervals that are too narrow. A
draw is a vector of how often each clip counts, so that a metric on weights needs no copy of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray

Values = Mapping[str, float | None]
Statistic = Callable[[FloatArray | None], Values]
"""From weights [N] (None: each clip once) to named values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with the 95 % interval of a group bootstrap."""

    value: float | None
    low: float | None
    high: float | None

    def as_list(self) -> list[float | None]:
        """Return value, low, high."""
        return [self.value, self.low, self.high]


def group_weights(groups: Sequence[str], draws: int, seed: int = 0) -> Iterator[FloatArray]:
    """Yield `draws` vectors float64 [N]: as many groups as there are, drawn with replacement, with all their clips."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        counts = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        yield counts[member].astype(np.float64)


def bootstrap(statistic: Statistic, groups: Sequence[str], *, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Return every value of `statistic` with its interval.

    With fewer than two groups there is no interval; draws in which a value is not defined are left out of it.
    """
    whole = statistic(None)
    drawn: dict[str, list[float]] = {name: [] for name in whole}
    for weights in group_weights(groups, draws if len(set(groups)) > 1 else 0, seed):
        for name, value in statistic(weights).items():
            if value is not None:
                drawn[name].append(value)
    return {name: _interval(value, drawn[name]) for name, value in whole.items()}


def paired(
    first: Statistic, second: Statistic, groups: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return `second` less `first` on the same clips, with interval and a two-sided bootstrap p-value.

    The p-value is twice the smaller share of draws on either side of zero, at least 1 / (draws + 1): a bootstrap of
    1,000 draws cannot say less than 0.001.
    """
    one, two = first(None), second(None)
    drawn: dict[str, list[float]] = {name: [] for name in one}
    for weights in group_weights(groups, draws if len(set(groups)) > 1 else 0, seed):
        left, right = first(weights), second(weights)
        for name in drawn:
            a, b = left.get(name), right.get(name)
            if a is not None and b is not None:
                drawn[name].append(b - a)
    made = {}
    for name, values in drawn.items():
        a, b = one[name], two.get(name)
        difference = None if a is None or b is None else b - a
        found = _interval(difference, values)
        made[name] = {"difference": found.value, "low": found.low, "high": found.high, "p": _p_value(values)}
    return made


def mcnemar(first_right: BoolArray, second_right: BoolArray) -> dict[str, float | int]:
    """Return the exact McNemar test: the clips only one of two systems has right, and the two-sided p-value.

    It takes clips as independent; read it beside the group bootstrap, not in its place.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n if n else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": min(1.0, 2 * tail)}


def _interval(value: float | None, drawn: Sequence[float]) -> Interval:
    if value is None or not drawn:
        return Interval(value=value, low=None, high=None)
    low, high = (float(q) for q in np.percentile(drawn, [2.5, 97.5]))
    return Interval(value=value, low=low, high=high)


def _p_value(drawn: Sequence[float]) -> float | None:
    if not drawn:
        return None
    values = np.asarray(drawn)
    below, above = int((values <= 0).sum()), int((values >= 0).sum())
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(values) + 1)))
