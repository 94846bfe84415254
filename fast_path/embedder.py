"""The embeddings that a detector's encoder makes anyway, for whoever compares videos with examples.

Detector and comparison see the same frames in the same thread, one after the other. The encoder is therefore made to
remember its last batch by content: hashing a burst of 3 x 128 x 228 pixels takes 0.3 ms, embedding it some thirty times
that.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import numpy as np

from fast_path.detectors.tiny import clips_of
from fast_path.interfaces import Encoder
from guard.interfaces import Detector, SamplingNeeds
from guard.types import Float32Array, Float64Array, Frames, UInt8Array


class Remembering:
    """An encoder that embeds a batch once where it is asked for the same one twice in a row, in each thread."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._last = threading.local()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the encoder's own."""
        return getattr(self._encoder, name)

    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB."""
        digest = hashlib.blake2b(np.ascontiguousarray(clips).data, digest_size=16).digest() + bytes(
            str(clips.shape), "ascii"
        )
        if getattr(self._last, "digest", None) != digest:
            self._last.embeddings = self._encoder.embed(clips)
            self._last.digest = digest
        embeddings: Float32Array = self._last.embeddings
        return embeddings


class FrameEmbedder:
    """Frames to one embedding per moment."""

    def __init__(self, encoder: Encoder, needs: SamplingNeeds) -> None:
        self.encoder, self.needs = encoder, needs

    @property
    def fingerprint(self) -> str:
        """Identifies weights and settings of the encoder."""
        return self.encoder.fingerprint

    def embed(self, frames: Frames) -> tuple[Float32Array, Float64Array]:
        """Return embeddings float32 [M, D] and the middle times float64 [M] of the M bursts of `frames`."""
        clips, seconds = clips_of(frames, self.encoder.clip_frames)
        return self.encoder.embed(clips), seconds


def embedder_of(detector: Detector) -> FrameEmbedder | None:
    """Return an embedder over the encoder of `detector`, shared with it; None for a detector that has none."""
    encoder: Any = getattr(detector, "encoder", None)
    if encoder is None:
        return None
    if not isinstance(encoder, Remembering):
        encoder = Remembering(encoder)
        detector.encoder = encoder  # type: ignore[attr-defined]
    return FrameEmbedder(encoder, detector.needs)
