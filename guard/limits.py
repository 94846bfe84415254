"""What an input may cost, and what kinds of file are opened at all.

Every bound is on what is *decoded*: a header may say anything. A bound that is met before the first frame raises; one
that is met later ends the decode with `complete=False` and the code of the bound, so that what was seen can still be
judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from guard.errors import InvalidConfig

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds for one input and for the process that decodes it. All values are positive and finite.

    Raises:
        InvalidConfig: a bound is zero, negative or without end; the message names it.
    """

    max_bytes: int = 10 * 1024 * MIB
    """Size of the file."""
    max_seconds: float = 6 * 3600.0
    """Presentation time from the first frame to the end of the last."""
    max_side_px: int = 8192
    """Longer side of a coded frame."""
    max_pixels: int = 36_000_000
    """Width times height of a coded frame."""
    max_frames: int = 1_500_000
    """Compressed frames in the scored stream: 6 h at 60 per second, and some."""
    max_streams: int = 32
    """Streams of any kind in the container."""
    max_result_bytes: int = 1024 * MIB
    """RGB bytes of the frames handed over for one call (`feed` hands them over in chunks of some 32 MiB)."""
    wall_seconds: float = 300.0
    """Time allowed to any input, however short."""
    wall_seconds_per_media_second: float = 2.0
    """Time added for each second of video that was really reached."""
    cpu_seconds: float = 90.0
    """CPU time allowed to any input, however short."""
    cpu_seconds_per_media_second: float = 0.75
    """CPU time added for each second of video that was really reached."""
    stall_seconds: float = 30.0
    """A worker that reads and decodes nothing new for this long is stopped."""
    address_space_bytes: int = 1536 * MIB
    """Virtual memory of a worker: libraries take about 0.5 GiB of it, frames the rest."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 < value < math.inf:
                raise InvalidConfig(f"limits.{item.name} must be greater than 0 and finite; got {value!r}.")


DEMUXERS: tuple[str, ...] = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf",
    "ivf", "obu", "h264", "hevc", "mpegvideo", "m4v", "av1", "gif", "apng", "png_pipe", "jpeg_pipe", "webp_pipe",
    "webp", "bmp_pipe",
)  # fmt: skip
"""Containers that are opened.

Absent on purpose: everything that opens further files or addresses (hls, dash, concat, sdp, image2, rtsp, mpegts
over http), scripts (lavfi, subtitles alone) and the formats of games and set-top boxes.
"""

DECODERS: tuple[str, ...] = (
    "h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "libdav1d", "av1", "mpeg4", "mpeg2video", "mpeg1video",
    "mjpeg", "h263", "flv", "theora", "gif", "png", "apng", "webp", "webp_anim", "bmp", "wmv1", "wmv2", "wmv3",
    "vc1", "msmpeg4", "msmpeg4v2",
)  # fmt: skip
"""Decoders that are run.

Absent on purpose: MagicYUV, JPEG 2000, EXR, XBIN and every codec no camera or browser writes.
"""

_REFUSED_STARTS: tuple[bytes, ...] = (
    b"#EXTM3U", b"#EXT-X", b"ffconcat", b"<MPD", b"<?xml", b"<smil", b"<SmoothStreaming", b"<!DOCTYPE", b"<html",
    b"<svg", b"v=0\r\n", b"v=0\no", b"[playlist]", b"[Script Info]", b"WEBVTT", b"RTSPtext", b"; FFMETADATA",
    b";FFMETADATA",    b"%PDF",
)  # fmt: skip


def refused_start(head: bytes) -> str | None:
    """Return what the first bytes of a file are if they are no media at all (a playlist, text), else None.

    A playlist named `.mp4` is how a decoder is made to read other files (CVE-2016-1897), so such input never reaches
    one.
    """
    text = head.lstrip(b"\xef\xbb\xbf\x00 \t\r\n")
    for start in _REFUSED_STARTS:
        if text[: len(start)].lower() == start.lower():
            return f"a playlist, script or document ({start.decode('ascii').strip()!r})"
    printable = sum(32 <= byte < 127 or byte in (9, 10, 13) for byte in head)
    return "plain text" if len(head) >= 16 and printable == len(head) else None


_SIGNATURES: tuple[tuple[int, bytes], ...] = (
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"free"), (4, b"skip"), (4, b"wide"), (4, b"pnot"), (4, b"styp"),
    (4, b"moof"), (0, b"\x1aE\xdf\xa3"), (8, b"AVI "), (8, b"WEBP"), (0, b"FLV\x01"), (0, b"OggS"),
    (0, b"0&\xb2u\x8ef\xcf\x11"), (0, b"DKIF"), (0, b"G"), (4, b"G"), (0, b"\x00\x00\x01"),
    (0, b"\x00\x00\x00\x01"), (0, b"GIF8"), (0, b"\x89PNG"), (0, b"\xff\xd8\xff"), (0, b"BM"), (0, b"\x12\x00"),
)  # fmt: skip


def looks_like_media(head: bytes) -> bool:
    """Return whether the first bytes are those of a container that is opened: a file that fails is then damaged, not
    foreign.
    """
    return any(head[offset : offset + len(mark)] == mark for offset, mark in _SIGNATURES)
