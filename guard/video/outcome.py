"""From what was asked to a plan, and from what was done to an honest account of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from guard.errors import TooLong, Undecodable
from guard.types import Coverage, MediaInfo
from guard.video.av_container import Scan
from guard.video.reader import ReadRequest, ReadResult
from guard.video.sampling import Burst, largest_gap, plan_bursts
from guard.video.timeline import SettledTimeline

_SHORT_OF_DECLARED = 0.9
_EVERY_FRAME_HOLE_SECONDS = 0.25
"""Longest hole in a pass over every frame. Decoders leave out a few frames where a stream starts in the middle; three
flashes, the number from which flashing fails, take at least 0.25 s at 24 frames per second."""


@dataclass(slots=True, kw_only=True)
class Walked:
    """What a pass did."""

    scored: list[float] = field(default_factory=list)
    """Increasing times of the frames handed over."""
    decoded: int = 0
    errors: int = 0
    """Packets that the decoder refused."""
    full: bool = False
    timed_out: bool = False
    reached_seconds: float = 0.0
    displayed: tuple[int, int] | None = None
    rotation_degrees: int = 0


def settle(found: Scan, request: ReadRequest) -> SettledTimeline:
    """Return the timeline. Raises `Undecodable` without any frame, `TooLong` over the limit."""
    settled = found.timeline.settle(found.fps)
    if not settled.times:
        raise Undecodable("The video stream holds no frame.")
    if settled.duration_seconds > request.limits.max_seconds:
        raise TooLong(
            f"The video runs for {settled.duration_seconds:.0f} s; allowed are {request.limits.max_seconds:.0f} s."
        )
    return settled


def plan(settled: SettledTimeline, request: ReadRequest) -> list[Burst] | None:
    """Return the places to look at for the task; None stands for every frame."""
    if request.task == "probe":
        return [Burst(start_seconds=settled.times[0])]
    if request.task == "times":
        return [
            Burst(start_seconds=min(max(time, settled.times[0]), settled.times[-1])) for time in request.times_seconds
        ]
    if request.needs.every_frame:
        return None
    first, last, end = settled.times[0], settled.times[-1], settled.end_seconds
    return plan_bursts(first, last, end, settled.key_seconds, request.needs, request.sampling, request.seed)


def result_of(found: Scan, settled: SettledTimeline, walked: Walked, request: ReadRequest) -> ReadResult:
    """Return the honest account of a pass."""
    media = _media(found, settled, walked)
    problem = _problem(found, settled, walked, request)
    coverage = Coverage(
        frames_scored=len(walked.scored),
        frames_decoded=walked.decoded,
        largest_gap_seconds=largest_gap(walked.scored, settled.times, settled.end_seconds),
        full_decode=walked.full,
        decoded_seconds=max(walked.reached_seconds - settled.times[0], 0.0)
        if walked.timed_out
        else settled.duration_seconds,
        declared_seconds=found.declared_seconds,
        complete=problem is None,
        sampler=_sampler_name(request),
        seed=request.seed,
        problem=problem,
    )
    return ReadResult(media=media, coverage=coverage)


def _problem(found: Scan, settled: SettledTimeline, walked: Walked, request: ReadRequest) -> str | None:
    """Return the code of what makes the decode incomplete, the gravest first."""
    if walked.timed_out:
        return "decode_timeout"
    if found.timeline.broken or _short(found, settled):
        return "truncated"
    gap = largest_gap(walked.scored, settled.times, settled.end_seconds)
    allowed = _EVERY_FRAME_HOLE_SECONDS if request.needs.every_frame else request.sampling.max_gap_seconds
    if walked.errors or (request.task == "sample" and gap > allowed + 1e-6):
        return "undecodable"
    return "too_many_streams" if found.rivals else None


def _short(found: Scan, settled: SettledTimeline) -> bool:
    # A container may count its sound: 60 s of music over 10 s of film is whole, and reaches 60 s by its other streams.
    if found.declared_seconds is None:
        return False
    reached = (
        settled.end_seconds if found.declared_of_stream else max(settled.end_seconds, found.timeline.others_end_seconds)
    )
    return reached < _SHORT_OF_DECLARED * found.declared_seconds - settled.step_seconds


def _media(found: Scan, settled: SettledTimeline, walked: Walked) -> MediaInfo:
    width, height = walked.displayed or (found.media.width, found.media.height)
    return replace(
        found.media,
        width=width,
        height=height,
        rotation_degrees=walked.rotation_degrees,
        decoded_duration_seconds=settled.duration_seconds,
        fps=settled.fps,
        vfr=settled.vfr,
    )


def _sampler_name(request: ReadRequest) -> str:
    if request.task != "sample":
        return request.task
    if request.needs.every_frame:
        return "every_frame"
    return f"{request.sampling.mode}/{request.sampling.max_gap_seconds:g}s"
