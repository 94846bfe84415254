"""Flashing that can trigger seizures, measured on every frame (see `fast_path.flash`). Nothing is learnt, nothing
sampled.

The score of a moment is a fixed map of what was measured in the second before it, laid out so that the default
thresholds (0.1 and 0.9) and a single threshold of 0.5 give the same answer:

| concurrent changes within a second | score |
|---|---|
| 0 to 6 (three flashes: allowed) | 0 to 0.09, in proportion |
| a long sequence of two to three flashes a second | 0.7: allowed by WCAG, advised against by broadcasters |
| 7 or more | 0.91 at 7, rising to 1 at 24 |

A video scores as its worst moment. Where not every frame was handed over, what was not seen may flash: such a video
scores at least 0.5, so that it is never cleared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from fast_path.flash import FlashAnalyzer, FlashResult, FlashSettings, KindReport
from guard.interfaces import Detector, SamplingNeeds, score_frames
from guard.types import Coverage, Float32Array, Float64Array, Frames, Scores

CATEGORIES = ("flashing.general", "flashing.red")
_ALGORITHM = 1
"""Raise with any change of the analysis that changes scores: it is part of the fingerprint."""
_ALLOWED_AT_MOST, _EXTENDED, _FAIL_FROM, _SATURATED_AT = 0.09, 0.7, 0.91, 24
_UNSEEN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the flash detector."""

    settings: FlashSettings = field(default_factory=FlashSettings)
    side_px: int = 96
    """Short side of the frames asked for. A cell of the grid is then about 0.3 degrees of a full screen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashDetector:
    """`guard.interfaces.Detector` for `flashing.general` and `flashing.red`."""

    config: Config
    name: str = "flash"
    categories: tuple[str, ...] = CATEGORIES

    @property
    def fingerprint(self) -> str:
        """Of the algorithm and its settings."""
        content = {"algorithm": _ALGORITHM, "settings": asdict(self.config.settings), "side_px": self.config.side_px}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def needs(self) -> SamplingNeeds:
        """Every frame, small."""
        return SamplingNeeds(side_px=self.config.side_px, every_frame=True)

    def begin(self) -> FlashSession:
        """Begin to score one video; one moment per frame."""
        return FlashSession(self)

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        """Score each video on its own; one moment per frame."""
        return [score_frames(self, frames) for frames in batch]


class FlashSession:
    """Analyses one video as its frames come in."""

    def __init__(self, detector: FlashDetector) -> None:
        self._detector = detector
        self._analyzer = FlashAnalyzer(detector.config.settings)
        self._times: list[Float64Array] = []

    def feed(self, frames: Frames) -> None:
        """Analyse the next frames."""
        self._times.append(frames.pts_seconds.copy())
        for image, seconds in zip(frames.images, frames.pts_seconds.tolist(), strict=True):
            self._analyzer.update(image, seconds)

    def finish(self, coverage: Coverage) -> Scores:
        """Return the scores of the video; at least 0.5 where `coverage` says that frames are missing."""
        report = self._analyzer.finish()
        limit = self._detector.config.settings.limit_transitions
        columns = [moment_scores(kind, limit) for kind in (report.general, report.red)]
        per_moment = np.stack(columns, axis=1)
        floor = np.float32(0.0 if saw_every_frame(coverage) else _UNSEEN)
        return Scores(
            categories=self._detector.categories,
            probability=np.maximum(per_moment.max(axis=0), floor),
            moment_seconds=np.concatenate(self._times),
            per_moment=per_moment,
            detector=self._detector.name,
            fingerprint=self._detector.fingerprint,
        )


def build(config: Config) -> Detector:
    """Return the detector; there is nothing to load."""
    return FlashDetector(config=config)


def tiny() -> Detector:
    """Return a detector on a coarser grid, for tests."""
    return build(Config(settings=FlashSettings(max_side_cells=24), side_px=32))


def saw_every_frame(coverage: Coverage) -> bool:
    """Whether nothing was left out: counting flashes on a sample says nothing."""
    return coverage.full_decode and coverage.complete and coverage.frames_scored >= coverage.frames_decoded


def moment_scores(kind: KindReport, limit_transitions: int) -> Float32Array:
    """Return float32 [T] in [0, 1]: the score of each frame, by the table above."""
    number = kind.transitions.astype(np.float64)
    allowed = _ALLOWED_AT_MOST * np.minimum(number / limit_transitions, 1.0)
    above = (number - limit_transitions - 1) / max(1, _SATURATED_AT - limit_transitions - 1)
    failing = _FAIL_FROM + (1.0 - _FAIL_FROM) * np.clip(above, 0.0, 1.0)
    extended = np.array([result is FlashResult.EXTENDED_FAIL for result in kind.results])
    score = np.where(number > limit_transitions, failing, np.where(extended, _EXTENDED, allowed))
    return score.astype(np.float32)
