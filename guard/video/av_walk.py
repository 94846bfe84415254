"""One pass over the packets: feed the decoder what leads to wanted frames, hand those over, and note what happened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from guard.types import Float32Array
from guard.video.av_container import Scan
from guard.video.av_frame import Painter, difference, luma_signature, stands_alone
from guard.video.outcome import Walked
from guard.video.picking import Picked, Picker, nearest_times
from guard.video.reader import BudgetSpent, ReadRequest, Sink, WatchedFile
from guard.video.sampling import Burst
from guard.video.timeline import SettledTimeline

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_SKIPPABLE = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
"""Decoders that leave out unneeded frames packet by packet. Absent on purpose: dav1d decides once for the whole stream,
and in HEVC a frame that its own temporal layer does not need may be needed by the next."""


class Walk:
    """The state of one pass. `bursts=None` hands over every frame."""

    def __init__(
        self,
        found: Scan,
        settled: SettledTimeline,
        bursts: Sequence[Burst] | None,
        request: ReadRequest,
        sink: Sink,
        file: WatchedFile,
        painter: Painter,
        *,
        thorough: bool,
        jumps: bool,
    ) -> None:
        self._found, self._settled, self._request = found, settled, request
        self._sink, self._file, self._painter = sink, file, painter
        self._thorough = thorough
        gap = request.sampling.max_gap_seconds if request.task == "sample" else math.inf
        self._picker: Picker[VideoFrame] | None = (
            None if bursts is None else Picker(bursts, gap, share=request.task == "times")
        )
        self._jumps = jumps and settled.reliable and bursts is not None and request.task != "probe"
        skips = not thorough and settled.reliable
        self._needed = nearest_times(bursts, settled.times) if skips and bursts is not None else None
        needs = request.needs
        self._extra = Burst(start_seconds=0.0, frames=needs.burst_frames, spacing_seconds=needs.burst_spacing_seconds)
        self._extras_left = request.sampling.max_extra_bursts if request.task == "sample" else 0
        self._signature: Float32Array | None = None
        self._not_before = -math.inf
        self._unproved = False  # a jump is under way, and no frame has shown yet that it led to a key frame
        self._units = len(found.timeline.pts)
        self._last = -math.inf
        self.out = Walked()

    def run(self, stream: VideoStream, packets: Iterable[Packet[VideoStream]]) -> Walked:
        """Decode. A spent budget ends the pass early; everything else that goes wrong is counted."""
        self._set_up(stream)
        try:
            skipped = self._feed(stream, packets)
            self.out.full = self._thorough and not skipped
        except BudgetSpent:
            self.out.timed_out = True
        if self._picker is not None:
            self._hand_over(self._picker.finish())
        self.out.displayed, self.out.rotation_degrees = self._painter.displayed, self._painter.rotation_degrees
        return self.out

    def _set_up(self, stream: VideoStream) -> None:
        context = stream.codec_context
        if context.is_open:
            context.flush_buffers()
            return
        context.thread_count = 1
        context.thread_type = "NONE"
        context.options = {"max_pixels": str(self._request.limits.max_pixels)}
        if not self._thorough:
            context.options = context.options | {"skip_loop_filter": "all"}

    def _feed(self, stream: VideoStream, packets: Iterable[Packet[VideoStream]]) -> bool:
        """Feed packets until nothing more is wanted; return whether any was left out."""
        context, resume_at, skipped, jumped = stream.codec_context, 0, False, False
        for index, packet in enumerate(packets):
            if index < resume_at:
                skipped = True
                continue
            if jumped:
                context.flush_buffers()
                jumped = False
                if self._picker is not None:
                    self._picker.forget_held()
            self._leave_out_unneeded(stream, index)
            self._decode(stream, packet)
            if self._picker is None:
                continue
            if self._picker.done:
                return True
            start = self._picker.next_start
            if self._jumps and start is not None:
                key_index, key_seconds = self._settled.start_for(start)
                if key_index > index + 1:
                    resume_at, jumped, self._not_before = key_index, True, key_seconds - 1e-6
                    self._unproved = True
        self._decode(stream, None)
        return skipped

    def _leave_out_unneeded(self, stream: VideoStream, index: int) -> None:
        """Let the decoder drop the packet if no frame refers to it, unless it is the very frame that the plan asks for.

        Were all such frames dropped, an uploader could show a film in them, and something harmless in the others.
        """
        if self._needed is None or stream.codec_context.codec.name not in _SKIPPABLE:
            return
        wanted = self._found.timeline.pts[index] in self._needed
        stream.codec_context.skip_frame = "DEFAULT" if wanted else "NONREF"

    def _decode(self, stream: VideoStream, packet: Packet[VideoStream] | None) -> None:
        import av

        try:
            frames = stream.codec_context.decode(packet)
        except av.error.MemoryError:
            raise
        except (av.error.FFmpegError, EOFError):
            self.out.errors += packet is not None
            frames = []
        self._units += 1
        for frame in frames:
            self._see(frame)
        self._file.progress(self._units, max(self.out.reached_seconds, 0.0))

    def _see(self, frame: VideoFrame) -> None:
        self.out.decoded += 1
        seconds = self._time_of(frame)
        if seconds < self._not_before:
            return  # shown before the key frame that decoding resumed at: its references are missing
        if self._unproved:
            # The container called it a key frame. Where the decoder finds it needs others, what follows is painted over
            # a grey or a stale picture, and the decoder does not call that an error.
            self._unproved = False
            self.out.errors += not stands_alone(frame)
        self._last = seconds
        self.out.reached_seconds = max(self.out.reached_seconds, seconds)
        if self._picker is None:
            self._hand_over([Picked(frame, seconds, 0)])
            return
        self._watch(frame, seconds)
        self._hand_over(self._picker.offer(frame, seconds))

    def _time_of(self, frame: VideoFrame) -> float:
        stamp = frame.pts if frame.pts is not None else frame.dts
        if not self._settled.reliable or stamp is None:
            return max(self._last, -self._settled.step_seconds) + self._settled.step_seconds
        seconds = stamp * self._found.time_base - self._found.base_seconds
        return seconds if seconds > self._last else self._last + 1e-4

    def _watch(self, frame: VideoFrame, seconds: float) -> None:
        if self._extras_left <= 0 or self._picker is None:
            return
        signature = luma_signature(frame)
        before, self._signature = self._signature, signature
        if before is None or signature is None:
            return
        changed = difference(before, signature) > self._request.sampling.change_threshold
        if changed and self._picker.add_burst(seconds, self._extra):
            self._extras_left -= 1

    def _hand_over(self, picked: Iterable[Picked[VideoFrame]]) -> None:
        for one in picked:
            self._sink.frame(self._painter.paint(one.frame), one.pts_seconds, one.burst)
            self.out.scored.append(one.pts_seconds)
