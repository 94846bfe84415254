"""Drive the analysis frame by frame. Memory is bounded by one second of change masks, whatever the length of the
clip."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from fast_path.flash.concurrency import ConcurrentChanges
from fast_path.flash.light import Light, grid_size, measure
from fast_path.flash.report import FlashReport, FlashResult, Kind, KindReport, Span
from fast_path.flash.settings import FlashSettings
from fast_path.flash.transitions import BoolArray, RedSwitch, Zigzag
from guard.types import Float64Array, UInt8Array, require

_RED_VALUE_STEP = 20.0
_MAX_KEPT = 600
"""Frames kept for playing again: 5 s at 120 frames a second, about 110 MB for a wide picture."""


class _Extended:
    """Time spent just below failing, within the last seconds (the long flashing sequence of broadcast rules)."""

    def __init__(self, settings: FlashSettings) -> None:
        self._settings = settings
        self._spent: deque[tuple[float, float]] = deque()
        self._total = 0.0

    def update(self, time_seconds: float, frame_seconds: float, transitions: int) -> FlashResult:
        limits = self._settings
        if limits.warn_transitions <= transitions <= limits.limit_transitions:
            self._spent.append((time_seconds, frame_seconds))
            self._total += frame_seconds
        while self._spent and self._spent[0][0] < time_seconds - limits.extended_window_seconds + 1e-6:
            self._total -= self._spent.popleft()[1]
        if transitions > limits.limit_transitions:
            return FlashResult.FAIL
        if self._total >= limits.extended_seconds - 1e-6:
            return FlashResult.EXTENDED_FAIL
        return FlashResult.WARNING if transitions >= limits.warn_transitions else FlashResult.PASS


@dataclass(slots=True, kw_only=True)
class _Track:
    """One kind of flash through the clip."""

    kind: Kind
    changes: Callable[[Light], tuple[BoolArray, BoolArray]]
    counter: ConcurrentChanges
    extended: _Extended
    transitions: list[int] = field(default_factory=list)
    results: list[FlashResult] = field(default_factory=list)
    worst: tuple[int, float] = (0, 0.0)
    """Most changes in a second, and when (in the clip's own time) that second ended."""

    def update(self, light: Light, time_seconds: float, frame_seconds: float, index: int, clip_seconds: float) -> None:
        number = self.counter.update(time_seconds, *self.changes(light))
        result = self.extended.update(time_seconds, frame_seconds, number)
        if number > self.worst[0]:
            self.worst = (number, clip_seconds)
        if index == len(self.transitions):
            self.transitions.append(number)
            self.results.append(result)
            return
        self.transitions[index] = max(self.transitions[index], number)
        self.results[index] = max(self.results[index], result, key=lambda r: r.severity)


class FlashAnalyzer:
    """Takes the frames of one clip in presentation order, every one of them; `finish` gives the report.

    uint8 [H, W, 3] RGB pictures of one size; times in seconds, strictly increasing. The first `loop_below_seconds`
    are kept on the small grid, to be played again at the end of a short clip; one of more than 600 frames is played
    once.
    """

    def __init__(self, settings: FlashSettings | None = None) -> None:
        self._settings = settings or FlashSettings()
        self._times: list[float] = []
        self._cells = (0, 0)
        self._tracks: tuple[_Track, ...] = ()
        self._kept: list[Light] = []

    def update(self, image: UInt8Array, time_seconds: float) -> None:
        """Take one frame. Raises `ValueError` for a wrong shape, dtype, size or time."""
        fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        require(fits, "image", "uint8 [H, W, 3]", f"{image.dtype} {image.shape}")
        require(math.isfinite(time_seconds), "time_seconds", "finite", time_seconds)
        cells = grid_size(image.shape[0], image.shape[1], self._settings.max_side_cells)
        if not self._times:
            self._cells, self._tracks = cells, self._make_tracks(cells)
        require(cells == self._cells, "image", f"of one size, a grid of {self._cells}", cells)
        require(not self._times or time_seconds > self._times[-1], "time_seconds", "increasing", time_seconds)
        light = measure(image, cells, self._settings.red_ratio)
        # the length of a frame is known once the next has come; the one before it is the best guess until then
        frame_seconds = time_seconds - self._times[-1] if self._times else 0.0
        self._times.append(time_seconds)
        for track in self._tracks:
            track.update(light, time_seconds, frame_seconds, len(self._times) - 1, time_seconds)
        if time_seconds - self._times[0] < self._settings.loop_below_seconds and len(self._kept) < _MAX_KEPT:
            self._kept.append(light)

    def finish(self) -> FlashReport:
        """Return the report. Raises `ValueError` where no frame came."""
        require(bool(self._times), "frames", "at least one", 0)
        times = np.array(self._times, np.float64)
        steps = np.diff(times)
        frame_seconds = float(np.median(steps)) if len(steps) else 0.0
        duration = float(times[-1] - times[0]) + frame_seconds
        rounds = self._play_again(duration)
        general, red = (_kind_report(track, times, frame_seconds) for track in self._tracks)
        return FlashReport(
            result=max(general.result, red.result, key=lambda result: result.severity),
            general=general,
            red=red,
            frame_seconds=times,
            duration_seconds=duration,
            rounds=rounds,
            cells=self._cells,
        )

    def _make_tracks(self, cells: tuple[int, int]) -> tuple[_Track, ...]:
        settings = self._settings
        luminance = Zigzag(settings.luminance_step, settings.dark_below)
        red: Callable[[Light], tuple[BoolArray, BoolArray]]
        if settings.red_rule == "wcag22":
            red = RedSwitch(settings.red_ratio, settings.chroma_step).update
        else:
            value = Zigzag(_RED_VALUE_STEP, math.inf, strict=True)

            def red(light: Light) -> tuple[BoolArray, BoolArray]:
                return value.update(light.red_value)

        found: tuple[tuple[Kind, Callable[[Light], tuple[BoolArray, BoolArray]]], ...] = (
            ("general", lambda light: luminance.update(light.luminance)),
            ("red", red),
        )
        return tuple(
            _Track(
                kind=kind,
                changes=changes,
                counter=ConcurrentChanges(cells, settings),
                extended=_Extended(settings),
            )
            for kind, changes in found
        )

    def _play_again(self, duration: float) -> int:
        """Play a short clip until it fills the time; return how often it was played in all."""
        wanted = self._settings.loop_below_seconds
        if len(self._times) < 2 or duration >= wanted or len(self._kept) < len(self._times):
            return 1
        rounds = math.ceil(wanted / duration) + 1  # one more, so that the last full window starts anywhere in the clip
        for round_ in range(1, rounds):
            previous = self._times[-1] + (round_ - 1) * duration
            for index, light in enumerate(self._kept):
                now = self._times[index] + round_ * duration
                for track in self._tracks:
                    track.update(light, now, now - previous, index, self._times[index])
                previous = now
        return rounds


def analyse(frames: Iterable[tuple[UInt8Array, float]], settings: FlashSettings | None = None) -> FlashReport:
    """Analyse every frame of a clip, given as (picture, time in seconds); see `FlashAnalyzer`."""
    analyzer = FlashAnalyzer(settings)
    for image, time_seconds in frames:
        analyzer.update(image, time_seconds)
    return analyzer.finish()


def _kind_report(track: _Track, times: Float64Array, frame_seconds: float) -> KindReport:
    peak, ended = track.worst
    return KindReport(
        kind=track.kind,
        result=max(track.results, key=lambda result: result.severity),
        peak_transitions=peak,
        worst_second_start=max(float(times[0]), ended - 1.0),
        spans=_spans(track.results, times, frame_seconds),
        transitions=np.array(track.transitions, np.int32),
        results=tuple(track.results),
    )


def _spans(results: list[FlashResult], times: Float64Array, frame_seconds: float) -> tuple[Span, ...]:
    spans: list[Span] = []
    ends = [*times[1:].tolist(), float(times[-1]) + frame_seconds]
    for result, start, end in zip(results, times.tolist(), ends, strict=True):
        if spans and spans[-1].result is result and spans[-1].end_seconds == start:
            spans[-1] = Span(start_seconds=spans[-1].start_seconds, end_seconds=end, result=result)
        elif result is not FlashResult.PASS:
            spans.append(Span(start_seconds=start, end_seconds=end, result=result))
    return tuple(spans)
