"""The default detector: the embedded encoder and its temporal head, shipped with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fast_path import checkpoint
from fast_path.encoders import tiny as encoders
from fast_path.head import HeadConfig, TemporalHead, config_from
from guard.interfaces import SamplingNeeds, score_frames
from guard.types import Coverage, Float32Array, Float64Array, Frames, Scores, UInt8Array

NAME = "tiny"
MIN_BURSTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the detector."""

    weights: Path | None = None
    """Checkpoint folder; None takes the weights shipped in the package."""
    untrained_seed: int | None = None
    """If set, random weights of this seed: for tests."""


class Detector:
    """Scores videos burst by burst."""

    def __init__(self, encoder: encoders.Encoder, head: TemporalHead, fingerprint: str) -> None:
        self.encoder = encoder
        self.head = head.eval()
        self._fingerprint = fingerprint

    @property
    def name(self) -> str:
        """Registry key."""
        return NAME

    @property
    def categories(self) -> tuple[str, ...]:
        """Category ids, in column order."""
        return self.head.config.categories

    @property
    def fingerprint(self) -> str:
        """Identifies weights and settings."""
        return self._fingerprint

    @property
    def needs(self) -> SamplingNeeds:
        """Short bursts of neighbouring frames: motion is most of what it knows."""
        return SamplingNeeds(
            side_px=self.encoder.input_side_px,
            burst_frames=self.encoder.clip_frames,
            burst_spacing_seconds=self.encoder.clip_spacing_seconds,
            min_bursts=MIN_BURSTS,
        )

    def begin(self) -> Session:
        """Begin to score one video; what is kept of a burst is its embedding."""
        return Session(self)

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        """Score a batch of videos; element i belongs to video i and does not depend on the others."""
        return [score_frames(self, frames) for frames in batch]


class Session:
    """Embeds bursts as they come, and scores them all at the end."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._embeddings: list[Float32Array] = []
        self._seconds: list[Float64Array] = []

    def feed(self, frames: Frames) -> None:
        """Embed the bursts of the next frames."""
        clips, seconds = clips_of(frames, self._detector.encoder.clip_frames)
        self._embeddings.append(self._detector.encoder.embed(clips))
        self._seconds.append(seconds)

    def finish(self, coverage: Coverage) -> Scores:
        """Return the scores of the video; what `coverage` lacks is the router's business."""
        seconds = np.concatenate(self._seconds)
        video, moments = self._detector.head.score(np.concatenate(self._embeddings), seconds)
        return Scores(
            categories=self._detector.categories,
            probability=video,
            moment_seconds=seconds,
            per_moment=moments,
            detector=NAME,
            fingerprint=self._detector.fingerprint,
        )


def clips_of(frames: Frames, length: int) -> tuple[UInt8Array, Float64Array]:
    """Cut sampled frames into bursts of `length`: uint8 [N, L, H, W, 3] and the middle time of each, float64 [N].

    A burst that came out short (a still, the end of a stream, a low frame rate) repeats its last frame; one that is
    longer, because another detector asked for more, gives its first ones.
    """
    starts = np.flatnonzero(np.r_[True, np.diff(frames.burst_ids) > 0])
    ends = np.r_[starts[1:], len(frames.burst_ids)]
    picked = np.minimum(starts[:, None] + np.arange(length), ends[:, None] - 1)
    middles = (frames.pts_seconds[picked[:, 0]] + frames.pts_seconds[picked[:, -1]]) / 2
    return frames.images[picked], middles


def build(config: Config) -> Detector:
    """Build the detector.

    Raises:
        InvalidConfig: the checkpoint is absent or does not fit.
    """
    if config.untrained_seed is not None:
        return _untrained(config.untrained_seed)
    stored = checkpoint.load(config.weights)
    encoder = encoders.build(encoders.Config(weights=config.weights))
    head = TemporalHead(config_from(stored.config["head"]))
    checkpoint.fill(head, stored, prefix="head.")
    return Detector(encoder, head, stored.fingerprint)


def tiny() -> Detector:
    """Return an untrained instance, for tests of whatever uses a detector."""
    return build(Config(untrained_seed=0))


def _untrained(seed: int) -> Detector:
    encoder = encoders.build(encoders.Config(untrained_seed=seed, width=16))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TemporalHead(HeadConfig(dimension=encoder.dimension, categories=("violence.fighting", "illegal.fire")))
    return Detector(encoder, head, f"untrained-{seed}")
