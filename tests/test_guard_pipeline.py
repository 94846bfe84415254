"""The pipeline with in-memory stages: order, isolation of failures, bounded read-ahead, the slow path's faults."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from builders import frames, judgement, media, policy, scores, video

from fast_path import router
from guard.errors import Truncated, VlmUnavailable
from guard.interfaces import Case, Decoded, SamplingNeeds
from guard.pipeline import SLOW_WINDOW, Pipeline, Stages, merge_needs, need_index
from guard.types import Frames, Judgement, Rule, Scores, Video

FIGHT = "violence.fighting"
POLICY = policy(Rule(category=FIGHT, state="block"))
ROUTER = router.build(router.Config())


class BrightnessDetector:
    """A real, if useless, detector: the mean brightness of the frames is the score."""

    name = "brightness"
    categories = (FIGHT,)
    fingerprint = "brightness-1"
    needs = SamplingNeeds()

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        return [scores({FIGHT: float(f.images.mean() / 255)}, detector=self.name) for f in batch]


class MemoryDecoder:
    """Makes frames from the content: byte 0 is the brightness; `!` breaks off, `?` is a bug in the decoder."""

    def __init__(self) -> None:
        self.started = 0
        self.lock = threading.Lock()

    def decode(self, video: Video, needs: SamplingNeeds) -> Decoded:
        with self.lock:
            self.started += 1
        content = video.data or b""
        if content == b"!":
            raise Truncated("cut")
        if content == b"?":
            raise ZeroDivisionError
        return Decoded(video=replace(video, media=media()), frames=frames(4, fill=content[0]), cpu_seconds=0.0)


@dataclass
class ScriptedJudge:
    """Injects faults: answers, raises, or stalls, by script."""

    answer: Judgement | BaseException | float
    name: str = "scripted"

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


def test_a_raising_detector_is_named_and_never_read_as_safe() -> None:
    class Broken(BrightnessDetector):
        name = "broken"

        def score(self, batch: Sequence[Frames]) -> list[Scores]:
            raise FloatingPointError

    assert run([b"\x00"], detectors=(Broken(), BrightnessDetector())) == [("undecided", "detector_failed")]


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
