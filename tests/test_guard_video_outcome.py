"""The account of a pass: what was asked, what was seen, and what is called incomplete."""

from __future__ import annotations

import pytest
from builders import media

from guard.interfaces import SamplingNeeds
from guard.video.av_container import Scan
from guard.video.outcome import Walked, result_of
from guard.video.reader import ReadRequest
from guard.video.timeline import SettledTimeline, Timeline

TIMES = [n / 25 for n in range(250)]


def account(scored: list[float], *, every_frame: bool) -> str | None:
    found = Scan(
        stream_index=0, media=media(), base_seconds=0.0, time_base=0.04, fps=25.0, timeline=Timeline(), packets=None,
        rivals=0, declared_seconds=10.0, declared_of_stream=True,
    )  # fmt: skip
    settled = SettledTimeline(
        times=TIMES, end_seconds=10.0, key_indexes=[0], key_seconds=[0.0], reliable=True, step_seconds=0.04
    )
    walked = Walked(scored=scored, decoded=len(scored), full=True, reached_seconds=scored[-1])
    request = ReadRequest(needs=SamplingNeeds(every_frame=every_frame))
    return result_of(found, settled, walked, request).coverage.problem


@pytest.mark.parametrize("hole", [range(100, 145), range(10), range(240, 250)])
def test_a_hole_in_a_pass_over_every_frame_is_not_hidden_by_the_sampling_gap(hole: range) -> None:
    seen = [t for n, t in enumerate(TIMES) if n not in hole]
    assert account(seen, every_frame=True) == "undecodable"
    assert account(seen, every_frame=False) is None, "within the 2 s of a sample"


def test_every_frame_but_the_first_few_is_complete() -> None:
    assert account(TIMES, every_frame=True) is None
    assert account(TIMES[4:], every_frame=True) is None, "a stream that starts in the middle of a group"
    assert account(TIMES[:1] + TIMES[60:], every_frame=False) == "undecodable"
