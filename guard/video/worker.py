"""The decoder process: `python -m guard.video.worker FD READER PARENT_PID ADDRESS_SPACE`.

A fresh interpreter that loads one reader, locks itself and then decodes one input after another. Whatever happens to
it costs one input an error; the parent starts another.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
import time
from typing import BinaryIO

import numpy as np

from guard import plugins
from guard.errors import DecoderMemory, GuardError, Undecodable
from guard.types import UInt8Array
from guard.video import codec, lockdown, wire
from guard.video.reader import BudgetSpent, Reader, ReadRequest

_BATCH_BYTES = 4 << 20
_TICK_SECONDS = 0.2
_SELF_STOP = 0.85
"""Share of the parent's patience after which the worker stops by itself, so that what it has is not lost."""


class ChannelSink:
    """Sends frames and heartbeats to the parent; knows when the job's time is up."""

    def __init__(self, channel: socket.socket, request: ReadRequest) -> None:
        self._channel = channel
        self._limits = request.limits
        self._images: list[UInt8Array] = []
        self._pts: list[float] = []
        self._bursts: list[int] = []
        self._bytes = 0
        self._started = time.monotonic()
        self._cpu_started = time.process_time()
        self._ticked = self._started

    def frame(self, image: UInt8Array, pts_seconds: float, burst: int) -> None:
        """Queue one frame; a batch goes out every few MiB."""
        if self._images and image.shape != self._images[0].shape:
            self.flush()
        self._images.append(np.ascontiguousarray(image))
        self._pts.append(pts_seconds)
        self._bursts.append(burst)
        self._bytes += image.nbytes
        if self._bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is queued."""
        if not self._images:
            return
        height, width, _ = self._images[0].shape
        head = {
            "event": "frames",
            "height": height,
            "width": width,
            "pts_seconds": self._pts,
            "burst_ids": self._bursts,
        }
        before = time.monotonic()
        wire.send(self._channel, head, np.stack(self._images).reshape(-1).data)
        self._started += time.monotonic() - before  # a slow consumer is no fault of the input
        self._images, self._pts, self._bursts, self._bytes = [], [], [], 0

    def restart(self) -> None:
        """Withdraw all frames so far."""
        self._images, self._pts, self._bursts, self._bytes = [], [], [], 0
        wire.send(self._channel, {"event": "restart"})

    def tick(self, frames_decoded: int, reached_seconds: float) -> None:
        """Send a heartbeat if one is due, and check the clock. Raises `BudgetSpent`."""
        now = time.monotonic()
        if now - self._ticked < _TICK_SECONDS:
            return
        self._ticked = now
        reached = max(reached_seconds, 0.0)
        wire.send(self._channel, {"event": "progress", "frames": frames_decoded, "reached_seconds": reached})
        limits = self._limits
        wall = limits.wall_seconds + limits.wall_seconds_per_media_second * reached
        cpu = limits.cpu_seconds + limits.cpu_seconds_per_media_second * reached
        if now - self._started > _SELF_STOP * wall or time.process_time() - self._cpu_started > _SELF_STOP * cpu:
            raise BudgetSpent


def main(arguments: list[str]) -> int:
    """Serve jobs until the parent closes the channel."""
    fd, reader_name, parent_pid, address_space = int(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3])
    channel = socket.socket(fileno=fd)
    try:
        reader: Reader = plugins.load("reader", reader_name)
        report = lockdown.lock(parent_pid, address_space)
    except Exception as error:
        wire.send(channel, {"event": "failed", "message": f"{type(error).__name__}: {error}"[:500]})
        return 1
    wire.send(channel, {"event": "ready", "report": dict(report)})
    while True:
        try:
            message, job_fd = wire.receive_job(channel)
        except wire.WireError:
            return 0
        if job_fd is None:
            return 1
        _serve(channel, reader, codec.request_from_json(message), job_fd)


def _serve(channel: socket.socket, reader: Reader, request: ReadRequest, fd: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    sink = ChannelSink(channel, request)
    try:
        with os.fdopen(fd, "rb", buffering=0) as file:
            answer = _read(reader, file, request, sink)
        sink.flush()
    except GuardError as error:
        answer = {"event": "error", "code": error.code, "message": error.message[:500]}
    except MemoryError:
        answer = {"event": "error", "code": DecoderMemory.code, "message": _memory_message(request)}
    except BudgetSpent:
        answer = {"event": "error", "code": "decode_timeout", "message": "No frame was found in the time allowed."}
    except wire.WireError:
        os._exit(1)
    except Exception as error:  # a reader's own mistake on strange input: that input's failure, not the worker's
        memory = getattr(error, "errno", None) == errno.ENOMEM
        code, text = (DecoderMemory.code, _memory_message(request)) if memory else (Undecodable.code, _describe(error))
        answer = {"event": "error", "code": code, "message": text}
    after = resource.getrusage(resource.RUSAGE_SELF)
    answer["cpu_seconds"] = (after.ru_utime + after.ru_stime) - (usage.ru_utime + usage.ru_stime)
    wire.send(channel, answer)


def _read(reader: Reader, file: BinaryIO, request: ReadRequest, sink: ChannelSink) -> dict[str, object]:
    return {"event": "done", **codec.result_to_json(reader.read(file, request, sink))}


def _memory_message(request: ReadRequest) -> str:
    return (
        f"Decoding needs more than the {request.limits.address_space_bytes >> 20} MiB of memory that a worker may use."
    )


def _describe(error: Exception) -> str:
    return f"The decoder gave up: {type(error).__name__}: {str(error)[:200]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
