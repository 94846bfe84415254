"""A video as it comes in, and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from guard.types.checks import Float64Array, Int32Array, UInt8Array, require, require_array


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What a media file says of itself, and what decoding it showed."""

    container: str
    """Demuxer name, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    """Name of the decoder of the scored video stream."""
    width: int
    """Displayed width in pixels, after rotation."""
    height: int
    """Displayed height in pixels, after rotation."""
    declared_duration_seconds: float | None
    """From the header; an uploader may write anything here."""
    decoded_duration_seconds: float | None = None
    """From the presentation times of what was decoded."""
    fps: float | None = None
    """Mean frames per second, or None for a still."""
    rotation_degrees: int = 0
    """Clockwise turn needed for display: 0, 90, 180 or 270."""
    vfr: bool | None = None
    """Whether decoded frame intervals vary; None where too few neighbouring frames were seen."""
    streams: Mapping[str, int] = field(default_factory=dict)
    """Number of streams by kind, such as `{"video": 1, "audio": 2}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One input: its content (a path or bytes), and the hash that identifies it everywhere."""

    source: str
    """What the user called it: a path, a file name of an upload, or a label. Shown, never opened."""
    sha256: str
    """Lower-case hex SHA-256 of the content."""
    size_bytes: int
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    media: MediaInfo | None = None

    def __post_init__(self) -> None:
        require((self.path is None) != (self.data is None), "Video content", "a path or bytes, not both", self.path)
        hexadecimal = len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")
        require(hexadecimal, "sha256", "64 lower-case hex digits", self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a video was looked at: the honest size of the blind spots."""

    frames_scored: int
    frames_decoded: int
    largest_gap_seconds: float
    """Longest stretch without a scored frame, the stretches before the first and after the last included."""
    full_decode: bool
    """True where every frame of the stream was decoded (not necessarily scored)."""
    decoded_seconds: float
    declared_seconds: float | None
    complete: bool
    """False where the stream broke off or a limit was met: absence of evidence is then no evidence."""
    sampler: str
    seed: int
    problem: str | None = None
    """Error code (see `guard.errors`) of what made the decode incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One decode: what it covered, and for whom. A flash analyser sees every frame, a classifier a sample."""

    detectors: tuple[str, ...]
    """Registry keys of the detectors that were fed by it; empty where the slow path alone looked."""
    coverage: Coverage


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Frames:
    """Decoded frames in presentation order, grouped in bursts of neighbours.

    Motion needs neighbours, coverage needs distance: the sampler therefore takes a short burst at each place.
    """

    images: UInt8Array
    """uint8 [T, H, W, 3], RGB, rotation applied."""
    pts_seconds: Float64Array
    """float64 [T], strictly increasing presentation times; the first frame of the stream is at 0 or later."""
    burst_ids: Int32Array
    """int32 [T], non-decreasing from 0: frames with one number are neighbours."""
    coverage: Coverage

    def __post_init__(self) -> None:
        total = len(self.pts_seconds)
        require_array(self.images, "images", np.uint8, (total, None, None, 3))
        require_array(self.pts_seconds, "pts_seconds", np.float64, (total,))
        require_array(self.burst_ids, "burst_ids", np.int32, (total,))
        require(total > 0, "Frames", "at least one frame", total)
        require(bool(np.all(np.diff(self.pts_seconds) > 0)), "pts_seconds", "strictly increasing", self.pts_seconds)
        steps = np.diff(self.burst_ids)
        contiguous = int(self.burst_ids[0]) == 0 and bool(np.all((steps == 0) | (steps == 1)))
        require(contiguous, "burst_ids", "0, 0, .., 1, 1, .. without holes", self.burst_ids)

    def __repr__(self) -> str:
        span = f"{self.pts_seconds[0]:.2f}..{self.pts_seconds[-1]:.2f} s"
        return f"Frames({self.images.shape} uint8, {span}, {int(self.burst_ids[-1]) + 1} bursts)"
