"""Any encoder with a temporal head that was trained on it: what `guard train fast` writes for an encoder by name."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fast_path import checkpoint, hub
from fast_path.detectors.tiny import clips_of
from fast_path.head import HeadConfig, TemporalHead
from fast_path.interfaces import Encoder
from guard import plugins
from guard.errors import InvalidConfig
from guard.interfaces import SamplingNeeds, score_frames
from guard.types import Coverage, Float32Array, Float64Array, Frames, Scores

NAME = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the detector."""

    weights: Path | None = None
    """Checkpoint folder of `guard train fast`. There is no default: the package ships weights for `tiny` alone."""
    device: str = "auto"
    """Where a hub encoder runs; the head runs on the CPU."""
    min_bursts: int = 8


class Detector:
    """Scores videos burst by burst."""

    def __init__(self, encoder: Encoder, head: TemporalHead, fingerprint: str, min_bursts: int) -> None:
        self.encoder = encoder
        self.head = head.eval()
        self.fingerprint = fingerprint
        self._min_bursts = min_bursts

    @property
    def name(self) -> str:
        """Registry key."""
        return NAME

    @property
    def categories(self) -> tuple[str, ...]:
        """Category ids, in column order."""
        return self.head.config.categories

    @property
    def needs(self) -> SamplingNeeds:
        """The encoder's bursts."""
        return SamplingNeeds(
            side_px=self.encoder.input_side_px,
            burst_frames=self.encoder.clip_frames,
            burst_spacing_seconds=self.encoder.clip_spacing_seconds,
            min_bursts=self._min_bursts,
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
        del coverage
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


def build(config: Config) -> Detector:
    """Build the detector.

    Raises:
        InvalidConfig: no checkpoint was named, it does not fit, or its encoder is no longer the one that it was
        trained on. MissingExtra: the encoder needs a package that is not installed.
    """
    if config.weights is None:
        raise InvalidConfig(
            "The detector 'probe' needs the folder of a trained checkpoint in `weights`; none was given.",
            hint="Train one with `guard train fast`.",
        )
    stored = checkpoint.load(config.weights)
    encoder = _encoder(stored, config)
    settings = dict(stored.config["head"])
    head = TemporalHead(HeadConfig(**{**settings, "categories": tuple(settings["categories"])}))
    if head.config.dimension != encoder.dimension:
        raise InvalidConfig(
            f"The head in {config.weights} takes embeddings of {head.config.dimension} numbers; its encoder gives "
            f"{encoder.dimension}."
        )
    checkpoint.fill(head, stored, prefix="head.")
    # not the hash of the files: where the encoder's model lies on this machine does not change a score
    fingerprint = hub.fingerprint(head, {"encoder": encoder.fingerprint, "head": asdict(head.config)})
    return Detector(encoder, head, fingerprint, config.min_bursts)


def tiny() -> Detector:
    """Return an untrained head on a SigLIP of a few thousand random weights."""
    from fast_path.encoders import siglip
    from fast_path.tiny_models import make

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = siglip.build(siglip.tiny_config(make("siglip", folder / "model")))
        write_untrained(folder / "checkpoint", "siglip", encoder.settings, encoder.dimension)
        return build(Config(weights=folder / "checkpoint", device="cpu"))


def write_untrained(
    folder: Path,
    encoder: str,
    settings: dict[str, Any],
    dimension: int,
    *,
    categories: tuple[str, ...] = ("violence.fighting", "illegal.fire"),
    seed: int = 0,
) -> None:
    """Write a checkpoint with a random head: something to load, to test with, and to be told from a trained one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TemporalHead(HeadConfig(dimension=dimension, categories=categories))
    config = {"encoder": {"name": encoder, "settings": settings}, "head": asdict(head.config)}
    checkpoint.save(folder, config=config, modules={"head": head}, card="# Untrained head\n\nScores mean nothing.\n")


def _encoder(stored: checkpoint.Checkpoint, config: Config) -> Encoder:
    """Build the encoder that a checkpoint names: with its own weights where it holds them, else from the hub."""
    described = stored.config["encoder"]
    name = str(described["name"])
    own_weights = any(key.startswith("encoder.") for key in stored.tensors)
    settings = {"weights": config.weights} if own_weights else {**described["settings"], "device": config.device}
    encoder: Encoder = plugins.load("encoder", name, **settings)
    return encoder
