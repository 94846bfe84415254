"""The temporal head: burst embeddings and their times in, one score per category and one per burst out.

A rolling-attention probe: each burst looks at its neighbours within a window of time, knows which came before and
after, and gets its own score; the video takes a sharp soft maximum of them. So one burst of five minutes can raise
the alarm (a mean would drown it), and the scores of the bursts are the segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from guard.types import Float32Array, Float64Array, require

_FAR = -1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Shape of the head; it is stored with the weights."""

    dimension: int
    """Length D of the embeddings."""
    categories: tuple[str, ...]
    hidden: int = 32
    heads: int = 4
    window_seconds: float = 4.0
    """A burst sees others up to this far away."""
    dropout: float = 0.3


class TemporalHead(nn.Module):
    """Rolling attention over burst embeddings."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        require(config.hidden % config.heads == 0, "hidden", f"a multiple of heads={config.heads}", config.hidden)
        self.config = config
        hidden, outputs = config.hidden, len(config.categories)
        self.embed = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.dimension, hidden), nn.ReLU(), nn.Dropout(0.2)
        )
        self.keys = nn.Linear(hidden, 2 * hidden)
        self.queries = nn.Linear(hidden, hidden)
        # 1 / sqrt(d) flattens attention over like-sized embeddings to a plain mean: the sharpness is learned
        self.log_sharpness = nn.Parameter(torch.zeros(config.heads))
        self.time_bias = nn.Parameter(torch.zeros(config.heads, 3))  # before, after, distance
        self.alone = nn.Linear(hidden, outputs)
        self.context = nn.Linear(hidden, outputs, bias=False)
        self.log_pool = nn.Parameter(torch.full((outputs,), 0.4))
        nn.init.constant_(self.alone.bias, -1.0)
        nn.init.zeros_(self.context.weight)  # context is earned: at the start a burst speaks for itself

    def forward(self, embeddings: Tensor, seconds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score padded sequences.

        `embeddings` float32 [B, T, D], `seconds` float32 [B, T], `mask` bool [B, T] (false = padding).
        Returns logits of the videos [B, C] and of the bursts [B, T, C].
        """
        hidden = self.embed(embeddings)
        bursts = self.alone(hidden) + self.context(self._attend(hidden, seconds, mask))
        sharp = (bursts * self.log_pool.exp()).masked_fill(~mask[..., None], _FAR)
        videos: Tensor = (torch.softmax(sharp, 1) * bursts).sum(1)
        return videos, bursts

    def _attend(self, hidden: Tensor, seconds: Tensor, mask: Tensor) -> Tensor:
        size, length, width = hidden.shape
        heads = self.config.heads
        keys, values = self.keys(hidden).reshape(size, length, 2, heads, -1).permute(2, 0, 3, 1, 4)
        queries = self.queries(hidden).reshape(size, length, heads, -1).transpose(1, 2)
        likeness = nn.functional.normalize(queries, dim=-1) @ nn.functional.normalize(keys, dim=-1).transpose(-1, -2)
        offset = (seconds[:, None, :] - seconds[:, :, None])[:, None]  # [B, 1, T, T], negative = earlier
        before, after, distance = (part.reshape(1, heads, 1, 1) for part in self.time_bias.unbind(1))
        bias = before * (offset < 0) + after * (offset > 0) + distance * offset.abs() / self.config.window_seconds
        scores = likeness * (4 * self.log_sharpness.exp()).reshape(1, heads, 1, 1) + bias
        seen = (offset.abs() <= self.config.window_seconds) & mask[:, None, None, :]
        seen = seen | torch.eye(length, dtype=torch.bool, device=hidden.device)  # padding sees itself
        weights = torch.softmax(scores.masked_fill(~seen, _FAR), -1)
        seen_values: Tensor = weights @ values
        return seen_values.transpose(1, 2).reshape(size, length, width)

    @torch.inference_mode()
    def score(self, embeddings: Float32Array, seconds: Float64Array) -> tuple[Float32Array, Float32Array]:
        """Return probabilities of one video, float32 [C], and of its bursts, float32 [T, C].

        `embeddings` float32 [T, D], `seconds` float64 [T]. Long videos are scored in overlapping stretches: memory
        grows with the length, not with its square, and the result does not depend on where they are cut.
        """
        require(len(embeddings) == len(seconds) > 0, "embeddings and seconds", "equally long, not empty", len(seconds))
        bursts = torch.cat([self._stretch(embeddings, seconds, start) for start in range(0, len(seconds), _STRETCH)])
        video = (torch.softmax(bursts * self.log_pool.exp(), 0) * bursts).sum(0)
        return torch.sigmoid(video).numpy(), torch.sigmoid(bursts).numpy()

    def _stretch(self, embeddings: Float32Array, seconds: Float64Array, start: int) -> Tensor:
        stop = min(start + _STRETCH, len(seconds))
        window = self.config.window_seconds
        first = int(np.searchsorted(seconds, seconds[start] - window, side="left"))
        last = int(np.searchsorted(seconds, seconds[stop - 1] + window, side="right"))
        first, last = min(first, start), max(last, stop)
        times = torch.from_numpy(seconds[first:last] - seconds[first]).float()[None]
        inputs = torch.from_numpy(np.ascontiguousarray(embeddings[first:last]))[None]
        _, bursts = self.forward(inputs, times, torch.ones(1, last - first, dtype=torch.bool))
        return bursts[0, start - first : stop - first]


_STRETCH = 256
