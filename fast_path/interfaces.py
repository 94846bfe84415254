"""What the fast path asks of an encoder."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from guard.types import Float32Array, UInt8Array


@runtime_checkable
class Encoder(Protocol):
    """Bursts of neighbouring frames to embeddings. Batch first: element i depends on burst i alone."""

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        ...

    @property
    def clip_frames(self) -> int:
        """Frames L of a burst."""
        ...

    @property
    def clip_spacing_seconds(self) -> float:
        """Time between neighbours of a burst."""
        ...

    @property
    def input_side_px(self) -> int:
        """Short side of the frames."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights and settings."""
        ...

    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB."""
        ...


@runtime_checkable
class TrainableEncoder(Encoder, Protocol):
    """An encoder whose learned part can be trained: `embed(x) == network(prepare(x))`.

    A frozen encoder fits too: `prepare` does all the work, and `network` is `nn.Identity`.
    """

    network: nn.Module

    @property
    def front_fingerprint(self) -> str:
        """Identifies what `prepare` computes."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that rebuild its shape, JSON values; stored in the checkpoint."""
        ...

    def prepare(self, clips: UInt8Array) -> NDArray[np.generic]:
        """Return what the network sees, one row per clip; nothing in it is learned."""
        ...

    def augment(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a changed copy of prepared features float32 [N, ...] that means the same."""
        ...
