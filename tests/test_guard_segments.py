"""Segments against a slow oracle, and the merging of segments."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from guard.segments import merge_segments, segments_of
from guard.types import Scores, Segment


def scores_at(times: list[float], values: list[float]) -> Scores:
    return Scores(
        categories=("violence.fighting",),
        probability=np.array([max(values, default=0.0)], np.float32),
        moment_seconds=np.array(times, np.float64),
        per_moment=np.array(values, np.float32).reshape(-1, 1),
        detector="test",
        fingerprint="0",
    )


def covered_by_oracle(times: list[float], values: list[float], threshold: float, duration: float, t: float) -> bool:
    """Whether the moment nearest to `t` is at or above the threshold: the definition, read off point by point."""
    nearest = min(range(len(times)), key=lambda i: abs(times[i] - t))
    return values[nearest] >= np.float32(threshold)


def test_each_moment_speaks_halfway_to_its_neighbours() -> None:
    found = segments_of(scores_at([0, 2, 4], [0, 0.9, 0]), {"violence.fighting": 0.5}, duration_seconds=5)
    assert [(s.start_seconds, s.end_seconds, s.peak_seconds) for s in found] == [(1.0, 3.0, 2.0)]


def test_last_moment_speaks_to_the_end() -> None:
    (found,) = segments_of(scores_at([0, 2], [0, 0.9]), {"violence.fighting": 0.5}, duration_seconds=7)
    assert (found.start_seconds, found.end_seconds) == (1.0, 7.0)


def test_short_interruptions_are_bridged_and_long_ones_are_not() -> None:
    line = scores_at([0, 1, 2, 3, 4, 5, 6, 7], [0.9, 0, 0.8, 0, 0, 0, 0.7, 0])
    found = segments_of(line, {"violence.fighting": 0.5}, duration_seconds=8, bridge_seconds=1.0)
    assert [(s.start_seconds, s.end_seconds) for s in found] == [(0.0, 2.5), (5.5, 6.5)]
    assert found[0].peak_score == np.float32(0.9)


def test_categories_without_a_threshold_and_empty_scores_give_nothing() -> None:
    assert segments_of(scores_at([0], [0.9]), {}, duration_seconds=1) == ()
    assert segments_of(scores_at([], []), {"violence.fighting": 0.5}, duration_seconds=1) == ()


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1, width=32)), min_size=1, max_size=30),
    st.floats(0.05, 0.95),
)
def test_without_bridging_segments_are_the_points_whose_nearest_moment_is_high(
    steps: list[tuple[int, float]], threshold: float
) -> None:
    times = [float(t) / 100 for t in np.cumsum([step for step, _ in steps])]
    values = [value for _, value in steps]
    duration = times[-1] + 0.5
    line = scores_at(times, values)
    found = segments_of(line, {"violence.fighting": threshold}, duration_seconds=duration, bridge_seconds=0)
    for t in np.linspace(0.0013, duration - 0.0017, 101):
        if any(abs(t - (a + b) / 2) < 1e-6 for a, b in itertools.pairwise(times)):
            continue  # exactly between two moments either answer is right
        inside = any(s.start_seconds <= t <= s.end_seconds for s in found)
        assert inside == covered_by_oracle(times, values, threshold, duration, float(t))


def test_merging_joins_what_overlaps_and_keeps_the_higher_peak() -> None:
    def make(start: float, end: float, score: float, category: str = "a") -> Segment:
        return Segment(start_seconds=start, end_seconds=end, category=category, peak_seconds=start, peak_score=score)

    merged = merge_segments([[make(0, 2, 0.5), make(5, 6, 0.4)], [make(1, 3, 0.9), make(1, 2, 0.2, "b")]])
    assert [(s.category, s.start_seconds, s.end_seconds, s.peak_score) for s in merged] == [
        ("a", 0, 3, 0.9),
        ("b", 1, 2, 0.2),
        ("a", 5, 6, 0.4),
    ]
