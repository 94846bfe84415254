"""Words on screen: frames are read by OCR, and what they say is scored by the text classifier.

It can raise a rule and never clears one: a video that shows no insult may still speak one, and words in another script
are not read. So a score is

    0.1 + 0.9 * p

of the calibrated p of the words, which the default thresholds never clear. A frame costs half a second on one core;
frames that look like the last one that was read are not read again, and of a long video at most `max_reads` are.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fast_path.calibration import FileCalibrator
from fast_path.calibration_file import CalibrationFile
from fast_path.text import classifier, model
from guard.interfaces import SamplingNeeds, score_frames
from guard.types import Coverage, Float32Array, Frames, Scores, UInt8Array

NAME = "screen_text"
_FLOOR = 0.1
_LOOK_PX = 24
_SAME = 12.0
"""Mean difference, in grey levels of 255, of the cells that differ most, below which a frame counts as read already."""
_CELLS = 12
"""That many cells, of 1,152: a new word changes some, and leaves the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the detector."""

    side_px: int = 480
    """Short side of the frames. Letters below some 10 pixels are not read."""
    longest_px: int = 480
    """Long side that the text finder works at."""
    min_confidence: float = 0.6
    """Lines that the reader is less sure of are left out, in [0, 1]."""
    max_reads: int = 48
    """Frames of one video that are read."""
    min_bursts: int = 8


class Detector:
    """Reads frames and scores what they say."""

    name = NAME

    def __init__(self, config: Config, reader: Any) -> None:
        self.config = config
        self._reader, self._lock = reader, threading.Lock()
        self._texts = classifier.build(classifier.Config())
        folder = Path(str(resources.files("fast_path").joinpath("weights", "text")))
        self._calibrator = FileCalibrator(CalibrationFile.load(folder / model.CALIBRATION))
        content = [self._texts.fingerprint, self._calibrator.id, asdict(config)]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def categories(self) -> tuple[str, ...]:
        """Those of the text classifier."""
        return self._texts.categories

    @property
    def needs(self) -> SamplingNeeds:
        """Single frames, large enough to read."""
        return SamplingNeeds(side_px=self.config.side_px, burst_frames=1, min_bursts=self.config.min_bursts)

    def begin(self) -> Session:
        """Begin to score one video."""
        return Session(self)

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        """Score a batch of videos; element i belongs to video i and does not depend on the others."""
        return [score_frames(self, frames) for frames in batch]

    def read(self, picture: UInt8Array) -> str:
        """Return the words on uint8 [H, W, 3] RGB, line by line from the top."""
        with self._lock:  # the runtime of the models is one for all threads
            found = self._reader(np.ascontiguousarray(picture[..., ::-1]))
        lines = zip(found.txts or (), found.scores or (), strict=True)
        return " ".join(text for text, confidence in lines if confidence >= self.config.min_confidence)

    def score_words(self, words: str) -> Float32Array:
        """Return float32 [C] in [0.1, 1]: of the words of one frame, `_FLOOR` where there are none to judge."""
        scores = np.full(len(self.categories), _FLOOR, np.float32)
        if words.strip():
            (found,) = self._texts.score([words])
            calibrated = self._calibrator.apply(found.scores)  # of words it does not know, high scores alone
            for category, p in zip(calibrated.categories, calibrated.probability, strict=True):
                scores[self.categories.index(category)] = _FLOOR + (1 - _FLOOR) * float(p)
        return np.clip(scores, _FLOOR, 1).astype(np.float32)


class Session:
    """Reads frames as they come; only their scores are kept."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._seconds: list[float] = []
        self._moments: list[Float32Array] = []
        self._last: Float32Array | None = None
        self._reads = 0

    def feed(self, frames: Frames) -> None:
        """Read the first frame of every burst, unless it looks like the one before."""
        firsts = np.flatnonzero(np.r_[True, np.diff(frames.burst_ids) > 0])
        for index in firsts:
            self._seconds.append(float(frames.pts_seconds[index]))
            self._moments.append(self._score(frames.images[index]))

    def finish(self, coverage: Coverage) -> Scores:
        """Return the scores of the video; what `coverage` lacks is the router's business."""
        del coverage
        moments = np.stack(self._moments)
        return Scores(
            categories=self._detector.categories,
            probability=moments.max(axis=0),
            moment_seconds=np.array(self._seconds, np.float64),
            per_moment=moments,
            detector=NAME,
            fingerprint=self._detector.fingerprint,
        )

    def _score(self, picture: UInt8Array) -> Float32Array:
        look = _thumbnail(picture)
        if self._last is not None and float(np.sort(np.abs(look - self._last), axis=None)[-_CELLS:].mean()) < _SAME:
            return self._moments[-1]
        if self._reads >= self._detector.config.max_reads:
            return np.full(len(self._detector.categories), _FLOOR, np.float32)
        self._last, self._reads = look, self._reads + 1
        return self._detector.score_words(self._detector.read(picture))


def _thumbnail(picture: UInt8Array) -> Float32Array:
    """Return the edges of a picture, float32 [24, 48]: words change edges and hardly the mean colour."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    edges = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return cv2.resize(edges, (2 * _LOOK_PX, _LOOK_PX), interpolation=cv2.INTER_AREA).astype(np.float32)


def build(config: Config) -> Detector:
    """Build the detector.

    Raises:
        MissingExtra: rapidocr is not installed; the hint is the command (extra `ocr`).
        InvalidConfig: the text classifier is not usable.
    """
    return Detector(config, _reader(config))


def tiny() -> Detector:
    """Return an instance that looks at small pictures, for tests."""
    return build(Config(side_px=96, longest_px=320, max_reads=4))


def _reader(config: Config) -> Any:
    import onnxruntime  # noqa: F401  (named here, so that what is missing is what is said)
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,  # upright text only: one model less
            "Det.limit_side_len": config.longest_px,
            "Det.limit_type": "max",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
