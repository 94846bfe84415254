"""The default reader: PyAV, with the FFmpeg in its wheel.

How it keeps decoding cheap, and what bounds it (measured on 720p H.264, key frame every 250, one core): reading
packets costs 1 % of decoding them, so a first pass over the packets gives the exact timeline and the places of key
frames. The second pass feeds the decoder only what leads to a wanted frame: packets after a sample and before the
next key frame are dropped; frames that no other needs are not decoded unless they are wanted themselves (about a
third of the cost; not for AV1 and HEVC, where it cannot be done safely); the loop filter is off (a fifth); and only
kept frames are converted and scaled. What is left is the chain of reference frames from each key frame to the
sample: no exact sampler can avoid that.

Price: without the loop filter a sampled frame differs from the exact one by 37 dB or better (median per clip, at
128 px). `Config(skip_unneeded=False)` turns both savings off, and evidence frames (`frames_at`) never use them.

If this leaves a larger gap than promised (key frames that are none, every frame marked as unneeded), or errors, the
whole stream is decoded again without any skipping.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from guard.errors import Undecodable
from guard.interfaces import SamplingNeeds
from guard.video.av_container import Scan, opened, reread, scan
from guard.video.av_frame import Painter
from guard.video.av_walk import Walk
from guard.video.outcome import Walked, plan, result_of, settle
from guard.video.reader import Reader, ReadRequest, ReadResult, Sink, WatchedFile
from guard.video.sampling import Burst, largest_gap
from guard.video.timeline import SettledTimeline
from guard.video.warm import NoSink, warm_clip

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream


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
    reader.read(io.BytesIO(warm_clip()), ReadRequest(needs=SamplingNeeds(side_px=16, burst_frames=2)), NoSink())
    return reader


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
            settled = settle(found, request)
            bursts = plan(settled, request)
            thorough = request.task == "times" or request.needs.every_frame or not self._config.skip_unneeded
            jumps = request.task == "times" or not thorough
            walked = self._walk(container, watched, found, settled, bursts, request, sink, thorough, jumps)
            if jumps and not walked.timed_out and (walked.errors or self._holes(walked, settled, request)):
                sink.restart()
                walked = self._walk(None, watched, found, settled, bursts, request, sink, thorough=True, jumps=False)
        if not walked.scored:
            raise Undecodable("Not one frame of the video could be decoded.")
        return result_of(found, settled, walked, request)

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
        jumps: bool,
    ) -> Walked:
        painter = Painter(request.needs.side_px, request.limits)
        walk = Walk(found, settled, bursts, request, sink, file, painter, thorough=thorough, jumps=jumps)
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
