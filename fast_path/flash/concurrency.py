"""Which changes happen together over a large enough area, and how often within one second."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np

from fast_path.flash.settings import FlashSettings
from fast_path.flash.transitions import BoolArray
from guard.types import Float32Array

_SECOND = 1.0 - 1e-6
"""A change exactly one second ago has left the window; the slack is for presentation times that are not exact in
binary."""


class ConcurrentChanges:
    """Counts changes that many neighbouring cells make at once.

    Each cell that changed waits up to `together_seconds` for company of the same direction. Once a quarter of a
    visual field waits, all that wait there are counted, each at its own place. The number of a frame is the largest n
    such that a quarter of some field had n counted changes each within the last second: two halves of the screen that
    flash in turn are not added up, and neither are changes at different places.
    """

    def __init__(self, cells: tuple[int, int], settings: FlashSettings) -> None:
        self._window = (
            max(1, round(cells[0] * settings.window_fraction)),
            max(1, round(cells[1] * settings.window_fraction)),
        )
        self._enough = (
            settings.area_fraction * self._window[0] * self._window[1] - 0.5
        )  # counts are whole, sums are float
        self._together = settings.together_seconds + 1e-6
        self._waiting_since = [np.full(cells, -np.inf) for _ in range(2)]
        self._recent: deque[tuple[float, BoolArray]] = deque()
        self._counts = np.zeros(cells, np.int32)
        self._number = 0

    def update(self, time_seconds: float, up: BoolArray, down: BoolArray) -> int:
        """Take the cells that changed with this frame; return the number of concurrent changes of the last second."""
        changed = False
        for since, now in zip(self._waiting_since, (up, down), strict=True):
            since[now] = time_seconds
            if not now.any():
                continue  # whoever waits was not enough before, and has only become fewer
            waiting = since >= time_seconds - self._together
            fields = self._full_fields(waiting)
            if fields is None:
                continue
            counted = waiting & fields
            since[counted] = -np.inf
            self._recent.append((time_seconds, counted))
            self._counts += counted
            changed = True
        while self._recent and self._recent[0][0] < time_seconds - _SECOND:
            self._counts -= self._recent.popleft()[1]
            changed = True
        if changed:
            self._number = self._largest_number()
        return self._number

    def _full_fields(self, cells: BoolArray) -> BoolArray | None:
        """Return the union of the fields with enough of `cells`, or None where there is none."""
        if cells.sum() < self._enough:
            return None
        full = self._sums(cells) >= self._enough
        if not full.any():
            return None
        # a field is a window; opening the windows around their centres again gives the cells that lie in any of them
        kernel = np.ones(self._window, np.uint8)
        anchor = (self._window[1] - 1 - self._window[1] // 2, self._window[0] - 1 - self._window[0] // 2)
        grown = cv2.dilate(full.astype(np.uint8), kernel, anchor=anchor, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        return np.asarray(grown > 0)

    def _sums(self, cells: BoolArray) -> Float32Array:
        """Return for each window, at its centre, how many of `cells` it holds; cells beyond the picture count as
        none."""
        height, width = self._window
        return np.asarray(
            cv2.boxFilter(
                cells.astype(np.float32), -1, (width, height), normalize=False, borderType=cv2.BORDER_CONSTANT
            ),
            dtype=np.float32,
        )

    def _largest_number(self) -> int:
        low, high = 0, int(self._counts.max())
        while low < high:  # fewer cells reach a higher number: halve the range
            middle = (low + high + 1) // 2
            reached = self._counts >= middle
            fills = reached.sum() >= self._enough and self._sums(reached).max() >= self._enough
            low, high = (middle, high) if fills else (low, middle - 1)
        return low
