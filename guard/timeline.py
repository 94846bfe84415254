"""Score over time: the scores of all detectors on one axis, no peak lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from guard.types import Float32Array, Float64Array, Scores, Timeline

TIMELINE_MOMENTS = 1200
"""Moments kept in a verdict's timeline: one pixel each on a wide screen; an hour of every frame would be 108,000."""


def timeline_of(scores: Sequence[Scores]) -> Timeline | None:
    """Return score over time at the moments of the detector that has most; None where no detector has any.

    The other detectors are read at the nearest of their own moments. Where two score one category, each moment shows
    the higher score.
    """
    lines = [_thinned(s) for s in scores if len(s.moment_seconds)]
    if not lines:
        return None
    axis = max(lines, key=lambda s: len(s.moment_seconds)).moment_seconds
    columns: dict[str, Float32Array] = {}
    for s in lines:
        values = _on_axis(s, axis)
        for column, category in enumerate(s.categories):
            line = values[:, column]
            columns[category] = np.maximum(columns[category], line) if category in columns else line
    return Timeline(
        moment_seconds=tuple(round(float(t), 3) for t in axis),
        scores={category: tuple(round(float(v), 4) for v in line) for category, line in columns.items()},
    )


def _thinned(scores: Scores) -> Scores:
    """Return at most `TIMELINE_MOMENTS` moments, the highest of each stretch, so that no peak is lost."""
    total = len(scores.moment_seconds)
    if total <= TIMELINE_MOMENTS:
        return scores
    stretches = np.array_split(np.arange(total), TIMELINE_MOMENTS)
    times = np.array([scores.moment_seconds[rows[len(rows) // 2]] for rows in stretches], dtype=np.float64)
    highest = np.stack([scores.per_moment[rows].max(axis=0) for rows in stretches])
    return replace(scores, moment_seconds=times, per_moment=highest)


def _on_axis(scores: Scores, axis: Float64Array) -> Float32Array:
    """Return the scores at the times of `axis`, float32 [len(axis), C].

    A moment that is nearest to no time of the axis still counts at the time nearest to it: with an axis of 0, 1 and 9 s
    a peak at 4 s, between moments at 2 and 8 s, would be read by none of the three.
    """
    values = scores.per_moment[_nearest(scores.moment_seconds, axis)]
    np.maximum.at(values, _nearest(axis, scores.moment_seconds), scores.per_moment)
    return values


def _nearest(times: Float64Array, wanted: Float64Array) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return, for each of `wanted`, the place of the nearest of the increasing `times`."""
    if len(times) == 1:
        return np.zeros(len(wanted), dtype=np.intp)
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    nearer_before = wanted - times[after - 1] <= times[after] - wanted
    return np.asarray(np.where(nearer_before, after - 1, after), dtype=np.intp)
