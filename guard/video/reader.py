"""What the worker asks of a reader: one file descriptor in, frames out.

A reader is a file in `guard/video/readers/` with `Config`, `build(config)` and `tiny()`. It runs inside the locked
worker process: no network, no opening of files, a memory limit. Every reader promises: RGB, rotation applied,
presentation seconds from the start of the container, short side exactly `side_px`. What it cannot promise it must
refuse with an `InputError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import RawIOBase
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, runtime_checkable

from guard.interfaces import SamplingNeeds
from guard.limits import Limits
from guard.types import Coverage, MediaInfo, UInt8Array
from guard.video.sampling import SamplingConfig

Task: TypeAlias = Literal["sample", "times", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """One job of a reader."""

    task: Task = "sample"
    needs: SamplingNeeds = field(default_factory=SamplingNeeds)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    """From `content_seed`."""
    times_seconds: tuple[float, ...] = ()
    """For `times`: the nearest frame to each is wanted. Increasing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """What a reader says at the end; the frames went to the sink."""

    media: MediaInfo
    coverage: Coverage


class BudgetSpent(Exception):  # noqa: N818  (a signal, not an error)
    """The wall clock or CPU time of the job is used up: hand over what there is."""


class Sink(Protocol):
    """Where a reader puts what it finds."""

    def frame(self, image: UInt8Array, pts_seconds: float, burst: int) -> None:
        """Hand over one frame, uint8 [H, W, 3]."""
        ...

    def tick(self, frames_decoded: int, reached_seconds: float) -> None:
        """Say how far the work is. Call at least once per decoded frame. Raises `BudgetSpent`."""
        ...

    def restart(self) -> None:
        """Withdraw all frames handed over so far: a second pass follows."""
        ...


@runtime_checkable
class Reader(Protocol):
    """Decodes one container."""

    @property
    def name(self) -> str:
        """Registry key."""
        ...

    def read(self, file: BinaryIO, request: ReadRequest, sink: Sink) -> ReadResult:
        """Decode what `request` asks for. Raises an `InputError` for whatever the file does wrong."""
        ...


class WatchedFile(RawIOBase):
    """A seekable file for a library to read from, which reports progress: parsing a header can be long work too."""

    def __init__(self, file: BinaryIO, sink: Sink) -> None:
        self._file = file
        self._sink = sink
        self._decoded = 0
        self._reached = 0.0

    def progress(self, frames_decoded: int, reached_seconds: float) -> None:
        """Note how far decoding is, and report it."""
        self._decoded, self._reached = frames_decoded, reached_seconds
        self._sink.tick(frames_decoded, reached_seconds)

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes."""
        return self._file.read(size)

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer`; return how many bytes came."""
        return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move; return the new offset."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the offset."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


def output_size(width: float, height: float, side_px: int) -> tuple[int, int]:
    """Return (width, height) of handed-over frames: short side exactly `side_px`, long side at most twice that.

    1280x720 at 128 gives 228x128; 1000x10 at 128 gives 256x128 (squashed, so that a strip of film stays in memory).
    """
    ratio = max(width, height) / max(min(width, height), 1e-9)
    long_side = min(round(side_px * ratio), 2 * side_px)
    return (long_side, side_px) if width >= height else (side_px, long_side)
