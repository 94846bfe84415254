"""From a decoded FFmpeg frame to an RGB array: scaled, turned and flipped as a player would show it."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from guard.errors import TooManyPixels
from guard.limits import Limits
from guard.types import Float32Array, UInt8Array
from guard.video.reader import output_size

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_SIGNATURE_SIDE = 16
_INTRA = (0, 1)
"""AV_PICTURE_TYPE_NONE, for codecs without kinds of frames, and AV_PICTURE_TYPE_I."""


class Painter:
    """Turns frames into uint8 [H, W, 3] of one size: that of the first frame, into which later sizes are squashed."""

    def __init__(self, side_px: int, limits: Limits) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._side_px = side_px
        self._limits = limits
        self._size: tuple[int, int] | None = None
        self.displayed: tuple[int, int] | None = None
        """Width and height in pixels of the first frame, after rotation."""
        self.rotation_degrees = 0
        self._angle: int | None = None
        self._turn = (1, 0, 0, 1)

    def paint(self, frame: VideoFrame) -> UInt8Array:
        """Return one frame. Raises `TooManyPixels`."""
        width, height = frame.width, frame.height
        check_pixels(width, height, self._limits)
        turn = self._turn_of(frame)
        quarter = turn in _QUARTER_TURNS
        if self._size is None:
            aspect = _pixel_aspect(frame)
            shown = (height, width * aspect) if quarter else (width * aspect, height)
            self._size = output_size(shown[0], shown[1], self._side_px)
            self.displayed = (height, width) if quarter else (width, height)
            self.rotation_degrees = _DEGREES[turn]
        out_width, out_height = self._size[::-1] if quarter else self._size
        # AREA averages what it drops, so thin things survive a tenfold reduction; it cannot enlarge.
        way = "AREA" if out_width <= width and out_height <= height else "BILINEAR"
        small = self._reformatter.reformat(
            frame, width=out_width, height=out_height, format="rgb24", interpolation=way, threads=1
        )
        image = cast("UInt8Array", small.to_ndarray())
        return np.ascontiguousarray(_TURNS[turn](image))

    def _turn_of(self, frame: VideoFrame) -> tuple[int, int, int, int]:
        # PyAV ties each frame whose side data was looked at into a reference cycle: 4K frames would pile up by the
        # gigabyte until the garbage collector runs. So the matrix is read once, and again only where the angle
        # changes.
        angle = frame.rotation
        if self._angle != angle:
            self._angle, self._turn = angle, matrix_of(frame)
        return self._turn


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raise `TooManyPixels` where a frame is over the limits."""
    if max(width, height) > limits.max_side_px or width * height > limits.max_pixels:
        raise TooManyPixels(
            f"Frames of {width}x{height} pixels; allowed: {limits.max_side_px} a side, {limits.max_pixels} in all."
        )


_TURNS = {
    (1, 0, 0, 1): lambda a: a,
    (0, 1, -1, 0): lambda a: np.rot90(a, -1),
    (-1, 0, 0, -1): lambda a: np.rot90(a, 2),
    (0, -1, 1, 0): lambda a: np.rot90(a, 1),
    (-1, 0, 0, 1): lambda a: a[:, ::-1],
    (1, 0, 0, -1): lambda a: a[::-1],
    (0, 1, 1, 0): lambda a: a.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda a: np.rot90(a, 2).transpose(1, 0, 2),
}
"""By (a, b, c, d) of x' = a x + c y, y' = b x + d y, with y pointing down: turning clockwise by 90 degrees is x' =
-y, y' = x.
"""
_QUARTER_TURNS = frozenset({(0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0), (0, -1, -1, 0)})
_DEGREES = dict.fromkeys(_TURNS, 0) | {(0, 1, -1, 0): 90, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 270}


_BY_ANGLE = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
"""By quarter turns counter-clockwise, as `VideoFrame.rotation` counts."""


def matrix_of(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the display matrix of a frame, rounded to quarter turns and flips; the identity where there is none."""
    try:
        data = bytes(cast("Any", frame.side_data.get("DISPLAYMATRIX")) or b"")
    except (
        ValueError
    ):  # a kind of side data that this PyAV has no name for (stereo video has one): only the angle is left
        data = b""
    if len(data) < 36:
        return _BY_ANGLE[round(frame.rotation / 90) % 4]
    a, b, _, c, d = struct.unpack_from("=5i", data)
    angle = round(math.atan2(b, a) / (math.pi / 2)) % 4 if (a, b) != (0, 0) else 0
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[angle]
    mirrored = a * d - b * c < 0
    return (cos, sin, sin, -cos) if mirrored else (cos, sin, -sin, cos)


def _pixel_aspect(frame: VideoFrame) -> float:
    ratio = getattr(frame, "sample_aspect_ratio", None)
    value = float(ratio) if ratio else 1.0
    return value if 0.1 <= value <= 10 else 1.0  # beyond that it is no camera, and only `output_size` would suffer


def luma_signature(frame: VideoFrame) -> Float32Array | None:
    """Return about 16 by 16 brightness samples in 0..1, float32, or None for formats without a plain luma plane.

    Points, not means: reading 256 bytes of a frame costs a thousandth of decoding it.
    """
    form = frame.format
    name = form.name
    if not name.startswith(("yuv", "gray", "nv", "p0")) or name.endswith("be"):
        return None
    bits = form.components[0].bits
    wide = bits > 8
    plane = frame.planes[0]
    kind = np.dtype(np.uint16 if wide else np.uint8)
    rows = np.frombuffer(cast("memoryview", plane), dtype=kind).reshape(plane.height, -1)[:, : plane.width]
    picked = rows[:: max(plane.height // _SIGNATURE_SIDE, 1), :: max(plane.width // _SIGNATURE_SIDE, 1)]
    signature: Float32Array = picked.astype(np.float32) / np.float32((1 << bits) - 1)
    return signature


def stands_alone(frame: VideoFrame) -> bool:
    """Whether the decoder, not the container, finds that the frame needs no other."""
    return bool(frame.key_frame) and frame.pict_type in _INTRA


def difference(one: Float32Array, other: Float32Array) -> float:
    """Return the mean absolute difference in 0..1; 1 where the size changed."""
    return float(np.abs(one - other).mean()) if one.shape == other.shape else 1.0
