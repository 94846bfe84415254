"""SigLIP, SigLIP 2 (fixed resolution) and CLIP: pictures and words in one space.

An embedding is the mean of the unit vectors of the burst's frames. `text_logits` compares frames with words, which is
what `fast_path.detectors.open_vocabulary` scores categories by that nobody trained for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_path import hub
from guard.types import Float32Array, UInt8Array

_CLASSES = {"siglip": "SiglipModel", "clip": "CLIPModel"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the encoder."""

    model: str = "google/siglip2-base-patch16-224"
    """Hub name or local folder of a SigLIP, SigLIP 2 or CLIP model; SigLIP 2 of variable resolution (naflex) is not
    taken."""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    fit: str = "squash"
    """`squash` (all of the frame is seen) or `crop` (the middle square, as CLIP was trained)."""
    batch_frames: int = 32
    """Frames per forward pass: bounds memory."""
    clip_frames: int = 1
    clip_spacing_seconds: float = 0.5
    expected_fingerprint: str | None = None
    """If set, another model (or other settings) is refused: stored with what was trained on this one."""
    untrained_seed: int | None = None
    """Without effect: the weights are pretrained. `guard train fast` gives it to every encoder."""


class Encoder(hub.Frozen):
    """Both towers of the model."""

    def __init__(self, config: Config, model: Any, tokenizer: Any, preprocessing: hub.Preprocessing) -> None:
        self.config: Config = config
        self.network = torch.nn.Identity()
        self.model = model
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        used = {"settings": _settings(config), "preprocessing": asdict(preprocessing)}
        self.fingerprint = hub.fingerprint(model, used)

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        vision = self.model.config
        return int(vision.projection_dim if vision.model_type == "clip" else vision.vision_config.hidden_size)

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
        """Short side of the frames that it wants."""
        return self._preprocessing.side_px

    @torch.inference_mode()
    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB; element i depends on clip i alone."""
        hub.check_clips(clips, self.clip_frames)
        if not len(clips):
            return np.zeros((0, self.dimension), np.float32)
        frames = self._frames(clips.reshape(-1, *clips.shape[2:]))
        return np.asarray(frames.reshape(len(clips), self.clip_frames, -1).mean(1).numpy())

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Float32Array:
        """Return float32 [K, D], unit vectors. Texts are cut at the model's length."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        length = int(self.model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        inputs = {"input_ids": tokens["input_ids"].to(self.model.device)}
        if self.model.config.model_type == "clip":  # SigLIP was trained without a mask
            inputs["attention_mask"] = tokens["attention_mask"].to(self.model.device)
        return np.asarray(_unit(self.model.get_text_features(**inputs)).numpy())

    def text_logits(self, clips: UInt8Array, texts: Float32Array) -> Float32Array:
        """Return float32 [N, K]: scaled cosine of each clip with each text of `embed_text`.

        With the learned scale, and the learned bias where the model has one (SigLIP): the logit that a sigmoid, or a
        softmax over texts, was trained on.
        """
        clip_vectors = self.embed(clips)
        norms = np.linalg.norm(clip_vectors, axis=1, keepdims=True)
        cosine = clip_vectors / np.maximum(norms, 1e-12) @ texts.T
        bias = float(self.model.logit_bias) if hasattr(self.model, "logit_bias") else 0.0
        return np.asarray(cosine * float(self.model.logit_scale.exp()) + bias, np.float32)

    def _frames(self, images: UInt8Array) -> Tensor:
        parts = []
        for start in range(0, len(images), self.config.batch_frames):
            chunk = images[start : start + self.config.batch_frames]
            pixels = self._preprocessing.apply(chunk, self.model.device, self.model.dtype)
            parts.append(_unit(self.model.get_image_features(pixel_values=pixels)))
        return torch.cat(parts)


def build(config: Config) -> Encoder:
    """Load the model that `config` names.

    Raises:
        InvalidConfig: it is not there, is of another kind, or the hub is out of reach.
        MissingExtra: transformers is not installed.
    """
    source = hub.Source(model=config.model, revision=config.revision, device=config.device, dtype=config.dtype)
    kind = hub.fetch_config(source, _CLASSES)
    tokenizer = hub.fetch(source, "tokenizer", hub.transformers_class("AutoTokenizer").from_pretrained)
    preprocessing = hub.fetch_preprocessing(source, int(kind.vision_config.image_size), config.fit)
    encoder = Encoder(config, hub.fetch_model(source, _CLASSES[kind.model_type]), tokenizer, preprocessing)
    hub.check_expected(encoder, config.expected_fingerprint)
    return encoder


def tiny() -> Encoder:
    """Return a model of a few thousand random weights, made on the spot."""
    from fast_path.tiny_models import built

    return built("siglip", lambda folder: build(tiny_config(folder)))


def tiny_config(folder: Path) -> Config:
    """Return settings for the tiny model in `folder`."""
    return Config(model=str(folder), device="cpu", clip_frames=2, batch_frames=3)


def _settings(config: Config) -> dict[str, Any]:
    """What shapes an embedding, besides the weights; where the model lies does not."""
    return {name: getattr(config, name) for name in ("fit", "dtype", "clip_frames", "clip_spacing_seconds")}


def _unit(features: Any) -> Tensor:
    pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(pooled.float(), dim=-1).cpu()
