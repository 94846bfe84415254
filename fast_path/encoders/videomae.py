"""VideoMAE: a transformer over short clips, trained to fill in masked parts of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fast_path import hub
from guard.types import Float32Array, UInt8Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the encoder. The number of frames of a burst is the model's own."""

    model: str = "MCG-NJU/videomae-base-finetuned-kinetics"
    """Hub name or local folder of a VideoMAE model."""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    fit: str = "squash"
    """`squash` (all of the frame is seen) or `crop` (the middle square, as it was trained)."""
    batch_clips: int = 4
    """Clips per forward pass: bounds memory."""
    clip_spacing_seconds: float = 0.13
    """About every fourth frame at 30 per second, as it was trained."""
    expected_fingerprint: str | None = None
    """If set, another model (or other settings) is refused: stored with what was trained on this one."""
    untrained_seed: int | None = None
    """Without effect: the weights are pretrained. `guard train fast` gives it to every encoder."""


class Encoder(hub.Frozen):
    """The backbone; an embedding is the mean of its last tokens."""

    def __init__(self, config: Config, model: Any, preprocessing: hub.Preprocessing) -> None:
        self.config: Config = config
        self.network = torch.nn.Identity()
        self.model = model
        self._preprocessing = preprocessing
        settings = {name: getattr(config, name) for name in ("fit", "dtype", "clip_spacing_seconds")}
        self.fingerprint = hub.fingerprint(model, {"settings": settings, "preprocessing": asdict(preprocessing)})

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return int(self.model.config.hidden_size)

    @property
    def clip_frames(self) -> int:
        """Frames L of a burst."""
        return int(self.model.config.num_frames)

    @property
    def clip_spacing_seconds(self) -> float:
        """Time between neighbours of a burst."""
        return self.config.clip_spacing_seconds

    @property
    def input_side_px(self) -> int:
        """Short side of the frames that it wants."""
        return self._preprocessing.side_px

    @torch.inference_mode()
    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB; element i depends on clip i alone."""
        hub.check_clips(clips, self.clip_frames)
        parts = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(clips), self.config.batch_clips):
            chunk = clips[start : start + self.config.batch_clips]
            frames = chunk.reshape(-1, *chunk.shape[2:])
            pixels = self._preprocessing.apply(frames, self.model.device, self.model.dtype)
            tokens = self.model(pixel_values=pixels.reshape(len(chunk), self.clip_frames, *pixels.shape[1:]))
            parts.append(tokens.last_hidden_state.float().mean(1).cpu().numpy())
        return np.concatenate(parts)


def build(config: Config) -> Encoder:
    """Load the model that `config` names.

    Raises:
        InvalidConfig: it is not there, is of another kind, or the hub is out of reach.
        MissingExtra: transformers is not installed.
    """
    source = hub.Source(model=config.model, revision=config.revision, device=config.device, dtype=config.dtype)
    kind = hub.fetch_config(source, {"videomae": "VideoMAEModel"})
    preprocessing = hub.fetch_preprocessing(source, int(kind.image_size), config.fit)
    encoder = Encoder(config, hub.fetch_model(source, "VideoMAEModel"), preprocessing)
    hub.check_expected(encoder, config.expected_fingerprint)
    return encoder


def tiny() -> Encoder:
    """Return a model of a few thousand random weights, made on the spot."""
    from fast_path.tiny_models import built

    return built("videomae", lambda folder: build(tiny_config(folder)))


def tiny_config(folder: Path) -> Config:
    """Return settings for the tiny model in `folder`."""
    return Config(model=str(folder), device="cpu", batch_clips=2)
