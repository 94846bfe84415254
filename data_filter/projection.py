"""Random projection of a linear layer's gradient, one small matrix per side.

The gradient of a linear layer is a sum over tokens of d a^T (output gradient times input). Projecting both sides,
(P_out d)(P_in a)^T, costs T (d_in k_in + d_out k_out + k_in k_out) where a dense projection of the whole gradient costs
T d_in d_out K (LoGra, arXiv 2405.13954; the factorised form keeps inner products in expectation, as a dense one does).
The matrices come from a counter-based generator keyed by (seed, layer, side): every machine makes the same ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from data_filter.types import Layer
from guard.types import Float32Array, require


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionSpec:
    """How wide a projected layer is. A side that is no wider than its limit is kept as it is."""

    k_out: int = 32
    k_in: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.k_out > 0 and self.k_in > 0, "k_out and k_in", "positive", (self.k_out, self.k_in))

    def matrix(self, layer: str, side: str, width: int) -> Float32Array | None:
        """Return float32 [k, width] of +-1/sqrt(k), or None where `width` already fits."""
        k = self.k_out if side == "out" else self.k_in
        return None if width <= k else rademacher(self.seed, f"{layer}/{side}", k, width)

    def plan(self, widths: list[tuple[str, int, int]]) -> tuple[Layer, ...]:
        """Lay out layers given as (name, d_out, d_in with the bias column) one behind the other."""
        layers: list[Layer] = []
        for name, d_out, d_in in widths:
            start = layers[-1].stop if layers else 0
            layers.append(Layer(name=name, d_out=min(d_out, self.k_out), d_in=min(d_in, self.k_in), start=start))
        return tuple(layers)


WHOLE = ProjectionSpec(k_out=1 << 30, k_in=1 << 30)
"""No projection at all: rows are whole gradients."""


def rademacher(seed: int, key: str, k: int, width: int) -> Float32Array:
    """Return float32 [k, width] of random signs over sqrt(k), a function of the arguments alone."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    bits = generator.integers(0, 2, size=(k, width), dtype=np.int8)
    signs: Float32Array = ((2 * bits - 1) / np.sqrt(k)).astype(np.float32)
    return signs
