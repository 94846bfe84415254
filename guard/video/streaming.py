"""Receive the frames of one job: all at once, or in chunks. Everything that a worker says is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from guard.errors import DecoderCrashed, InputError, TooManyFrames, error_for_code
from guard.interfaces import FrameSink, SamplingNeeds
from guard.types import Coverage, Frames, UInt8Array
from guard.video import codec
from guard.video.pool import broken_protocol, job_events
from guard.video.process import Worker
from guard.video.reader import ReadRequest, ReadResult
from guard.video.wire import WireError

_CHUNK_BYTES = 32 << 20


class Collector:
    """Frames from a worker, checked as they come."""

    def __init__(self, side_px: int, max_bytes: int) -> None:
        self._side_px = side_px
        self._max_bytes = max_bytes
        self._first_burst: int | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything; the next burst counts as the first."""
        self._first_burst = None
        self._images: list[UInt8Array] = []
        self._pts: list[float] = []
        self._bursts: list[int] = []
        self.total_bytes = 0

    def add(self, event: Mapping[str, Any], blob: bytearray) -> None:
        """Take one message. Raises `WireError` where it contradicts itself, `TooManyFrames` over the limit."""
        images, pts, bursts = checked_frames(event, blob, self._side_px)
        if self._images and images.shape[1:] != self._images[0].shape[1:]:
            raise WireError(f"frames of {images.shape[1:]} after {self._images[0].shape[1:]}")
        self.total_bytes += images.nbytes
        if self.total_bytes > self._max_bytes:
            raise TooManyFrames(
                f"The frames asked for take more than {self._max_bytes} bytes (limits.max_result_bytes).",
                hint="Ask for smaller frames or a larger gap, or take them in chunks with `SandboxedDecoder.feed`.",
            )
        if self._first_burst is None:
            self._first_burst = bursts[0]
        self._images.append(images)
        self._pts += pts
        self._bursts += [burst - self._first_burst for burst in bursts]

    def frames(self, coverage: Coverage) -> Frames:
        """Return all frames as one value. Raises `WireError` if they are not in order, or absent."""
        try:
            images = np.concatenate(self._images) if len(self._images) != 1 else self._images[0]
            bursts = np.array(self._bursts, dtype=np.int32)
            pts = np.array(self._pts, dtype=np.float64)
            return Frames(images=images, pts_seconds=pts, burst_ids=bursts, coverage=coverage)
        except (ValueError, OverflowError) as error:
            raise WireError(str(error)) from None

    @property
    def is_full(self) -> bool:
        """Whether there is enough for a chunk."""
        return self.total_bytes >= _CHUNK_BYTES

    def chunk(self, coverage: Coverage, needs: SamplingNeeds) -> Frames | None:
        """Return what can be handed over and forget it; None while a single burst is under way.

        The last burst may go on in the next message and stays here; where every frame is wanted there are no bursts.
        """
        if needs.every_frame:
            return self.take(coverage)
        whole = next((i for i in range(len(self._bursts), 0, -1) if self._bursts[i - 1] != self._bursts[-1]), 0)
        if whole == 0:
            return None
        every = self.frames(coverage)
        kept = every.images[whole:].copy()
        self._first_burst = (self._first_burst or 0) + self._bursts[-1]
        self._images, self.total_bytes = [kept], kept.nbytes
        self._pts, self._bursts = self._pts[whole:], [0] * len(kept)
        return Frames(
            images=every.images[:whole],
            pts_seconds=every.pts_seconds[:whole],
            burst_ids=every.burst_ids[:whole],
            coverage=coverage,
        )

    def take(self, coverage: Coverage) -> Frames:
        """Return what has come since the last call, its burst ids counted from 0, and forget it."""
        frames = self.frames(coverage)
        self.clear()
        return frames


def collect_frames(worker: Worker, request: ReadRequest, fd: int, label: str) -> tuple[ReadResult, Frames, float]:
    """Run one job; return the result, all frames, and the worker's CPU seconds. Raises an `InputError`."""
    collector = Collector(request.needs.side_px, request.limits.max_result_bytes)
    events = job_events(worker, codec.request_to_json(request), request.limits, fd, label)
    try:
        while True:
            try:
                event, blob = next(events)
            except StopIteration as stop:
                result, cpu_seconds = _result(stop.value, label)
                return result, collector.frames(result.coverage), cpu_seconds
            if event["event"] == "restart":
                collector.clear()
            else:
                collector.add(event, blob)
    except WireError as error:
        worker.kill("protocol")
        raise broken_protocol(label, error) from None
    finally:
        events.close()


def feed_frames(worker: Worker, request: ReadRequest, fd: int, label: str, sink: FrameSink) -> tuple[ReadResult, float]:
    """Run one job and give its frames to `sink` in chunks that cut no burst; the clocks stand still meanwhile.

    Returns the result and the worker's CPU seconds. Raises an `InputError`, and whatever `sink` raises.
    """
    collector = Collector(request.needs.side_px, request.limits.max_result_bytes)
    events = job_events(worker, codec.request_to_json(request), request.limits, fd, label)
    seen = 0
    try:
        while True:
            try:
                event, blob = next(events)
            except StopIteration as stop:
                result, cpu_seconds = _result(stop.value, label)
                break
            if event["event"] == "restart":
                collector.clear()
                sink.restart()
                seen = 0
                continue
            # Full before the new message is added: so something is always left for the last chunk, which is final.
            chunk = collector.chunk(_provisional(request, seen), request.needs) if collector.is_full else None
            if chunk is not None:
                seen += len(chunk.pts_seconds)
                with worker.paused():
                    sink.take(chunk)
            collector.add(event, blob)
        sink.take(collector.take(result.coverage))
        return result, cpu_seconds
    except WireError as error:
        worker.kill("protocol")
        raise broken_protocol(label, error) from None
    finally:
        events.close()


def _provisional(request: ReadRequest, seen: int) -> Coverage:
    return Coverage(
        frames_scored=seen,
        frames_decoded=seen,
        largest_gap_seconds=0.0,
        full_decode=False,
        decoded_seconds=0.0,
        declared_seconds=None,
        complete=False,
        sampler="under way",
        seed=request.seed,
    )


def checked_frames(
    event: Mapping[str, Any], blob: bytearray, side_px: int
) -> tuple[UInt8Array, list[float], list[int]]:
    """Return the frames of one message: uint8 [T, H, W, 3], times and burst ids. Raises `WireError`."""
    height, width = codec.integer(event, "height"), codec.integer(event, "width")
    if min(height, width) != side_px or max(height, width) > 2 * side_px:
        raise WireError(f"frames of {width}x{height} for a short side of {side_px}")
    count, rest = divmod(len(blob), height * width * 3)
    if rest or count == 0:
        raise WireError(f"{len(blob)} bytes are no whole number of {width}x{height} frames")
    images = np.frombuffer(blob, dtype=np.uint8).reshape(count, height, width, 3)
    return images, codec.numbers(event, "pts_seconds", count), codec.integers(event, "burst_ids", count)


def _result(answer: Mapping[str, Any], label: str) -> tuple[ReadResult, float]:
    if answer.get("event") == "done":
        return codec.result_from_json(answer), codec.number(answer, "cpu_seconds")
    kind = error_for_code(codec.text(answer, "code"))
    if not issubclass(kind, InputError):
        kind = DecoderCrashed
    raise kind(f"{label!r}: {codec.text(answer, 'message')}")
