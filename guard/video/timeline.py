"""When each frame of a stream is shown, from its packets alone: reading packets costs a hundredth of decoding them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True, kw_only=True)
class Timeline:
    """The packets of one video stream in decoding order. Times are seconds from the start of the container."""

    pts: array[float] = field(default_factory=lambda: array("d"))
    """Presentation time of each packet; NaN where it has none."""
    keys: bytearray = field(default_factory=bytearray)
    """1 where the container calls the packet a key frame, and decoding may start at it (`guard.video.clean_start`)."""
    hidden: bytearray = field(default_factory=bytearray)
    """1 where the packet is decoded but not shown (before an edit list starts)."""
    last_duration_seconds: float = 0.0
    broken: bool = False
    """The container stopped with an error before its end."""
    others_end_seconds: float = 0.0
    """Where the longest other stream ends: a film may go on as sound alone."""

    def settle(self, fps: float) -> SettledTimeline:
        """Return the timeline with every time filled in; `fps` is used where packets carry no usable times."""
        shown = np.flatnonzero(np.frombuffer(self.hidden, dtype=np.uint8) == 0)
        raw = np.frombuffer(self.pts, dtype=np.float64)[shown] if len(shown) else np.empty(0)
        ordered = np.sort(raw[np.isfinite(raw)])
        distinct = 1 + int(np.sum(np.diff(ordered) > 1e-6)) if len(ordered) else 0
        # A few doubled times are common; a stream where they are the rule has no clock, and gets one by counting.
        reliable = len(raw) > 0 and distinct >= 0.9 * len(raw)
        if not reliable:
            ordered = np.arange(len(raw), dtype=np.float64) / fps
        step = 1.0 / fps
        if len(ordered) > 1:
            step = max(float(np.median(np.diff(ordered))), 1e-6)
        duration = self.last_duration_seconds if 0 < self.last_duration_seconds < 10 else step
        end = float(ordered[-1]) + duration if len(ordered) else 0.0
        keys = [
            i for i in np.flatnonzero(np.frombuffer(self.keys, dtype=np.uint8)).tolist() if np.isfinite(self.pts[i])
        ]
        # In decoding order the times of key frames rise; one that does not is a lie, and nothing may be skipped to
        # reach it.
        rising, best = [], -np.inf
        for index in keys:
            if self.pts[index] > best:
                best = self.pts[index]
                rising.append(index)
        return SettledTimeline(
            times=ordered.tolist(),
            end_seconds=end,
            key_indexes=rising if reliable else [],
            key_seconds=[self.pts[index] for index in rising] if reliable else [],
            reliable=reliable,
            step_seconds=step,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledTimeline:
    """Presentation times in order, and where decoding may start."""

    times: list[float]
    end_seconds: float
    key_indexes: list[int]
    """Packet numbers (decoding order) of the key frames."""
    key_seconds: list[float]
    reliable: bool
    """False where times were made up by counting: nothing may be skipped then."""
    step_seconds: float

    @property
    def duration_seconds(self) -> float:
        """From the first frame to the end of the last."""
        return self.end_seconds - self.times[0] if self.times else 0.0

    @property
    def fps(self) -> float | None:
        """Mean frames per second, or None for a still."""
        span = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        return (len(self.times) - 1) / span if span > 0 else None

    @property
    def vfr(self) -> bool | None:
        """Whether more than one interval in a hundred differs from the usual by a fifth; None under three frames."""
        if len(self.times) < 3 or not self.reliable:
            return None
        steps = np.diff(np.array(self.times))
        return bool(np.mean(np.abs(steps - np.median(steps)) > 0.2 * np.median(steps) + 1.5e-3) > 0.01)

    def start_for(self, seconds: float) -> tuple[int, float]:
        """Return the packet number to decode from in order to see `seconds`, and that packet's time."""
        index = bisect_right(self.key_seconds, seconds) - 1
        return (self.key_indexes[index], self.key_seconds[index]) if index >= 0 else (0, float("-inf"))
