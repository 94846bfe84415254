"""From scores at moments to stretches of video, for people to look at and for the slow path to start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from guard.types import Float32Array, Float64Array, Scores, Segment


def segments_of(
    scores: Scores, thresholds: Mapping[str, float], *, duration_seconds: float, bridge_seconds: float = 1.0
) -> tuple[Segment, ...]:
    """Return the stretches in which a category stays at or above its threshold, by start time.

    Each moment speaks for the time halfway to its neighbours: moments at 0, 2 and 4 s of a 5 s video speak for 0 to 1,
    1 to 3 and 3 to 5 s. Stretches less than `bridge_seconds` apart are one.

    Args:
        scores: the scores of one detector.
        thresholds: the lowest score that belongs to a segment, by category; categories that are absent are left out.
        duration_seconds: length of the video; the last moment speaks until there.
        bridge_seconds: longest interruption that does not end a segment.
    """
    found: list[Segment] = []
    for column, category in enumerate(scores.categories):
        if category in thresholds:
            line = scores.per_moment[:, column]
            found += _stretches(
                category, scores.moment_seconds, line, thresholds[category], duration_seconds, bridge_seconds
            )
    return tuple(sorted(found, key=lambda segment: (segment.start_seconds, segment.category)))


def merge_segments(groups: Sequence[Sequence[Segment]]) -> tuple[Segment, ...]:
    """Join segments of several detectors; overlapping ones of one category become one with the higher peak."""
    merged: list[Segment] = []
    ordered = sorted((s for group in groups for s in group), key=lambda s: (s.category, s.start_seconds, s.end_seconds))
    for segment in ordered:
        last = merged[-1] if merged else None
        if last and last.category == segment.category and segment.start_seconds <= last.end_seconds:
            peak = max(last, segment, key=lambda s: s.peak_score)
            merged[-1] = Segment(
                start_seconds=last.start_seconds,
                end_seconds=max(last.end_seconds, segment.end_seconds),
                category=last.category,
                peak_seconds=peak.peak_seconds,
                peak_score=peak.peak_score,
            )
        else:
            merged.append(segment)
    return tuple(sorted(merged, key=lambda s: (s.start_seconds, s.category)))


def _stretches(
    category: str, moments: Float64Array, line: Float32Array, threshold: float, duration: float, bridge: float
) -> list[Segment]:
    indices = np.flatnonzero(line >= threshold)
    if indices.size == 0:
        return []
    middles = (moments[1:] + moments[:-1]) / 2
    starts = np.concatenate(([0.0], middles))
    ends = np.concatenate((middles, [max(duration, float(moments[-1]))]))
    breaks = np.flatnonzero(starts[indices[1:]] - ends[indices[:-1]] > bridge) + 1
    return [
        _segment(category, float(starts[run[0]]), float(ends[run[-1]]), moments[run], line[run])
        for run in np.split(indices, breaks)
    ]


def _segment(category: str, start: float, end: float, moments: Float64Array, line: Float32Array) -> Segment:
    peak = int(np.argmax(line))
    return Segment(
        start_seconds=start,
        end_seconds=end,
        category=category,
        peak_seconds=float(moments[peak]),
        peak_score=float(line[peak]),
    )
