"""What the pipeline asks of a part. Small Protocols, batch first: the single-item call is the batch of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from guard.types import Coverage, Frames, Judgement, MediaInfo, Policy, Route, Scores, Video


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingNeeds:
    """The frames that a detector needs. The pipeline merges the needs of all detectors into one decode."""

    side_px: int = 128
    """Short side of the frames in pixels; the aspect ratio is kept, the long side capped at twice this."""
    burst_frames: int = 1
    """Neighbouring frames taken at each place."""
    burst_spacing_seconds: float = 0.13
    """Time between neighbours of a burst; the nearest decoded frames are taken."""
    min_bursts: int = 8
    """A short video still gets this many places, as far as it has frames."""
    every_frame: bool = False
    """The detector is meaningless on a sample (flash counting): decode and hand over every frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A video that was decoded: the input with its media facts filled in, and the sampled frames."""

    video: Video
    frames: Frames
    cpu_seconds: float
    """CPU time of the decoder process for this video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """A video whose frames were handed over in chunks: the input with its media facts, and what was covered."""

    video: Video
    coverage: Coverage
    cpu_seconds: float
    """CPU time of the decoder process for this video."""


class FrameSink(Protocol):
    """Takes the frames of one video, chunk by chunk, so that memory does not grow with its length."""

    def take(self, frames: Frames) -> None:
        """Take the next frames in order. Burst ids count from 0 in each chunk; no burst is cut between two."""
        ...

    def restart(self) -> None:
        """Forget everything: the decoder starts over, more thoroughly."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """Turns videos into frames, in a sandbox."""

    def feed(self, video: Video, needs: SamplingNeeds, sink: FrameSink) -> Fed:
        """Decode one video into `sink`. Raises an `InputError` for whatever the file does wrong."""
        ...


class Session(Protocol):
    """The scoring of one video."""

    def feed(self, frames: Frames) -> None:
        """Take the next chunk of frames."""
        ...

    def finish(self, coverage: Coverage) -> Scores:
        """Return the scores of everything that was fed; the session is then spent."""
        ...


@runtime_checkable
class Detector(Protocol):
    """Scores frames against the categories that it was built for."""

    @property
    def name(self) -> str:
        """Registry key."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """Category ids that this detector covers, in column order."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights and settings."""
        ...

    @property
    def needs(self) -> SamplingNeeds:
        """The frames it needs."""
        ...

    def begin(self) -> Session:
        """Begin to score one video; sessions of one detector do not depend on each other."""
        ...

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        """Score videos whose frames are all at hand; element i is what a session of video i gives."""
        ...


def score_frames(detector: Detector, frames: Frames) -> Scores:
    """Score one video whose frames are all at hand."""
    session = detector.begin()
    session.feed(frames)
    return session.finish(frames.coverage)


@runtime_checkable
class Calibrator(Protocol):
    """Turns raw scores into probabilities and says which thresholds hold the promised risk."""

    @property
    def id(self) -> str:
        """Identifies the calibration in verdicts."""
        ...

    def apply(self, scores: Scores) -> Scores:
        """Return calibrated scores. Raises `CalibrationMismatch` for another model's scores."""
        ...


@runtime_checkable
class Router(Protocol):
    """Decides, from calibrated scores alone, whether the fast path may answer."""

    def route(self, scores: Sequence[Scores], policy: Policy, coverage: Coverage) -> Route:
        """Return the route of one video; pure."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One video before the slow path: everything a judge may look at."""

    video: Video
    media: MediaInfo
    frames: Frames
    scores: tuple[Scores, ...]
    route: Route
    policy: Policy
    seed: int = 0


@runtime_checkable
class Judge(Protocol):
    """The slow path: a VLM that gives reasons."""

    @property
    def name(self) -> str:
        """Engine and model, as verdicts show it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies what it was told to ask for and to trust."""
        ...

    async def judge(self, cases: Sequence[Case]) -> list[Judgement]:
        """Judge a batch. Never raises for one case: a failure is a `Judgement` with a status and an error code."""
        ...
