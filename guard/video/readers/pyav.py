"""The default reader: PyAV, with the FFmpeg in its wheel.

How it keeps decoding cheap, and what bounds it (measured on 720p H.264, key frame every 250, one core): reading packets costs 1 % of
decoding them, so a first pass over the packets gives the exact timeline and the places of key frames. The second pass feeds the
decoder only what leads to a wanted frame: packets after a sample and before the next key frame are dropped, frames that no other
needs are not decoded (about a third of the cost), the loop filter is off (a fifth), and only kept frames are converted and scaled.
What is left is the chain of reference frames from each key frame to the sample: no exact sampler can avoid that.

If this leaves a larger gap than promised (key frames that are none, every frame marked as unneeded), or errors, the whole stream is
decoded again without any skipping.
"""

from __future__ import annotations

import importlib
import io
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from guard.errors import TooLong, Undecodable
from guard.interfaces import SamplingNeeds
from guard.types import Coverage, MediaInfo, UInt8Array
from guard.video.av_container import Scan, opened, reread, scan
from guard.video.av_frame import Painter
from guard.video.av_walk import Walk, Walked
from guard.video.reader import Reader, ReadRequest, ReadResult, Sink, WatchedFile
from guard.video.sampling import Burst, largest_gap, plan_bursts
from guard.video.timeline import SettledTimeline

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_SHORT_OF_DECLARED = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the PyAV reader."""

    skip_unneeded: bool = True
    """First pass: skip frames that nothing refers to, and the loop filter."""
    keep_packet_bytes: int = 32 << 20
    """Compressed bytes kept from the first pass to the second; a larger file is read twice."""


def build(config: Config) -> Reader:
    """Return the reader; loads PyAV and touches what a locked process could not load later."""
    reader = PyAVReader(config)
    reader.read(io.BytesIO(_warm_clip()), ReadRequest(needs=SamplingNeeds(side_px=16, burst_frames=2)), _NoSink())
    return reader


def _warm_clip() -> bytes:
    import av

    for found in pkgutil.walk_packages(av.__path__, "av."):
        if found.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(found.name)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


class _NoSink:
    def frame(self, image: UInt8Array, pts_seconds: float, burst: int) -> None:
        pass

    def tick(self, frames_decoded: int, reached_seconds: float) -> None:
        pass

    def restart(self) -> None:
        pass


def tiny() -> Reader:
    """Return the reader with its defaults: it is small as it is."""
    return build(Config())


class PyAVReader:
    """Decodes with PyAV."""

    name = "pyav"

    def __init__(self, config: Config) -> None:
        self._config = config

    def read(self, file: BinaryIO, request: ReadRequest, sink: Sink) -> ReadResult:
        """Decode what is asked for, first the cheap way, then thoroughly if that left holes."""
        watched = WatchedFile(file, sink)
        with opened(watched, request.limits) as container:
            found = scan(container, watched, request.limits, self._config.keep_packet_bytes)
            settled = _settle(found, request)
            bursts = _plan(settled, request)
            thorough = (
                request.final_pass
                or request.task == "times"
                or request.needs.every_frame
                or not self._config.skip_unneeded
            )
            walked = self._walk(container, watched, found, settled, bursts, request, sink, thorough)
            if not thorough and not walked.timed_out and (walked.errors or self._holes(walked, settled, request)):
                sink.restart()
                walked = self._walk(None, watched, found, settled, bursts, request, sink, thorough=True)
        if not walked.scored:
            raise Undecodable("Not one frame of the video could be decoded.")
        return _result(found, settled, walked, request)

    def _walk(
        self,
        container: InputContainer | None,
        file: WatchedFile,
        found: Scan,
        settled: SettledTimeline,
        bursts: Sequence[Burst] | None,
        request: ReadRequest,
        sink: Sink,
        thorough: bool,
    ) -> Walked:
        painter = Painter(request.needs.side_px, request.limits)
        walk = Walk(found, settled, bursts, request, sink, file, painter, thorough=thorough)
        if container is not None and found.packets is not None:
            return walk.run(_stream(container, found), found.packets)
        with opened(file, request.limits) as again:
            stream = _stream(again, found)
            packets: Iterable[Packet[VideoStream]] = reread(again, stream) if found.packets is None else found.packets
            return walk.run(stream, packets)

    def _holes(self, walked: Walked, settled: SettledTimeline, request: ReadRequest) -> bool:
        if request.task != "sample" or request.needs.every_frame:
            return not walked.scored
        return largest_gap(walked.scored, settled.times, settled.end_seconds) > request.sampling.max_gap_seconds + 1e-6


def _stream(container: InputContainer, found: Scan) -> VideoStream:
    return next(stream for stream in container.streams.video if stream.index == found.stream_index)


def _settle(found: Scan, request: ReadRequest) -> SettledTimeline:
    settled = found.timeline.settle(found.fps)
    if not settled.times:
        raise Undecodable("The video stream holds no frame.")
    if settled.duration_seconds > request.limits.max_seconds:
        raise TooLong(
            f"The video runs for {settled.duration_seconds:.0f} s; allowed are {request.limits.max_seconds:.0f} s."
        )
    return settled


def _plan(settled: SettledTimeline, request: ReadRequest) -> list[Burst] | None:
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


def _result(found: Scan, settled: SettledTimeline, walked: Walked, request: ReadRequest) -> ReadResult:
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
    sampled = request.task == "sample" and not request.needs.every_frame
    if walked.errors or (sampled and gap > request.sampling.max_gap_seconds + 1e-6):
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
