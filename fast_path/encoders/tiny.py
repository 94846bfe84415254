"""The embedded encoder: hand-made motion maps and a small convolutional network over them.

It was made for a machine without a GPU and a training set of some hundred clips: what would need data to learn
(correspondence between frames, the camera's own motion) is computed, and only the pattern of motion and colour is
learned.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fast_path import checkpoint, motion
from fast_path.augment import augment_maps
from fast_path.motion_statistics import COUNT, statistics
from guard.errors import InvalidConfig
from guard.types import Float32Array, UInt8Array, require

CHUNK = 64  # bursts per forward pass: bounds memory on long videos
_STILL = (1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0)  # channels of a burst that one picture is enough for


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the encoder."""

    weights: Path | None = None
    """Checkpoint folder; None takes the weights shipped in the package."""
    untrained_seed: int | None = None
    """If set, random weights of this seed instead of a checkpoint: for training and tests."""
    clip_frames: int = 3
    clip_spacing_seconds: float = 0.12
    input_side_px: int = 128
    width: int = 64
    blind_to_motion: bool = False
    """Sees one picture per burst and nothing that moves: the baseline that shows what motion is worth."""


class Network(nn.Module):
    """Maps to embeddings: a stem shared by the pairs, their mean, peak and change over time, then space.

    Both views go through the same weights, and their embeddings stand side by side.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.pairs, width = config.clip_frames - 1, config.width
        self.blind_to_motion = config.blind_to_motion
        self.pair_stem = nn.Sequential(_block(motion.PAIR_CHANNELS + 2, 24, kernel=5, stride=2), _block(24, 32))
        self.burst_stem = nn.Sequential(_block(motion.BURST_CHANNELS, 16, kernel=5, stride=2), _block(16, 24))
        self.trunk = nn.Sequential(_block(32 * 3 + 24, 64, stride=2), _block(64, width))
        self.scale = nn.BatchNorm1d(COUNT * motion.VIEWS)
        self.split = (2 * width * motion.VIEWS, COUNT * motion.VIEWS)

    def forward(self, maps: Tensor) -> Tensor:
        """Map float32 [N, V, C, h, w] to float32 [N, D]: what is learned of both views, then what is counted."""
        if self.blind_to_motion:
            maps = maps[:, :1].expand_as(maps)  # the window lies where something moves
        pairs, burst = self.parts(maps)
        if self.blind_to_motion:
            pairs, burst = torch.zeros_like(pairs), burst * burst.new_tensor(_STILL)[:, None, None]
        counted = self.scale(statistics(pairs, burst).reshape(len(maps), -1))
        size = len(pairs)
        flow = pairs[:, :, :2].sign() * torch.log1p(pairs[:, :, :2].abs())  # shocks must not drown everything else
        speed = torch.sqrt(flow.square().sum(2, keepdim=True) + 1e-6)
        change = torch.sqrt(_steps(flow).square().sum(2, keepdim=True) + 1e-6)
        change = torch.cat([torch.zeros_like(speed[:, :1]), change], 1)
        peak, differences = torch.log1p(pairs[:, :, 2:3]), pairs[:, :, 3:].clamp(0, 4)
        moving = self.pair_stem(torch.cat([flow, peak, differences, speed, change], 2).flatten(0, 1))
        moving = moving.reshape(size, self.pairs, *moving.shape[1:])
        varied = _steps(moving).abs().mean(1) if self.pairs > 1 else torch.zeros_like(moving[:, 0])
        burst = torch.cat([burst[:, :3] - 0.45, burst[:, 3:].clamp(0, 3)], 1)
        seen = torch.cat([moving.mean(1), moving.amax(1), varied, self.burst_stem(burst)], 1)
        places = self.trunk(seen).flatten(2)
        # an event is small on screen: the four strongest places beside the mean
        learned = torch.cat([places.mean(2), places.topk(4, dim=2).values.mean(2)], 1)
        return torch.cat([learned.reshape(len(maps), -1), counted], 1)

    def parts(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Split maps [N, V, C, h, w] into those of pairs [N * V, P, 5, h, w] and those of bursts [N * V, 7, h, w]."""
        flat, split = maps.flatten(0, 1), self.pairs * motion.PAIR_CHANNELS
        return flat[:, :split].reshape(-1, self.pairs, motion.PAIR_CHANNELS, *motion.GRID), flat[:, split:]


class Encoder:
    """Bursts of neighbouring frames to embeddings, on the CPU, without gradients."""

    def __init__(self, config: Config, network: Network) -> None:
        self.config = config
        self.network = network.eval()

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return sum(self.network.split)

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths of the parts of an embedding: learned, counted."""
        return self.network.split

    @property
    def clip_frames(self) -> int:
        """Frames L of a burst."""
        return self.config.clip_frames

    @property
    def clip_spacing_seconds(self) -> float:
        """Time between neighbours of a burst."""
        return self.config.clip_spacing_seconds

    @property
    def input_side_px(self) -> int:
        """Short side of the frames that it was trained on."""
        return self.config.input_side_px

    @property
    def front_fingerprint(self) -> str:
        """Identifies everything before the learned weights: equal ones give equal `prepare` results."""
        return f"motion-3-L{self.clip_frames}"

    @property
    def fingerprint(self) -> str:
        """Identifies weights and settings."""
        digest = hashlib.sha256(self.front_fingerprint.encode())
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
        return digest.hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """What rebuilds its shape, stored in the checkpoint."""
        return {
            "clip_frames": self.clip_frames,
            "clip_spacing_seconds": self.clip_spacing_seconds,
            "input_side_px": self.input_side_px,
            "width": self.config.width,
            "blind_to_motion": self.config.blind_to_motion,
        }

    def augment(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a changed copy of prepared features float32 [N, V, C, h, w] that means the same."""
        pairs, burst = augment_maps(*self.network.parts(features), rng)
        return torch.cat([pairs.flatten(1, 2), burst], 1).reshape(features.shape)

    def prepare(self, clips: UInt8Array) -> NDArray[np.float16]:
        """Return what the network sees, float16 [N, V, C, h, w], for uint8 [N, L, H, W, 3]; nothing here is learned."""
        self._check(clips)
        shape = (len(clips), motion.VIEWS, motion.channels(self.clip_frames), *motion.GRID)
        return np.stack([motion.motion_maps(clip) for clip in clips]) if len(clips) else np.zeros(shape, np.float16)

    @torch.inference_mode()
    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB; element i depends on clip i alone."""
        self._check(clips)
        parts = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(clips), CHUNK):
            maps = torch.from_numpy(self.prepare(clips[start : start + CHUNK])).float()
            parts.append(self.network(maps).numpy())
        return np.concatenate(parts)

    def _check(self, clips: UInt8Array) -> None:
        fits = (
            clips.ndim == 5 and clips.shape[1] == self.clip_frames and clips.shape[4] == 3 and clips.dtype == np.uint8
        )
        require(fits, "clips", f"uint8 [N, {self.clip_frames}, H, W, 3]", f"{clips.dtype} {clips.shape}")


def build(config: Config) -> Encoder:
    """Build the encoder with the weights that `config` names.

    Raises:
        InvalidConfig: the checkpoint is absent or does not fit.
    """
    if config.untrained_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.untrained_seed)
            return Encoder(config, Network(config))
    stored = checkpoint.load(config.weights)
    described = stored.config["encoder"]
    try:
        settings = Config(**{**described["settings"], "weights": config.weights})
    except TypeError as error:
        raise InvalidConfig(f"The checkpoint in {config.weights} is not one of the encoder 'tiny': {error}.") from error
    network = Network(settings)
    checkpoint.fill(network, stored, prefix="encoder.")
    encoder = Encoder(settings, network)
    front = described.get("front", f"motion-3-L{encoder.clip_frames}")  # the maps when fronts were not yet written down
    if front != encoder.front_fingerprint:
        raise InvalidConfig(
            f"The checkpoint in {config.weights} was trained on maps {front!r}; this version makes "
            f"{encoder.front_fingerprint!r}.",
            hint="Train it again with this version.",
        )
    return encoder


def tiny() -> Encoder:
    """Return an untrained instance, for tests of whatever uses an encoder."""
    return build(Config(untrained_seed=0, width=16))


def _steps(values: Tensor) -> Tensor:
    return values[:, 1:] - values[:, :-1]


def _block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
