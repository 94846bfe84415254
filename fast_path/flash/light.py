"""From pixels to what the eye gets: relative luminance and saturated red, in linear light, on a small grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from guard.types import Float32Array, UInt8Array

_FLARE = np.float32(0.005)
"""Light that a screen gives off or reflects when black. Without it (1, 0, 0) of 255, which nobody sees, is pure red."""


def _linear_table() -> Float32Array:
    """Return the sRGB decoding of 0..255 (IEC 61966-2-1), as WCAG defines relative luminance."""
    value = np.arange(256, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


LINEAR = _linear_table()


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """One picture on the grid of h x w cells."""

    luminance: Float32Array
    """float32 [h, w] in [0, 1]: relative luminance."""
    red_ratio: Float32Array
    """float32 [h, w] in [0, 1]: R / (R + G + B)."""
    red_value: Float32Array
    """float32 [h, w] in [0, 320]: (R - G - B) * 320 where saturated red, else 0 (the measure of WCAG 2.0)."""
    chroma: Float32Array
    """float32 [2, h, w]: CIE 1976 u', v'."""


def grid_size(height: int, width: int, max_side_cells: int) -> tuple[int, int]:
    """Return (h, w) of the grid: the picture's shape, its short side at most `max_side_cells`; never larger than it."""
    scale = min(1.0, max_side_cells / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def measure(image: UInt8Array, cells: tuple[int, int], saturated_from: float) -> Light:
    """Measure one uint8 [H, W, 3] RGB picture on a grid of `cells` (h, w).

    Averaging is done in linear light, as the eye does with detail too fine to see.
    """
    linear: Any = LINEAR[image]
    if linear.shape[:2] != cells:
        linear = cv2.resize(linear, (cells[1], cells[0]), interpolation=cv2.INTER_AREA)
    red, green, blue = (np.ascontiguousarray(linear[..., channel], dtype=np.float32) for channel in range(3))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    ratio = (red + _FLARE) / (red + green + blue + 3 * _FLARE)
    value = np.where(ratio >= saturated_from, np.clip(red - green - blue, 0, 1) * 320, 0)
    return Light(
        luminance=np.clip(luminance, 0, 1).astype(np.float32),
        red_ratio=ratio.astype(np.float32),
        red_value=value.astype(np.float32),
        chroma=_chroma(red + _FLARE, green + _FLARE, blue + _FLARE),
    )


def _chroma(red: Float32Array, green: Float32Array, blue: Float32Array) -> Float32Array:
    """Return u', v' of linear sRGB by way of CIE XYZ (IEC 61966-2-1, CIE 15)."""
    x = 0.4124 * red + 0.3576 * green + 0.1805 * blue
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = 0.0193 * red + 0.1192 * green + 0.9505 * blue
    sum_ = x + 15 * y + 3 * z
    return np.stack([4 * x / sum_, 9 * y / sum_]).astype(np.float32)
