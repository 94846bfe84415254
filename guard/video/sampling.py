"""Where to look in a video: pure planning, no decoding.

The plan is a renewal process: after each burst of frames the next one starts a random step later, at most
`max_gap_seconds` away. So the largest unscored gap is bounded for every video, and an uploader cannot tell where the
samples lie: the seed is mixed with the hash of the content. Key frames are cheap, but the uploader places them;
`mode="keyframe"` uses them where they allow the gap, and is therefore predictable.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from guard.errors import InvalidConfig
from guard.interfaces import SamplingNeeds
from guard.types import require

Mode: TypeAlias = Literal["jitter", "keyframe"]

_LONGEST_STEP = 0.95
"""Share of the gap that a step may take: the rest is for the distance to the next frame that the decoder really
delivers.
"""
_SHORTEST_STEP = 0.55
"""Below half of the gap jitter would only cost more; 0.55..0.95 has a mean step of 0.75 of the gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How densely to look. The defaults bound the unscored gap to two seconds."""

    max_gap_seconds: float = 2.0
    """Longest stretch without a scored frame that a complete video may have."""
    seed: int = 0
    """Mixed with the content hash; keep it secret where uploaders might compute the places."""
    change_threshold: float = 0.12
    """Mean luma difference (0..1) between successive decoded frames that starts an extra burst."""
    max_extra_bursts: int = 64
    """Extra bursts at changes, per video: a flickering video cannot make itself expensive."""
    mode: Mode = "jitter"
    """`jitter`: unpredictable places. `keyframe`: key frames where they allow the gap; cheaper, and predictable."""

    def __post_init__(self) -> None:
        if not 0.05 <= self.max_gap_seconds <= 3600:
            raise InvalidConfig(f"sampling.max_gap_seconds must be in 0.05..3600; got {self.max_gap_seconds!r}.")
        if self.mode not in ("jitter", "keyframe"):
            raise InvalidConfig(f"sampling.mode must be 'jitter' or 'keyframe'; got {self.mode!r}.")
        if not 0 < self.change_threshold <= 1:
            raise InvalidConfig(f"sampling.change_threshold must be in (0, 1]; got {self.change_threshold!r}.")
        if self.max_extra_bursts < 0:
            raise InvalidConfig(f"sampling.max_extra_bursts must be 0 or more; got {self.max_extra_bursts!r}.")


def content_seed(seed: int, sha256: str) -> int:
    """Return the 64-bit seed for one content: the same for the same pair, unrelated for any other."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{sha256}".encode()).digest()[:8], "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """One place to look at: `frames` neighbours, `spacing_seconds` apart, the first near `start_seconds`."""

    start_seconds: float
    frames: int = 1
    spacing_seconds: float = 0.0

    @property
    def end_seconds(self) -> float:
        """Time of the last frame wanted."""
        return self.start_seconds + (self.frames - 1) * self.spacing_seconds


def plan_bursts(
    first_seconds: float,
    last_seconds: float,
    end_seconds: float,
    keys_seconds: Sequence[float],
    needs: SamplingNeeds,
    config: SamplingConfig,
    seed: int,
) -> list[Burst]:
    """Return the places to look at, in order and without overlap.

    Args:
        first_seconds: Presentation time of the first frame.
        last_seconds: Presentation time of the last frame.
        end_seconds: When the last frame leaves the screen.
        keys_seconds: Increasing times of the key frames; used by `mode="keyframe"` only.
        needs: Frames per burst, spacing, and the least number of places.
        config: The gap to keep.
        seed: From `content_seed`.

    No stretch between two bursts, before the first or after the last, is longer than `config.max_gap_seconds`. A
    short video gets `needs.min_bursts` places if so many bursts fit: 2 s hold 3 bursts of 4 frames 0.13 s apart, not
    8.
    """
    require(last_seconds >= first_seconds, "last_seconds", f">= first_seconds ({first_seconds})", last_seconds)
    span = (needs.burst_frames - 1) * needs.burst_spacing_seconds
    gap = _effective_gap(last_seconds - first_seconds, span, needs, config)
    rng = np.random.default_rng(seed)
    known = set(keys_seconds) if needs.burst_frames == 1 else set()
    bursts: list[Burst] = []
    start = first_seconds + gap * _LONGEST_STEP * float(rng.random())
    if config.mode == "keyframe":
        start = first_seconds
    while True:
        # A burst that would run over the end is moved back as far as the one before allows; the last frame stays
        # within reach.
        floor = bursts[-1].end_seconds + min(needs.burst_spacing_seconds, gap / 2) if bursts else first_seconds
        start = max(min(start, last_seconds - span), floor)
        if start > last_seconds:
            return bursts
        bursts.append(
            Burst(start_seconds=start, frames=needs.burst_frames, spacing_seconds=needs.burst_spacing_seconds)
        )
        end = bursts[-1].end_seconds
        if end >= last_seconds or end + gap * _LONGEST_STEP >= end_seconds:
            return bursts
        step = gap * (_SHORTEST_STEP + (_LONGEST_STEP - _SHORTEST_STEP) * float(rng.random()))
        start = _next_start(end, step, gap, keys_seconds, config.mode, exact=end in known)


def _effective_gap(duration: float, span: float, needs: SamplingNeeds, config: SamplingConfig) -> float:
    """Return the gap that gives a short video its `min_bursts`, and never more than the configured one."""
    places = max(
        1, min(needs.min_bursts, int((duration + needs.burst_spacing_seconds) / (span + needs.burst_spacing_seconds)))
    )
    if needs.burst_frames == 1:
        places = needs.min_bursts
    spare = duration / places - span
    return max(min(config.max_gap_seconds, spare / _LONGEST_STEP), 1e-3)


def _next_start(end: float, step: float, gap: float, keys: Sequence[float], mode: Mode, exact: bool) -> float:
    if mode == "keyframe":
        # After a single frame at a known time the full gap may be used: key frames every 2 s serve a gap of 2 s.
        reach = end + gap * (1.0 if exact else _LONGEST_STEP)
        index = bisect_right(keys, reach + 1e-9) - 1
        if index >= 0 and keys[index] > end:
            return keys[index]
        return end + gap * _LONGEST_STEP
    return end + step


def largest_gap(scored: Sequence[float], times: Sequence[float], end: float) -> float:
    """Return the longest stretch in which frames were shown but none was scored, in seconds.

    Args:
        scored: Increasing times of the scored frames.
        times: Increasing times of all frames of the stream.
        end: When the last frame leaves the screen.

    Between two scored neighbours with nothing between them nothing was missed: a slide shown for ten seconds and
    scored is no gap.
    """
    if not times:
        return 0.0
    if not scored:
        return max(end - times[0], 0.0)
    slack = 1e-6
    worst = 0.0
    if bisect_left(times, scored[0] - slack) > 0:
        worst = scored[0] - times[0]
    if bisect_right(times, scored[-1] + slack) < len(times):
        worst = max(worst, end - scored[-1])
    for before, after in pairwise(scored):
        if bisect_left(times, after - slack) > bisect_right(times, before + slack):
            worst = max(worst, after - before)
    return worst
