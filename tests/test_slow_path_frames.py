from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slow_path.chat import decode
from slow_path.frames import FrameBudget, encode, select, shown
from tests.slow_path_cases import RULES, frames, scores


@given(
    count=st.integers(1, 60), budget=st.integers(1, 24), seed=st.integers(0, 5), attempt=st.integers(0, 3),
    peak=st.floats(0, 5.5), seconds=st.floats(0.2, 500),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_stays_in_the_budget_and_in_order(
    count: int, budget: int, seed: int, attempt: int, peak: float, seconds: float
) -> None:
    clip = frames(count, seconds=seconds, side=16)
    chosen = select(clip, (scores((0.5, 0.5), peak_seconds=peak),), RULES, FrameBudget(frames=budget), attempt=attempt)
    assert 1 <= len(chosen) <= budget
    assert list(chosen) == sorted(set(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < count
    again = select(clip, (scores((0.5, 0.5), peak_seconds=peak),), RULES, FrameBudget(frames=budget), attempt=attempt)
    assert chosen == again
    printed = [frame.seconds for frame in shown(clip, chosen, FrameBudget(frames=budget))]
    assert len(set(printed)) == len(printed), "no two frames print the same time"


def test_a_peak_gets_the_frame_next_to_it() -> None:
    clip = frames(60)
    chosen = select(clip, (scores((0.9, 0.1), peak_seconds=2.5),), ["violence"], FrameBudget(frames=6))
    assert min(abs(clip.pts_seconds[list(chosen)] - 2.5)) < 0.06


def test_scores_of_other_rules_draw_no_frame() -> None:
    clip = frames(60)
    budget = FrameBudget(frames=6)
    asked = select(clip, (scores((0.9, 0.1), peak_seconds=2.5),), ["custom.other"], budget)
    assert asked == select(clip, (), ["custom.other"], budget)


def test_a_sudden_change_gets_a_frame() -> None:
    clip = frames(60)
    clip.images[:] = 0
    clip.images[41:] = 200
    chosen = select(clip, (), ["violence"], FrameBudget(frames=6, peak_share=0, change_share=0.3))
    assert 41 in chosen


def test_the_rest_is_covered_evenly() -> None:
    clip = frames(300, seconds=60, side=8)
    chosen = select(clip, (scores((0.9, 0.1), peak_seconds=1.0),), ["violence"], FrameBudget(frames=16))
    times = np.concatenate([[0.0], clip.pts_seconds[list(chosen)], [60.0]])
    assert np.diff(times).max() < 2.5 * 60 / 6, "about six frames are left for coverage"


def test_another_pass_looks_elsewhere() -> None:
    clip = frames(200, seconds=60, side=8)
    passes = [set(select(clip, (), ["violence"], FrameBudget(frames=12), attempt=i)) for i in range(3)]
    assert all(len(a & b) < 9 for a, b in ((passes[0], passes[1]), (passes[0], passes[2]), (passes[1], passes[2])))


def test_encoding_keeps_aspect_and_colours_and_never_enlarges() -> None:
    picture = np.zeros((100, 300, 3), dtype=np.uint8)
    picture[..., 0] = 250  # red, to see that channels are not swapped
    small = decode(encode(picture, FrameBudget(longest_side_px=150)))
    assert small.shape == (50, 150, 3)
    assert small[..., 0].mean() > 240
    assert small[..., 2].mean() < 10
    assert decode(encode(picture, FrameBudget(longest_side_px=900))).shape == (100, 300, 3)


def test_no_metadata_leaves_with_a_frame() -> None:
    data = encode(np.zeros((32, 32, 3), dtype=np.uint8), FrameBudget())
    assert b"Exif" not in data
    assert cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) is not None


def test_a_budget_must_make_sense() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        FrameBudget(frames=0)
    with pytest.raises(ValueError, match="peak_share"):
        FrameBudget(peak_share=0.8, change_share=0.3)
