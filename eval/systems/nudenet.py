"""NudeNet 3: a small detector of nude body parts, frame by frame; judges `sexual` alone. Optional package."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eval.looking import Eyes
from eval.types import Kind, Prediction, Sample
from guard.errors import InputError
from guard.plugins import missing_extra
from guard.types import Policy

EXPLICIT = frozenset(
    {"FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED", "FEMALE_BREAST_EXPOSED", "BUTTOCKS_EXPOSED"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How much is looked at."""

    frames: int = 16
    longest_side_px: int = 640
    threshold: float = 0.5


class NudeNet:
    """Scores a video as its most explicit frame."""

    def __init__(self, config: Config, detector: Any) -> None:
        self._config = config
        self._detector = detector
        self._eyes = Eyes(frames=config.frames, longest_side_px=config.longest_side_px)
        self.name = "nudenet"
        self.kinds: frozenset[Kind] = frozenset({"video"})

    @property
    def signature(self) -> Mapping[str, Any]:
        """The settings."""
        config = self._config
        return {"frames": config.frames, "threshold": config.threshold, "side": config.longest_side_px}

    def predict(self, samples: Iterable[Sample], policies: Mapping[str, Policy]) -> Iterator[Prediction]:
        """Yield one prediction per sample."""
        for sample in samples:
            started = time.perf_counter()
            try:
                frames = self._eyes.look(sample)
            except InputError as error:
                yield Prediction(id=sample.id, status="video_error", code=error.code, why=error.message)
                continue
            score = max((self._score(frame.jpeg) for frame in frames), default=0.0)
            yield Prediction(
                id=sample.id,
                status="ok",
                scores={"sexual": score},
                flagged=("sexual",) if score >= self._config.threshold else (),
                latency_ms=(time.perf_counter() - started) * 1e3,
                frames=len(frames),
            )

    def _score(self, jpeg: bytes) -> float:
        found = self._detector.detect(jpeg)
        return max((min(1.0, float(one["score"])) for one in found if one["class"] in EXPLICIT), default=0.0)

    def close(self) -> None:
        """Stop the decoder."""
        self._eyes.close()


def build(config: Config) -> NudeNet:
    """Load the detector. Raises `MissingExtra` without the package."""
    try:
        import nudenet  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise missing_extra("The system 'nudenet'", error.name or "nudenet") from error
    return NudeNet(config, nudenet.NudeDetector())


def tiny() -> NudeNet:
    """Return the detector on four frames."""
    return build(Config(frames=4))
