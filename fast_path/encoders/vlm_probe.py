"""Hidden states of a Qwen-VL-like model: the VLM that judges, read out before it speaks.

A burst goes in as images between a fixed question's tokens; the embedding is the mean of a layer over the image
tokens, or the layer's last token. One model can then serve both paths, as in SafeLens (arXiv 2605.17610).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_path import hub
from guard.errors import InvalidConfig
from guard.types import Float32Array, UInt8Array

_CLASSES = {"qwen2_vl": "Qwen2VLModel", "qwen2_5_vl": "Qwen2_5_VLModel", "qwen3_vl": "Qwen3VLModel"}
_POOLS = ("mean", "last")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the encoder."""

    model: str = "Qwen/Qwen3-VL-2B-Instruct"
    """Hub name or local folder of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model."""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "bfloat16"
    pool: str = "mean"
    """`mean` over the image tokens, or `last`: the token after which the answer would begin."""
    layer: int = -1
    """Hidden layer, counted from 0 (the embeddings) or from the end."""
    question: str = "Does this video break the content policy?"
    side_px: int = 224
    """Each frame is brought to about this many pixels squared, its shape kept."""
    batch_clips: int = 4
    clip_frames: int = 2
    clip_spacing_seconds: float = 0.5
    expected_fingerprint: str | None = None
    """If set, another model (or other settings) is refused: stored with what was trained on this one."""
    untrained_seed: int | None = None
    """Without effect: the weights are pretrained. `guard train fast` gives it to every encoder."""


class Encoder(hub.Frozen):
    """The model without its language head."""

    def __init__(self, config: Config, model: Any, tokenizer: Any, processor: Any) -> None:
        self.config: Config = config
        self.network = torch.nn.Identity()
        self.model = model
        self._tokenizer = tokenizer
        self._processor = processor
        shaping = ("dtype", "pool", "layer", "question", "side_px", "clip_frames", "clip_spacing_seconds")
        settings = {name: getattr(config, name) for name in shaping}
        used = {"mean": processor.image_mean, "deviation": processor.image_std, "patch": processor.patch_size}
        self.fingerprint = hub.fingerprint(model, {"settings": settings, "preprocessing": used})

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return int(self.model.config.text_config.hidden_size)

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
        return self.config.side_px

    @torch.inference_mode()
    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB; element i depends on clip i alone.

        All clips of a call have one size, hence one number of tokens: batches need no padding.
        """
        hub.check_clips(clips, self.clip_frames)
        size = self.config.batch_clips
        parts = [self._embed(clips[start : start + size]) for start in range(0, len(clips), size)]
        return np.concatenate([np.zeros((0, self.dimension), np.float32), *parts])

    def _embed(self, clips: UInt8Array) -> Float32Array:
        pixels = self.config.side_px * self.config.side_px
        images = self._processor(
            images=list(clips.reshape(-1, *clips.shape[2:])),
            size={"shortest_edge": pixels // 4, "longest_edge": pixels},
            return_tensors="pt",
        )
        grid: Tensor = images["image_grid_thw"]
        tokens = int(grid[0].prod()) // self._processor.merge_size**2
        row = self._tokenizer(self._prompt(tokens), add_special_tokens=False)["input_ids"]
        ids = torch.tensor([row] * len(clips))
        is_image = ids == self.model.config.image_token_id
        if int(is_image.sum()) != tokens * len(grid):
            raise InvalidConfig(f"The tokenizer of {self.config.model!r} does not know the model's image token.")
        device = self.model.device
        states = self.model(
            input_ids=ids.to(device),
            attention_mask=torch.ones_like(ids).to(device),
            mm_token_type_ids=is_image.int().to(device),
            pixel_values=images["pixel_values"].to(device, self.model.dtype),
            image_grid_thw=grid.to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states[self.config.layer]
        states = states.float().cpu()
        if self.config.pool == "last":
            return np.asarray(states[:, -1].numpy())
        kept = states[is_image].reshape(len(clips), -1, states.shape[-1])
        return np.asarray(kept.mean(1).numpy())

    def _prompt(self, tokens: int) -> str:
        """The chat form of the Qwen-VL family: frames, then the question, then the answer's beginning."""
        frame = "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"
        frames = frame * self.clip_frames
        return f"<|im_start|>user\n{frames}{self.config.question}<|im_end|>\n<|im_start|>assistant\n"


def build(config: Config) -> Encoder:
    """Load the model that `config` names.

    Raises:
        InvalidConfig: it is not there, is of another kind, or the hub is out of reach; or `pool` or `layer` do not
        exist. MissingExtra: transformers is not installed.
    """
    if config.pool not in _POOLS:
        raise InvalidConfig(f"pool must be one of {', '.join(_POOLS)}; got {config.pool!r}.")
    source = hub.Source(model=config.model, revision=config.revision, device=config.device, dtype=config.dtype)
    kind = hub.fetch_config(source, _CLASSES)
    layers = int(kind.text_config.num_hidden_layers)
    if not -layers - 1 <= config.layer <= layers:
        raise InvalidConfig(f"layer must be from {-layers - 1} to {layers}; got {config.layer}.")
    tokenizer = hub.fetch(source, "tokenizer", hub.transformers_class("AutoTokenizer").from_pretrained)
    processor = hub.transformers_class("Qwen2VLImageProcessorPil")  # the one that needs no torchvision
    images = hub.fetch(source, "image processor", processor.from_pretrained)
    encoder = Encoder(config, hub.fetch_model(source, _CLASSES[kind.model_type]), tokenizer, images)
    hub.check_expected(encoder, config.expected_fingerprint)
    return encoder


def tiny() -> Encoder:
    """Return a model of some ten thousand random weights, made on the spot."""
    from fast_path.tiny_models import built

    return built("qwen2_vl", lambda folder: build(tiny_config(folder)))


def tiny_config(folder: Path) -> Config:
    """Return settings for the tiny model in `folder`."""
    return Config(model=str(folder), device="cpu", dtype="float32", side_px=56, batch_clips=2)
