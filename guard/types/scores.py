"""What detectors say, and the thresholds that scores are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guard.types.checks import Float32Array, Float64Array, require, require_array


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Scores:
    """What one detector says of one video."""

    categories: tuple[str, ...]
    """The C category ids that this detector covers, in column order. All others are *not judged*, which is not safe."""
    probability: Float32Array
    """float32 [C] in [0, 1]: that the video violates the category."""
    moment_seconds: Float64Array
    """float64 [M]: increasing times that `per_moment` speaks of (one per burst, or one per frame)."""
    per_moment: Float32Array
    """float32 [M, C] in [0, 1]: the score near each time; a detector without any gives M = 0."""
    detector: str
    """Registry key of the detector."""
    fingerprint: str
    """Identifies weights and settings: a calibration fitted for another fingerprint is refused."""
    calibration: str | None = None
    """Id of the calibration applied to `probability`, or None for raw scores."""

    def __post_init__(self) -> None:
        width, moments = len(self.categories), len(self.moment_seconds)
        require_array(self.probability, "probability", np.float32, (width,))
        require_array(self.moment_seconds, "moment_seconds", np.float64, (moments,))
        require_array(self.per_moment, "per_moment", np.float32, (moments, width))
        for name, values in (("probability", self.probability), ("per_moment", self.per_moment)):
            inside = bool(np.all((values >= 0) & (values <= 1)))  # false for NaN as well
            require(inside, name, "finite and in [0, 1]", values)
        require(len(set(self.categories)) == width, "categories", "unique", self.categories)

    def __repr__(self) -> str:
        shown = ", ".join(f"{c}={p:.3f}" for c, p in zip(self.categories, self.probability, strict=True))
        return f"Scores({self.detector}: {shown}; {len(self.moment_seconds)} moments)"

    def of(self, category: str) -> float | None:
        """Return the probability of `category`, or None where this detector does not cover it."""
        return float(self.probability[self.categories.index(category)]) if category in self.categories else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The two numbers that split the scores of one rule in three: clear, uncertain, violating."""

    clear_below: float
    """Scores under this are accepted as safe without the slow path."""
    block_at: float
    """Scores at or above this are accepted as violating without the slow path."""

    def __post_init__(self) -> None:
        ordered = 0.0 <= self.clear_below <= self.block_at <= 1.0 + 1e-9
        require(ordered, "thresholds", "0 <= clear_below <= block_at <= 1", (self.clear_below, self.block_at))


DEFAULT_THRESHOLDS = Thresholds(clear_below=0.1, block_at=0.9)
"""Confidence 0.9 either way: the fixed threshold of the SafeLens paper, used where no calibration gives better."""
