"""Opposing changes in each cell: a zigzag over time with a least step, so that small wobbles neither start nor hide
one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fast_path.flash.light import Light
from guard.types import Float32Array

BoolArray = NDArray[np.bool_]


class Zigzag:
    """Turning points of one scalar per cell.

    A cell that last went up keeps its highest value since; once it is `step` below that, it has gone down, and so on.
    Changes whose lower end is not below `dark_below` do not count, and move nothing: 1.0 -> 0.85 -> 0.75 is one
    change, at 0.75.
    """

    def __init__(self, step: float, dark_below: float, *, strict: bool = False) -> None:
        self._step = np.float32(step)
        self._dark = np.float32(dark_below)
        self._strict = strict
        self._high: Float32Array | None = None
        self._low: Float32Array | None = None

    def update(self, value: Float32Array) -> tuple[BoolArray, BoolArray]:
        """Take float32 [h, w]; return which cells went up and which went down with this frame."""
        if self._high is None or self._low is None:
            self._high, self._low = value.copy(), value.copy()
            nothing = np.zeros(value.shape, dtype=bool)
            return nothing, nothing
        # low is +inf while the last change was up, and high -inf while it was down: only the turn that comes next is
        # found
        np.maximum(self._high, value, out=self._high, where=np.isfinite(self._high))
        np.minimum(self._low, value, out=self._low, where=np.isfinite(self._low))
        up = self._reaches(value - self._low) & (self._low < self._dark)
        down = self._reaches(self._high - value) & (value < self._dark) & ~up
        self._high[up], self._low[up] = value[up], np.inf
        self._low[down], self._high[down] = value[down], -np.inf
        return up, down

    def _reaches(self, change: Float32Array) -> BoolArray:
        return np.asarray(change > self._step if self._strict else change >= self._step)


class RedSwitch:
    """Changes to and from saturated red, after WCAG 2.2.

    A cell is either in red or out of it and remembers the reddest (or least red) colour since. It changes sides when
    it is further than `chroma_step` from that colour, and the red side is saturated.
    """

    def __init__(self, red_ratio: float, chroma_step: float) -> None:
        self._saturated = np.float32(red_ratio)
        self._step = np.float32(chroma_step)
        self._inside: BoolArray | None = None
        self._ratio = np.zeros(0, np.float32)
        self._chroma = np.zeros(0, np.float32)

    def update(self, light: Light) -> tuple[BoolArray, BoolArray]:
        """Take one picture; return which cells turned red and which left red with this frame."""
        ratio, chroma = light.red_ratio, light.chroma
        saturated = ratio >= self._saturated
        if self._inside is None:
            self._inside, self._ratio, self._chroma = saturated.copy(), ratio.copy(), chroma.copy()
            nothing = np.zeros(ratio.shape, dtype=bool)
            return nothing, nothing
        far = np.hypot(*(chroma - self._chroma)) > self._step
        entered = ~self._inside & saturated & far
        left = self._inside & far
        turned = entered | left
        further = np.where(self._inside, ratio > self._ratio, ratio < self._ratio)
        keep = turned | further
        self._ratio[keep] = ratio[keep]
        self._chroma[:, keep] = chroma[:, keep]
        self._inside ^= turned
        return entered, left
