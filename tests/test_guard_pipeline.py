"""The pipeline with in-memory stages: order, isolation of failures, bounded read-ahead, the slow path's faults."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from builders import coverage, frames, judgement, media, policy, scores, video
from hypothesis import given
from hypothesis import strategies as st

from fast_path import router
from guard import background
from guard.errors import Truncated, VlmUnavailable
from guard.interfaces import Case, Fed, FrameSink, SamplingNeeds, score_frames
from guard.pipeline import SLOW_WINDOW, Pipeline, Stages, merge_needs, need_index
from guard.screening import FrameKeeper
from guard.types import Coverage, Frames, Judgement, Rule, Scores, Video

FIGHT = "violence.fighting"
POLICY = policy(Rule(category=FIGHT, state="block"))
ROUTER = router.build(router.Config())


class BrightnessDetector:
    """A real, if useless, detector: the mean brightness of the frames is the score."""

    name = "brightness"
    categories = (FIGHT,)
    fingerprint = "brightness-1"
    needs = SamplingNeeds()

    def begin(self) -> "BrightnessSession":
        return BrightnessSession(self.name)

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        return [score_frames(self, f) for f in batch]


class BrightnessSession:
    def __init__(self, name: str) -> None:
        self.name = name
        self.means: list[float] = []

    def feed(self, frames: Frames) -> None:
        self.means.append(float(frames.images.mean() / 255))

    def finish(self, coverage: Coverage) -> Scores:
        return scores({FIGHT: max(self.means)}, detector=self.name)


class MemoryDecoder:
    """Makes frames from the content: byte 0 is the brightness; `!` breaks off, `?` is a bug in the decoder."""

    def __init__(self) -> None:
        self.started = 0
        self.lock = threading.Lock()

    def feed(self, video: Video, needs: SamplingNeeds, sink: FrameSink) -> Fed:
        with self.lock:
            self.started += 1
        content = video.data or b""
        if content == b"!":
            raise Truncated("cut")
        if content == b"?":
            raise ZeroDivisionError
        if content[0] == 1:  # starts over after a bright false start, as a reader does that found holes
            sink.take(frames(4, fill=255))
            sink.restart()
        chunk = frames(4, fill=content[0])
        sink.take(chunk)
        return Fed(video=replace(video, media=media()), coverage=chunk.coverage, cpu_seconds=0.0)


@dataclass
class ScriptedJudge:
    """Injects faults: answers, raises, or stalls, by script."""

    answer: Judgement | BaseException | float
    name: str = "scripted"
    fingerprint: str = "0"

    async def judge(self, cases: Sequence[Case]) -> list[Judgement]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        if isinstance(self.answer, float):
            await asyncio.sleep(self.answer)
            return [judgement({FIGHT: "no"})]
        return [self.answer for _ in cases]


def run(contents: list[bytes], **stages: object) -> list[tuple[str, str | None]]:
    made = [video(f"clip-{i}", data=content) for i, content in enumerate(contents)]
    parts = {"decoder": MemoryDecoder(), "detectors": (BrightnessDetector(),), "router": ROUTER} | stages
    pipeline = Pipeline(Stages(**parts), POLICY, workers=2)  # type: ignore[arg-type]
    try:
        verdicts = list(pipeline.check_many(made))
    finally:
        pipeline.close()
    assert [v.source for v in verdicts] == [v.source for v in made]
    return [(v.decision, v.error.code if v.error else None) for v in verdicts]


def test_order_is_kept_and_one_bad_video_costs_only_itself() -> None:
    assert run([b"\x00", b"!", b"\xff", b"?", b"\x80", b"\x01"]) == [
        ("allow", None),
        ("undecided", "truncated"),
        ("block", None),
        ("undecided", "detector_failed"),
        ("review", None),
        ("allow", None),
    ]


def test_the_slow_path_settles_what_is_uncertain_and_sees_nothing_else() -> None:
    assert run([b"\x00", b"\x80"], judge=ScriptedJudge(judgement({FIGHT: "no"}))) == [("allow", None), ("allow", None)]
    assert run([b"\x00", b"\x80"], judge=ScriptedJudge(judgement({FIGHT: "yes"}))) == [("allow", None), ("block", None)]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (VlmUnavailable("down"), "vlm_unavailable"),
        (RuntimeError("bug"), "vlm_unavailable"),
        (5.0, "vlm_unavailable"),
        (judgement({FIGHT: "no"}, status="parse_error"), "parse_error"),
        (judgement({FIGHT: "no"}, status="partial", error_code="truncated_answer"), "truncated_answer"),
    ],
)
def test_every_fault_of_the_slow_path_is_review_with_a_code(
    answer: Judgement | BaseException | float, code: str
) -> None:
    found = run([b"\x80", b"\x00"], judge=ScriptedJudge(answer), judge_deadline_seconds=0.2)
    assert found == [("review", code), ("allow", None)]


def test_a_case_that_cannot_be_made_costs_one_video_and_not_the_rest() -> None:
    class Factless(MemoryDecoder):
        def feed(self, video: Video, needs: SamplingNeeds, sink: FrameSink) -> Fed:
            fed = super().feed(video, needs, sink)
            return replace(fed, video=replace(fed.video, media=None))

    found = run([b"\x80", b"\x00"], decoder=Factless(), judge=ScriptedJudge(judgement({FIGHT: "no"})))
    assert found == [("review", "input"), ("allow", None)]


def test_every_pass_is_reported_with_the_detectors_that_it_fed() -> None:
    class Counting(MemoryDecoder):
        def feed(self, video: Video, needs: SamplingNeeds, sink: FrameSink) -> Fed:
            fed = super().feed(video, needs, sink)
            return replace(fed, coverage=replace(fed.coverage, frames_scored=76 if needs.every_frame else 27))

    class EveryFrame(BrightnessDetector):
        name = "every"
        needs = SamplingNeeds(every_frame=True)

    stages = Stages(decoder=Counting(), detectors=(EveryFrame(), BrightnessDetector()), router=ROUTER)
    pipeline = Pipeline(stages, POLICY, workers=1)
    try:
        (verdict,) = pipeline.check_many([video(data=b"\x00")])
    finally:
        pipeline.close()
    assert [(one.detectors, one.coverage.frames_scored) for one in verdict.passes] == [
        (("brightness",), 27),
        (("every",), 76),
    ]
    assert verdict.coverage == verdict.passes[0].coverage


def test_a_raising_detector_is_named_and_never_read_as_safe() -> None:
    class Broken(BrightnessDetector):
        name = "broken"

        def begin(self) -> "BrightnessSession":
            raise FloatingPointError

    assert run([b"\x00"], detectors=(Broken(), BrightnessDetector())) == [("undecided", "detector_failed")]


def test_a_policy_that_no_detector_knows_is_the_slow_paths() -> None:
    judge = ScriptedJudge(judgement({FIGHT: "no"}))
    assert run([b"\x00"], detectors=(), judge=judge) == [("allow", None)]
    assert run([b"\x00"], detectors=()) == [("review", None)]


def test_a_second_pass_that_broke_off_is_not_hidden_by_a_first_that_did_not() -> None:
    class BrokenEveryFrame(MemoryDecoder):
        def feed(self, video: Video, needs: SamplingNeeds, sink: FrameSink) -> Fed:
            fed = super().feed(video, needs, sink)
            return replace(fed, coverage=replace(fed.coverage, complete=not needs.every_frame, problem=None))

    class EveryFrame(BrightnessDetector):
        name = "every"
        needs = SamplingNeeds(every_frame=True)

    both = (BrightnessDetector(), EveryFrame())
    assert run([b"\x00"], decoder=BrokenEveryFrame(), detectors=both) == [("undecided", "truncated")]
    assert run([b"\xff"], decoder=BrokenEveryFrame(), detectors=both) == [("block", "truncated")]


def test_work_that_refuses_to_stop_does_not_keep_a_guard_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    monkeypatch.setattr(background, "_STOP_SECONDS", 0.2)
    loop = background.BackgroundLoop()
    loop.submit(stubborn())
    time.sleep(0.05)
    loop.close()
    assert not loop._thread.is_alive()


def test_reading_ahead_is_bounded() -> None:
    """A million inputs must not be decoded before the first verdict is taken."""
    decoder = MemoryDecoder()
    pipeline = Pipeline(Stages(decoder=decoder, detectors=(BrightnessDetector(),), router=ROUTER), POLICY, workers=2)

    def endless() -> Iterator[Video]:
        while True:
            yield video(data=b"\x00")

    try:
        verdicts = pipeline.check_many(endless())
        next(verdicts)
        time.sleep(0.05)
        assert decoder.started <= 5
        verdicts.close()  # type: ignore[attr-defined]
    finally:
        pipeline.close()


def test_waiting_for_the_slow_path_is_bounded_and_order_survives() -> None:
    contents = [b"\x80"] * (SLOW_WINDOW + 10)
    assert run(contents, judge=ScriptedJudge(0.01)) == [("allow", None)] * len(contents)


def test_a_server_that_hangs_costs_its_deadline_once() -> None:
    started = time.monotonic()
    found = run([b"\x80"] * 8, judge=ScriptedJudge(60.0), judge_deadline_seconds=0.5)
    assert found == [("review", "vlm_unavailable")] * 8
    assert time.monotonic() - started < 8 * 0.5


def test_versions_and_timings_are_on_every_verdict() -> None:
    pipeline = Pipeline(
        Stages(
            decoder=MemoryDecoder(),
            detectors=(BrightnessDetector(),),
            router=ROUTER,
            versions={"video_guard": "9"},
        ),
        POLICY,
        workers=1,
    )
    try:
        good, bad = pipeline.check_many([video(data=b"\x00"), video(data=b"!")])
    finally:
        pipeline.close()
    assert good.versions == bad.versions == {"video_guard": "9"}
    assert set(good.timings_ms) == {"decode_cpu", "screen"}


def test_needs_merge_by_burst_shape_and_every_frame_stays_apart() -> None:
    small = SamplingNeeds(side_px=96, burst_frames=3, min_bursts=4)
    large = SamplingNeeds(side_px=224, burst_frames=3, min_bursts=8)
    single = SamplingNeeds(side_px=224)
    flash = SamplingNeeds(side_px=64, every_frame=True)
    merged = merge_needs([flash, small, single, large, flash])
    assert merged == (single, SamplingNeeds(side_px=224, burst_frames=3, min_bursts=8), flash)
    assert [need_index(n, merged) for n in (small, large, single, flash)] == [1, 1, 0, 2]
    with pytest.raises(ValueError, match="no decode serves"):
        need_index(SamplingNeeds(burst_frames=16), merged)


def test_scores_reject_what_is_not_a_probability() -> None:
    with pytest.raises(ValueError, match="finite and in"):
        scores({FIGHT: float("nan")})
    with pytest.raises(ValueError, match="float32 of shape"):
        scores({FIGHT: 0.5}, probability=np.zeros((2,), np.float32))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(2, 16))
def test_kept_frames_are_bounded_even_and_hold_the_first(chunks: list[int], limit: int) -> None:
    keeper = FrameKeeper(limit)
    first = 0
    for count in chunks:
        chunk = frames(count)
        keeper.add(replace(chunk, pts_seconds=np.arange(first, first + count, dtype=np.float64)))
        first += count
    kept = keeper.frames(coverage()).pts_seconds
    assert kept[0] == 0
    assert len(kept) <= limit
    steps = set(np.diff(kept))
    assert len(steps) <= 1, "evenly spaced"
    assert len(kept) > (limit - 1) // 2 or first <= limit, "not thinner than needed"
    assert all(step == 1 for step in steps) or first > limit
