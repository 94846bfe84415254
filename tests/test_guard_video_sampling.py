"""Planning and picking, checked against any timeline that hypothesis can think of, without decoding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import InvalidConfig
from guard.interfaces import SamplingNeeds
from guard.video.picking import Picker
from guard.video.reader import output_size
from guard.video.sampling import Burst, SamplingConfig, content_seed, largest_gap, plan_bursts
from guard.video.timeline import Timeline

steps = st.one_of(
    st.lists(st.floats(0.005, 0.2), min_size=1, max_size=400),
    st.lists(st.floats(0.001, 12.0), min_size=1, max_size=60),
)
needs_of = st.builds(
    SamplingNeeds,
    burst_frames=st.integers(1, 5),
    burst_spacing_seconds=st.sampled_from([0.03, 0.13, 0.5]),
    min_bursts=st.integers(1, 12),
)
config_of = st.builds(
    SamplingConfig, max_gap_seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0]), mode=st.sampled_from(["jitter", "keyframe"])
)


def timeline(intervals):
    times = np.concatenate([[0.0], np.cumsum(intervals)]).tolist()
    return times, times[-1] + intervals[-1]


def pick(times, bursts, gap):
    picker = Picker(bursts, gap)
    return [one for seconds in times for one in picker.offer(seconds, seconds)] + picker.finish()


def slow_gap(scored, times, end):
    """The obvious oracle: walk through all frames."""
    marks = set(scored)
    worst, last, unseen = 0.0, times[0], False
    for seconds in times:
        if seconds in marks:
            worst = max(worst, seconds - last if unseen else 0.0)
            last, unseen = seconds, False
        else:
            unseen = True
    return max(worst, end - last if unseen else 0.0)


@settings(max_examples=300, deadline=None)
@given(intervals=steps, needs=needs_of, config=config_of, seed=st.integers(0, 2**64 - 1), every_key=st.integers(1, 9))
def test_no_gap_is_larger_than_promised(intervals, needs, config, seed, every_key):
    times, end = timeline(intervals)
    bursts = plan_bursts(times[0], times[-1], end, times[::every_key], needs, config, seed)
    picked = pick(times, bursts, config.max_gap_seconds)
    scored = [one.pts_seconds for one in picked]
    assert scored == sorted(set(scored))
    assert set(scored) <= set(times)
    assert slow_gap(scored, times, end) <= config.max_gap_seconds + 1e-6
    ids = [one.burst for one in picked]
    assert ids[0] == 0
    assert all(after - before in (0, 1) for before, after in pairwise(ids))


@settings(max_examples=100, deadline=None)
@given(intervals=steps, chosen=st.sets(st.integers(0, 400)))
def test_largest_gap_agrees_with_the_slow_way(intervals, chosen):
    times, end = timeline(intervals)
    scored = [seconds for index, seconds in enumerate(times) if index in chosen]
    expected = slow_gap(scored, times, end) if scored else end - times[0]
    assert largest_gap(scored, times, end) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(duration=st.floats(0.0, 100.0), needs=needs_of, seed=st.integers(0, 2**32))
def test_plan_is_ordered_without_overlap_and_deterministic(duration, needs, seed):
    config = SamplingConfig()
    plan = plan_bursts(0.0, duration, duration + 0.04, [], needs, config, seed)
    assert plan == plan_bursts(0.0, duration, duration + 0.04, [], needs, config, seed)
    assert all(before.end_seconds < after.start_seconds for before, after in pairwise(plan))
    assert 0.0 <= plan[0].start_seconds <= duration
    assert all(burst.start_seconds <= duration for burst in plan)


@given(duration=st.floats(1.0, 30.0), seed=st.integers(0, 2**32))
def test_short_videos_get_their_places(duration, seed):
    single = plan_bursts(0.0, duration, duration, [], SamplingNeeds(min_bursts=8), SamplingConfig(), seed)
    assert len(single) >= 8
    needs = SamplingNeeds(min_bursts=8, burst_frames=4, burst_spacing_seconds=0.13)
    fit = int((duration + 0.13) / 0.52)
    assert len(plan_bursts(0.0, duration, duration, [], needs, SamplingConfig(), seed)) >= min(8, fit)


def test_places_cannot_be_foreseen():
    needs, config = SamplingNeeds(min_bursts=1), SamplingConfig()
    plans = [plan_bursts(0.0, 60.0, 60.0, [], needs, config, content_seed(seed, "ab" * 32)) for seed in range(300)]
    tenth = np.array([plan[9].start_seconds for plan in plans])
    assert tenth.std() > 0.5
    # Any half second in the middle is looked at by some seeds and not by others: no place is safe to hide in.
    for begin in np.arange(20.0, 22.0, 0.5):
        hit = np.mean([any(begin <= burst.start_seconds < begin + 0.5 for burst in plan) for plan in plans])
        assert 0.1 < hit < 0.7
    assert content_seed(1, "a") != content_seed(1, "b") != content_seed(2, "b")


def test_keyframe_mode_uses_key_frames_where_they_allow_the_gap():
    keys = [0.0, 1.5, 3.0, 4.5, 6.0]
    plan = plan_bursts(0.0, 7.0, 7.0, keys, SamplingNeeds(min_bursts=1), SamplingConfig(mode="keyframe"), 0)
    assert [burst.start_seconds for burst in plan] == keys


def test_a_frame_held_for_long_is_no_gap_but_an_unseen_one_is():
    assert largest_gap([0.0, 10.0], [0.0, 10.0], 20.0) == 0.0
    assert largest_gap([0.0, 10.0], [0.0, 0.1, 10.0], 20.0) == 10.0
    assert largest_gap([], [0.0, 1.0], 2.0) == 2.0
    assert largest_gap([0.0], [0.0, 1.0], 2.0) == 2.0


def test_the_frame_before_a_long_pause_is_taken():
    picked = pick([0.0, 0.1, 10.0], [Burst(start_seconds=0.0), Burst(start_seconds=1.8)], gap=2.0)
    assert [one.pts_seconds for one in picked] == [0.0, 0.1, 10.0]


def test_an_extra_burst_is_taken_only_between_bursts():
    picker: Picker[float] = Picker([Burst(start_seconds=0.0), Burst(start_seconds=5.0)], 9.0)
    like = Burst(start_seconds=0.0, frames=2, spacing_seconds=0.5)
    picked = picker.offer(0.0, 0.0)
    assert picker.add_burst(1.0, like)
    assert not picker.add_burst(1.0, like)
    for seconds in (1.0, 1.5, 2.0):
        picked += picker.offer(seconds, seconds)
    assert not picker.add_burst(4.8, like)  # it would run into the planned one
    picked += picker.offer(5.0, 5.0)
    assert [(one.pts_seconds, one.burst) for one in picked] == [(0.0, 0), (1.0, 1), (1.5, 1), (5.0, 2)]
    assert picker.done


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_gap_seconds": 0},
        {"max_gap_seconds": float("nan")},
        {"mode": "all"},
        {"change_threshold": 0},
        {"max_extra_bursts": -1},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(InvalidConfig, match=next(iter(wrong))):
        SamplingConfig(**wrong)


@pytest.mark.parametrize(
    ("given_size", "expected"),
    [((1280, 720), (228, 128)), ((720, 1280), (128, 228)), ((1000, 10), (256, 128)), ((2, 2), (128, 128))],
)
def test_output_size(given_size, expected):
    assert output_size(*given_size, 128) == expected


def test_a_stream_without_a_clock_gets_one_by_counting():
    line = Timeline()
    for _ in range(10):
        line.pts.append(0.0)
        line.keys.append(1)
        line.hidden.append(0)
    settled = line.settle(25.0)
    assert not settled.reliable
    assert settled.times == pytest.approx([index / 25 for index in range(10)])
    assert settled.start_for(0.3) == (0, float("-inf"))  # nothing may be skipped


def test_key_frames_that_go_back_in_time_are_not_believed():
    line = Timeline()
    for pts, key in ((0.0, 1), (1.0, 1), (0.5, 1), (2.0, 1)):
        line.pts.append(pts)
        line.keys.append(key)
        line.hidden.append(0)
    settled = line.settle(25.0)
    assert settled.key_seconds == [0.0, 1.0, 2.0]
    assert settled.start_for(0.7) == (0, 0.0)
