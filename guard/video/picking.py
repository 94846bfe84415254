"""Choose, among the frames that a decoder delivers, those that a plan asked for. Pure: frames are just their times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from guard.video.sampling import Burst

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Picked(Generic[T]):
    """A frame to hand over."""

    frame: T
    pts_seconds: float
    burst: int


def nearest_times(bursts: Sequence[Burst], times: Sequence[float]) -> frozenset[float]:
    """Return, for every wanted time, the nearest of the increasing `times`: the frames that must be delivered.

    With frames at 0, 0.04 and 0.08 s, one wanted at 0.05 s asks for that at 0.04 s.
    """
    nearest = set()
    for burst in bursts if times else ():
        for within in range(burst.frames):
            wanted = burst.start_seconds + within * burst.spacing_seconds
            after = bisect_left(times, wanted)
            nearest.add(min(times[max(after - 1, 0) : after + 1], key=lambda time: abs(time - wanted)))
    return frozenset(nearest)


class Picker(Generic[T]):
    """Takes the nearest delivered frame to each wanted time, and never lets a gap grow past `gap_seconds` if it can
    be helped.

    The frame before the present one is held back until the next is known: with a gap of 2 s, frames at 0, 0.1 and 10
    s, and the first scored, the frame at 0.1 s must be taken when the one at 10 s shows up, though no wanted time is
    near it.
    """

    def __init__(self, bursts: Sequence[Burst], gap_seconds: float, *, share: bool = False) -> None:
        self._bursts = list(bursts)
        self._gap = gap_seconds
        self._share = share
        self._burst = 0
        self._within = 0
        self._extra: list[float] = []
        self._extras = 0
        self._held: tuple[T, float] | None = None
        self._last: float | None = None
        self._seen_to: float | None = None  # the last frame taken, or at first the start of the stream
        self._group: tuple[str, int] | None = None
        self._id = -1

    @property
    def done(self) -> bool:
        """Whether every wanted time was served."""
        return self._burst >= len(self._bursts) and not self._extra

    @property
    def next_start(self) -> float | None:
        """Start of the next burst, or None inside a burst and at the end."""
        return None if self._extra or self._within or self.done else self._bursts[self._burst].start_seconds

    def add_burst(self, now: float, like: Burst) -> bool:
        """Ask for an extra burst from `now` on; refused while one is under way or due before it would end."""
        start = self.next_start
        if start is None or start <= now + like.end_seconds - like.start_seconds:
            return False
        self._extra = [now + index * like.spacing_seconds for index in range(like.frames)]
        self._extras += 1
        return True

    def offer(self, frame: T, pts_seconds: float) -> list[Picked[T]]:
        """Show the next frame in presentation order; return those now due (the held one, this one, both or none)."""
        picked: list[Picked[T]] = []
        self._seen_to = pts_seconds if self._seen_to is None else self._seen_to
        if self._held is not None and pts_seconds > self._seen_to + self._gap:
            picked.append(self._take_held(("bridge", self._burst)))
        taken = False
        while (wanted := self._wanted()) is not None and wanted <= pts_seconds:
            if self._share and self._last is not None and abs(self._last - wanted) <= abs(pts_seconds - wanted):
                pass  # the frame taken last is nearest to this time as well
            elif self._held is not None and abs(self._held[1] - wanted) < abs(pts_seconds - wanted):
                picked.append(self._take_held(self._wanted_group()))
            elif not taken:
                picked.append(self._take(frame, pts_seconds, self._wanted_group()))
                taken = True
            else:
                break  # two wanted times nearer to each other than frames are: the second waits for the next frame
            self._advance()
        self._held = None if taken else (frame, pts_seconds)
        return picked

    def finish(self) -> list[Picked[T]]:
        """The stream has ended: return the last frame if a wanted time still waits for it."""
        waits = self._held is not None and (not self.done or self._last is None)
        picked = [self._take_held(self._wanted_group())] if waits else []
        self._burst, self._extra = len(self._bursts), []
        return picked

    def forget_held(self) -> None:
        """Drop the held frame: the decoder jumps."""
        self._held = None

    def _wanted(self) -> float | None:
        if self._extra:
            return self._extra[0]
        if self._burst >= len(self._bursts):
            return None
        burst = self._bursts[self._burst]
        return burst.start_seconds + self._within * burst.spacing_seconds

    def _wanted_group(self) -> tuple[str, int]:
        return ("extra", self._extras) if self._extra else ("burst", self._burst)

    def _advance(self) -> None:
        if self._extra:
            self._extra.pop(0)
            return
        self._within += 1
        if self._within >= self._bursts[self._burst].frames:
            self._burst += 1
            self._within = 0

    def _take(self, frame: T, pts_seconds: float, group: tuple[str, int]) -> Picked[T]:
        if group != self._group:
            self._id += 1
            self._group = group
        self._last = self._seen_to = pts_seconds
        return Picked(frame, pts_seconds, self._id)

    def _take_held(self, group: tuple[str, int]) -> Picked[T]:
        assert self._held is not None  # noqa: S101  (callers check)
        frame, pts_seconds = self._held
        self._held = None
        return self._take(frame, pts_seconds, group)
