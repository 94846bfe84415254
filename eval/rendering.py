"""Small clips made on the spot: for the miniature copies of benchmarks, and for the suites that the project renders."""

from __future__ import annotations

import atexit
import io
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

from guard.types import UInt8Array

Painter = Callable[[int], UInt8Array]
"""From a frame's number to uint8 [H, W, 3]."""


def encode(painter: Painter, frames: int, *, fps: int, crf: int = 20) -> bytes:
    """Return H.264 in MP4: `frames` pictures at `fps`, single-threaded, so that equal pictures give equal bytes."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        options = {"preset": "veryfast", "crf": str(crf), "threads": "1"}
        stream = out.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            image = painter(number)
            if number == 0:
                stream.width, stream.height = image.shape[1], image.shape[0]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@cache
def tiny_clip(seed: int, *, frames: int = 8, fps: int = 8) -> bytes:
    """Return a clip of 64 x 48 pixels with a pattern of its own that drifts: its content differs from any other's."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    return encode(lambda number: np.roll(pattern, number, axis=1), frames, fps=fps)


def write_tiny(path: Path, seed: int, *, frames: int = 8) -> Path:
    """Write a tiny clip and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiny_clip(seed, frames=frames))
    return path


def scratch() -> Path:
    """Return an empty folder that is removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="guard-eval-")
    atexit.register(folder.cleanup)
    return Path(folder.name)
