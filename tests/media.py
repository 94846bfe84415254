"""Small clips for tests, rendered on the spot with PyAV.

Each frame carries its number, so that a test can tell which one it got: eight vertical bars in the middle band spell it
in binary (white is 1, the left bar is the highest bit), the top left corner is red, the bottom right corner is blue and
all else is grey. `frame_number` reads the bars back from any upright frame.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from guard.types import UInt8Array

BARS = 8


def picture(number: int, width: int = 192, height: int = 128, grey: int = 96) -> UInt8Array:
    """Return frame `number`, uint8 [height, width, 3], RGB."""
    image = np.full((height, width, 3), grey, dtype=np.uint8)
    image[: height // 4, : width // 4] = (220, 20, 20)
    image[-(height // 4) :, -(width // 4) :] = (20, 20, 220)
    for bar in range(BARS):
        lit = number >> (BARS - 1 - bar) & 1
        left, right = bar * width // BARS, (bar + 1) * width // BARS
        image[height * 3 // 8 : height * 5 // 8, left:right] = 235 if lit else 16
    return image


def frame_number(image: UInt8Array) -> int:
    """Return the number that an upright frame carries (0..255)."""
    height, width, _ = image.shape
    row = image[height // 2].astype(int).sum(axis=1)
    return sum(int(row[(2 * bar + 1) * width // (2 * BARS)] > 380) << (BARS - 1 - bar) for bar in range(BARS))


def corner_colours(image: UInt8Array) -> dict[str, str]:
    """Return which corners are red or blue, such as `{"top left": "red", "bottom right": "blue"}`."""
    height, width, _ = image.shape
    found = {}
    for row, y in (("top", height // 12), ("bottom", height - 1 - height // 12)):
        for column, x in (("left", width // 12), ("right", width - 1 - width // 12)):
            red, _, blue = image[y, x].astype(int)
            if abs(red - blue) > 60:
                found[f"{row} {column}"] = "red" if red > blue else "blue"
    return found


def render(
    *,
    frames: int = 30,
    fps: int = 30,
    size: tuple[int, int] = (192, 128),
    codec: str = "libx264",
    container: str = "mp4",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    pts_ms: Sequence[int] | None = None,
    draw: Callable[[int], UInt8Array] | None = None,
    audio_seconds: float = 0.0,
    tracks: int = 1,
    container_options: dict[str, str] | None = None,
) -> bytes:
    """Return a clip; `pts_ms` gives each frame its own time, `tracks` repeats the video stream."""
    buffer = io.BytesIO()
    width, height = size
    painter = draw or (lambda number: picture(number % 256, width, height))
    with av.open(buffer, "w", format=container, container_options=container_options or {}) as out:
        streams = [_video_stream(out, codec, fps, size, pix_fmt, options, pts_ms is not None) for _ in range(tracks)]
        sound = out.add_stream("aac", rate=48_000) if audio_seconds else None
        for number in range(frames):
            image = painter(number)
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
                if pts_ms is not None:
                    frame.pts, frame.time_base = pts_ms[number], Fraction(1, 1000)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
        if sound is not None:
            _mux_silence(out, sound, audio_seconds)
    return buffer.getvalue()


def audio_only(seconds: float = 1.0) -> bytes:
    """Return an mp4 with a silent sound track and no picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        _mux_silence(out, out.add_stream("aac", rate=48_000), seconds)
    return buffer.getvalue()


def rotated(clip: bytes, degrees: int, *, mirrored: bool = False) -> bytes:
    """Return an mp4 whose header asks players to turn it clockwise by `degrees` (and to mirror it first)."""
    turns = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    a, b, c, d = turns[degrees]
    if mirrored:
        a, b = -a, -b
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    at = clip.index(b"tkhd") + 4 + 40
    return clip[:at] + matrix + clip[at + 36 :]


def cut_by_edit_list(clip: bytes, skip_seconds: float) -> bytes:
    """Return an mp4 whose edit list starts the film `skip_seconds` later."""
    scale_at = clip.index(b"mdhd") + 4 + 12
    (scale,) = struct.unpack_from(">I", clip, scale_at)
    (movie_scale,) = struct.unpack_from(">I", clip, clip.index(b"mvhd") + 4 + 12)
    at = clip.index(b"elst") + 4 + 8
    duration, media_time = struct.unpack_from(">Ii", clip, at)
    entry = struct.pack(">Ii", duration - round(skip_seconds * movie_scale), media_time + round(skip_seconds * scale))
    return clip[:at] + entry + clip[at + 8 :]


def cover_only() -> bytes:
    """Return a sound track with a cover picture: no moving picture at all."""
    from av.stream import Disposition

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=48_000)
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(1, 64, 64), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        out.mux(cover.encode(frame))
        out.mux(cover.encode(None))
        _mux_silence(out, sound, 0.5)
    return buffer.getvalue()


def still(extension: str = ".png", size: tuple[int, int] = (192, 128)) -> bytes:
    """Return picture number 5 as a PNG, JPEG or WebP file."""
    done, data = cv2.imencode(extension, cv2.cvtColor(picture(5, *size), cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def gif(frames: int = 6, fps: int = 10) -> bytes:
    """Return an animated GIF."""
    return render(frames=frames, fps=fps, codec="gif", container="gif", pix_fmt="rgb8")


def write(path: Path, data: bytes) -> Path:
    """Write `data` and return `path`."""
    path.write_bytes(data)
    return path


def _video_stream(out, codec, fps, size, pix_fmt, options, variable):
    stream = out.add_stream(codec, rate=fps, options={"threads": "1"} | (options or {}))
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    if variable:
        stream.codec_context.time_base = Fraction(1, 1000)
    return stream


def _mux_silence(out, stream, seconds):
    samples = 1024
    for index in range(int(seconds * 48_000 / samples)):
        frame = av.AudioFrame.from_ndarray(np.zeros((2, samples), dtype=np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, index * samples, Fraction(1, 48_000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
