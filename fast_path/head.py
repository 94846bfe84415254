"""The temporal head: burst embeddings and their times in, one score per category and one per burst out.

A rolling-attention probe: each burst looks at its neighbours within a window of time, knows which came before and
after, and gets its own score; the video takes a sharp soft maximum of them. So one burst of five minutes can raise
the alarm (a mean would drown it), and the scores of the bursts are the segments.

An embedding may have parts of different making (learned, counted). Each part gets a probe of its own, trained on a
loss of its own, and the scores are averaged: what one part memorises of a small training set the other does not
repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guard.types import Float32Array, Float64Array, require

_FAR = -1e4
_AWAY = 1e4
_STRETCH = 64
_SUMMARIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Shape of the head; it is stored with the weights."""

    dimension: int
    """Length D of the embeddings."""
    categories: tuple[str, ...]
    parts: tuple[int, ...] = ()
    """Lengths of the parts of an embedding, which sum to D; empty for one part."""
    hidden: int = 32
    heads: int = 4
    window_seconds: float = 1.5
    """Attention: a burst sees others up to this far away; training shows no more of any clip, long or short."""
    context_seconds: float = 1.0
    """Summary of what is around a burst, up to this far away."""
    pooled_bursts: int = 8
    """A video is as bad as its worst stretch of this many bursts."""
    dropout: float = 0.3

    def __post_init__(self) -> None:
        require(
            not self.parts or sum(self.parts) == self.dimension, "parts", f"a split of {self.dimension}", self.parts
        )

    @property
    def split(self) -> tuple[int, ...]:
        """The lengths of the parts, one at least."""
        return self.parts or (self.dimension,)


def config_from(stored: Mapping[str, Any]) -> HeadConfig:
    """Return the configuration that a checkpoint's JSON holds."""
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return HeadConfig(**settings)


class Probe(nn.Module):
    """Rolling attention over one part of the embeddings."""

    def __init__(self, dimension: int, config: HeadConfig) -> None:
        super().__init__()
        require(config.hidden % config.heads == 0, "hidden", f"a multiple of heads={config.heads}", config.hidden)
        self.heads, self.window_seconds = config.heads, config.window_seconds
        self.context_seconds = config.context_seconds
        hidden, outputs = config.hidden, len(config.categories)
        self.embed = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(_SUMMARIES * dimension, hidden), nn.ReLU(), nn.Dropout(0.2)
        )
        self.keys = nn.Linear(hidden, 2 * hidden)
        self.queries = nn.Linear(hidden, hidden)
        # 1 / sqrt(d) flattens attention over like-sized embeddings to a plain mean: the sharpness is learned
        self.log_sharpness = nn.Parameter(torch.zeros(config.heads))
        self.time_bias = nn.Parameter(torch.zeros(config.heads, 3))  # before, after, distance
        self.alone = nn.Linear(hidden, outputs)
        self.context = nn.Linear(hidden, outputs, bias=False)
        nn.init.constant_(self.alone.bias, -1.0)
        nn.init.zeros_(self.context.weight)  # context is earned: at the start a burst speaks for itself

    def forward(self, embeddings: Tensor, seconds: Tensor, mask: Tensor) -> Tensor:
        """Return logits of the bursts [B, T, C] for float32 [B, T, d], float32 [B, T] and bool [B, T]."""
        hidden = self.embed(self._summarised(embeddings, seconds, mask))
        logits: Tensor = self.alone(hidden) + self.context(self._attend(hidden, seconds, mask))
        return logits

    def _summarised(self, embeddings: Tensor, seconds: Tensor, mask: Tensor) -> Tensor:
        """Put beside each burst the mean, spread, highest and lowest of what is around it: [B, T, 5 * d]."""
        near = (seconds[:, None, :] - seconds[:, :, None]).abs() <= self.context_seconds
        near = (near & mask[:, None, :]) | torch.eye(seconds.shape[1], dtype=torch.bool, device=seconds.device)
        share = near / near.sum(-1, keepdim=True)
        mean = share @ embeddings
        spread = (share @ embeddings.square() - mean.square()).clamp_min(0)
        around = embeddings[:, None].masked_fill(~near[..., None], -_AWAY)
        highest = around.amax(2)
        lowest = embeddings[:, None].masked_fill(~near[..., None], _AWAY).amin(2)
        return torch.cat([embeddings, mean, (spread + 1e-4).sqrt(), highest, lowest], -1)

    def _attend(self, hidden: Tensor, seconds: Tensor, mask: Tensor) -> Tensor:
        size, length, width = hidden.shape
        heads = self.heads
        keys, values = self.keys(hidden).reshape(size, length, 2, heads, -1).permute(2, 0, 3, 1, 4)
        queries = self.queries(hidden).reshape(size, length, heads, -1).transpose(1, 2)
        likeness = nn.functional.normalize(queries, dim=-1) @ nn.functional.normalize(keys, dim=-1).transpose(-1, -2)
        offset = (seconds[:, None, :] - seconds[:, :, None])[:, None]  # [B, 1, T, T], negative = earlier
        before, after, distance = (part.reshape(1, heads, 1, 1) for part in self.time_bias.unbind(1))
        bias = before * (offset < 0) + after * (offset > 0) + distance * offset.abs() / self.window_seconds
        scores = likeness * (4 * self.log_sharpness.exp()).reshape(1, heads, 1, 1) + bias
        seen = (offset.abs() <= self.window_seconds) & mask[:, None, None, :]
        seen = seen | torch.eye(length, dtype=torch.bool, device=hidden.device)  # padding sees itself
        weights = torch.softmax(scores.masked_fill(~seen, _FAR), -1)
        attended: Tensor = weights @ values
        return attended.transpose(1, 2).reshape(size, length, width)


class TemporalHead(nn.Module):
    """One probe per part of the embedding, their mean, and the soft maximum over time."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.probes = nn.ModuleList(Probe(dimension, config) for dimension in config.split)
        self.log_pool = nn.Parameter(torch.full((len(config.categories),), 0.4))

    def forward(self, embeddings: Tensor, seconds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score padded sequences.

        `embeddings` float32 [B, T, D], `seconds` float32 [B, T], `mask` bool [B, T] (false = padding).
        Returns logits of the videos [B, C] and of the bursts [B, T, C].
        """
        bursts = torch.stack(self.members(embeddings, seconds, mask)).mean(0)
        return self.pool(bursts, mask), bursts

    def members(self, embeddings: Tensor, seconds: Tensor, mask: Tensor) -> list[Tensor]:
        """Return what each probe says of the bursts, [B, T, C] each."""
        parts = torch.split(embeddings, list(self.config.split), dim=-1)
        return [probe(part, seconds, mask) for probe, part in zip(self.probes, parts, strict=True)]

    def pool(self, bursts: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of the videos [B, C] from `bursts` [B, T, C]: those of the worst stretch of each.

        Within a stretch the soft mean of `log_pool` counts, between a mean and a maximum, so that one noisy burst of a
        short video is outvoted; between stretches the maximum, so that hours of calm hide nothing.
        """
        size = min(self.config.pooled_bursts, bursts.shape[1])
        sharpness = self.log_pool.exp()
        sharp = (bursts * sharpness).masked_fill(~mask[..., None], _FAR)
        stretches, counted = sharp.unfold(1, size, 1), mask.unfold(1, size, 1).sum(-1)  # [B, T - size + 1, C, size]
        level = torch.logsumexp(stretches, -1) - counted.clamp_min(1).log()[..., None]
        # a stretch that padding cuts short is no stretch of its own, unless the whole video is that short
        whole = counted == torch.minimum(mask.sum(1, keepdim=True), counted.new_tensor(size))
        return level.masked_fill(~whole[..., None], _FAR).amax(1) / sharpness

    @torch.inference_mode()
    def score(self, embeddings: Float32Array, seconds: Float64Array) -> tuple[Float32Array, Float32Array]:
        """Return probabilities of one video, float32 [C], and of its bursts, float32 [T, C].

        `embeddings` float32 [T, D], `seconds` float64 [T]. Long videos are scored in overlapping stretches: memory
        grows with the length, not with its square, and the result does not depend on where they are cut.
        """
        require(len(embeddings) == len(seconds) > 0, "embeddings and seconds", "equally long, not empty", len(seconds))
        bursts = torch.cat([self._stretch(embeddings, seconds, start) for start in range(0, len(seconds), _STRETCH)])
        video = self.pool(bursts[None], torch.ones(1, len(bursts), dtype=torch.bool))[0]
        return torch.sigmoid(video).numpy(), torch.sigmoid(bursts).numpy()

    def _stretch(self, embeddings: Float32Array, seconds: Float64Array, start: int) -> Tensor:
        stop = min(start + _STRETCH, len(seconds))
        reach = self.config.window_seconds + self.config.context_seconds  # those it attends to have a context too
        first = int(np.searchsorted(seconds, seconds[start] - reach, side="left"))
        last = int(np.searchsorted(seconds, seconds[stop - 1] + reach, side="right"))
        first, last = min(first, start), max(last, stop)
        times = torch.from_numpy(seconds[first:last] - seconds[first]).float()[None]
        inputs = torch.from_numpy(np.ascontiguousarray(embeddings[first:last]))[None]
        _, bursts = self.forward(inputs, times, torch.ones(1, last - first, dtype=torch.bool))
        return bursts[0, start - first : stop - first]
