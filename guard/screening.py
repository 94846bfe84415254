"""Score one video as its frames come in: every detector on the frames it needs, none able to stop the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from guard.errors import DetectorFailed, GuardError
from guard.interfaces import Calibrator, Detector, Session
from guard.types import Coverage, ErrorInfo, Frames, Int32Array, Scores

log = logging.getLogger(__name__)

KEPT_FRAMES = 256
"""Frames kept of a video for the slow path to choose from; 256 of 128x228 pixels are 21 MiB."""


class Screening:
    """A `FrameSink` that scores one video with several detectors and keeps a thinned sample of its frames."""

    def __init__(self, detectors: Sequence[Detector], calibrators: Mapping[str, Calibrator], label: str) -> None:
        self._detectors = detectors
        self._calibrators = calibrators
        self._label = label
        self.restart()

    def restart(self) -> None:
        """Forget everything: the decoder starts over."""
        self.errors: list[ErrorInfo] = []
        self._sessions: dict[str, Session] = {}
        self._kept = FrameKeeper(KEPT_FRAMES)
        for detector in self._detectors:
            try:
                self._sessions[detector.name] = detector.begin()
            except Exception as error:
                self._drop(detector.name, error)

    def take(self, frames: Frames) -> None:
        """Score the next frames."""
        self._kept.add(frames)
        for name, session in list(self._sessions.items()):
            try:
                session.feed(frames)
            except Exception as error:
                self._drop(name, error)

    def finish(self, coverage: Coverage) -> list[Scores]:
        """Return the calibrated scores of every detector that did not fail; the others are in `errors`."""
        scores: list[Scores] = []
        for name, session in list(self._sessions.items()):
            try:
                raw = session.finish(coverage)
                calibrator = self._calibrators.get(name)
                scores.append(calibrator.apply(raw) if calibrator else raw)
            except Exception as error:
                self._drop(name, error)
        return scores

    def frames(self, coverage: Coverage) -> Frames:
        """Return the kept frames."""
        return self._kept.frames(coverage)

    def _drop(self, name: str, error: Exception) -> None:
        self._sessions.pop(name, None)
        if isinstance(error, GuardError):
            self.errors.append(error.info())
            return
        log.error("detector %s failed on %s", name, self._label, exc_info=error)
        message = f"An unexpected error stopped the detector {name!r}; the log has the details."
        self.errors.append(DetectorFailed(message).info())


class FrameKeeper:
    """Keeps at most `limit` frames of a stream of unknown length, evenly: whenever there are more, every second goes.

    With a limit of 4, the frames 0 to 9 leave 0, 4 and 8: the fifth arrival thins to every second, the ninth to every
    fourth.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stride = 1
        self._seen = 0
        self._parts: list[Frames] = []

    def add(self, frames: Frames) -> None:
        """Take the next chunk; only the frames that are kept are copied."""
        count = len(frames.pts_seconds)
        wanted = np.arange((-self._seen) % self._stride, count, self._stride)
        self._seen += count
        if wanted.size == 0:
            return
        self._parts.append(_pick(frames, wanted))
        while self._total() > self._limit:
            self._thin()

    def frames(self, coverage: Coverage) -> Frames:
        """Return what was kept, every frame its own burst. Raises `ValueError` where nothing was added."""
        if not self._parts:
            raise ValueError("no frame was kept; got an empty stream")
        pts = np.concatenate([part.pts_seconds for part in self._parts])
        return Frames(
            images=np.concatenate([part.images for part in self._parts]),
            pts_seconds=pts,
            burst_ids=np.arange(len(pts), dtype=np.int32),
            coverage=coverage,
        )

    def _total(self) -> int:
        return sum(len(part.pts_seconds) for part in self._parts)

    def _thin(self) -> None:
        self._stride *= 2
        offset, thinned = 0, []
        for part in self._parts:
            count = len(part.pts_seconds)
            rows = np.arange(offset % 2, count, 2)
            offset += count
            if rows.size:
                thinned.append(_pick(part, rows))
        self._parts = thinned


def _pick(frames: Frames, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Frames:
    ids: Int32Array = np.arange(len(rows), dtype=np.int32)
    return Frames(
        images=frames.images[rows], pts_seconds=frames.pts_seconds[rows], burst_ids=ids, coverage=frames.coverage
    )
