"""Score videos for a rule that has a few examples and no training: how alike are they, and how sure can one be?

Arrays in, arrays out, of whatever encoder is there. Four steps:

1. *Windows.* A video is scored in stretches of some eight moments, each pooled to its mean and peak, so that a second
   of trouble in an hour is not averaged away. An example is the mean of its own windows.
2. *Prototype.* Embeddings are whitened by the background (ordinary clips), with the covariance shrunk towards the
   identity as few clips cannot estimate it; the score is the cosine with the mean of the examples, less a shrunk mean
   of harmless ones. This is linear discriminant analysis with a regularised covariance (Friedman, "Regularized
   discriminant analysis", 1989).
3. *Background.* A score is turned into standard deviations above the background's own scores.
4. *Separation.* How far violations lie above the background is unknown: `policies.separation` gives probability and
   interval, so that one example settles nothing, and examples that the encoder cannot tell from the background leave
   the base rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from guard.errors import InvalidConfig
from guard.types import Float32Array, Float64Array, require
from policies.separation import Belief, any_of, believe
from policies.separation import Config as Config
from policies.separation import Scored as Scored

LEAST_BACKGROUND = 20
"""Clips below which a spread of scores cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Background:
    """What ordinary clips look like to one encoder; made once, used for every rule."""

    mean: Float64Array
    """float64 [D]"""
    scale: Float64Array
    """float64 [D]: standard deviation by dimension."""
    whitening: Float64Array
    """float64 [D, D]"""
    whitened: Float64Array
    """float64 [N, D]: the background itself."""

    def __repr__(self) -> str:
        """Print shapes, not contents."""
        return f"Background({self.whitened.shape[0]} clips, {self.whitened.shape[1]} dimensions)"

    def whiten(self, vectors: Float32Array) -> Float64Array:
        """Return float64 [n, D] for float32 [n, D]."""
        check(vectors, "vectors", len(self.mean))
        return ((vectors.astype(np.float64) - self.mean) / self.scale) @ self.whitening


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Model:
    """A rule as its examples show it."""

    background: Background
    direction: Float64Array
    """float64 [D], unit length, in the whitened space."""
    centre: float
    """Mean score of the background."""
    spread: float
    """Standard deviation of it."""
    belief: Belief
    """How far violations may lie from the background."""
    examples: int
    config: Config

    def __repr__(self) -> str:
        """Print what the model is sure of."""
        return f"Model({self.examples} examples, separation {self.belief.expected:.2f} standard deviations)"

    def score(self, vectors: Float32Array) -> Scored:
        """Score float32 [n, D] videos of one window each, every one independently of the others."""
        return self._score(vectors, self.config.base_rate)

    def score_windows(self, vectors: Float32Array) -> tuple[Scored, Scored]:
        """Score one video of float32 [W, D] windows: the video (n = 1), and its windows (n = W).

        The base rate is that of a video, so each window has its share of it: a long video is no likelier to violate for
        having many windows that say nothing.
        """
        share = 1 - (1 - self.config.base_rate) ** (1 / max(1, len(vectors)))
        windows = self._score(vectors, share)
        return any_of(windows), windows

    def _score(self, vectors: Float32Array, base_rate: float) -> Scored:
        raw = _cosines(self.background.whiten(vectors), self.direction)
        deviations: Float64Array = (raw - self.centre) / self.spread
        count = len(self.background.whitened)
        return self.belief.score(deviations, base_rate=base_rate, ordinary=count, interval=self.config.interval)


def windows(count: int, config: Config | None = None) -> list[slice]:
    """Cut `count` moments into stretches of `window_moments` or somewhat more: 23 give 0..12 and 12..23."""
    parts = max(1, count // (config or Config()).window_moments)
    edges = [round(i * count / parts) for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def pool_windows(moments: Float32Array, config: Config | None = None) -> Float32Array:
    """Return one vector per window of a video, float32 [W, 2 D], from its moments, float32 [M, D]."""
    return np.stack([pool(moments[part]) for part in windows(len(moments), config)])


def pool(moments: Float32Array) -> Float32Array:
    """Return one vector per video, float32 [2 D], from its moments, float32 [M, D]: their mean and their peak.

    The mean says what the video is, the peak what happens at some time in it; an accident of one second is in the peak.
    """
    check(moments, "moments", None)
    require(len(moments) > 0, "moments", "at least one", len(moments))
    return np.concatenate([moments.mean(axis=0), moments.max(axis=0)]).astype(np.float32)


def fit_background(vectors: Float32Array, config: Config | None = None) -> Background:
    """Learn what is ordinary from float32 [N, D], N at least 20 clips without the categories of interest.

    Raises:
        InvalidConfig: too few clips, or not finite.
    """
    settings = config or Config()
    if not 0.0 < settings.shrinkage <= 1.0:
        raise InvalidConfig(f"shrinkage must be above 0 and at most 1; got {settings.shrinkage!r}.")
    check(vectors, "background", None)
    if len(vectors) < LEAST_BACKGROUND:
        raise InvalidConfig(f"The background needs at least {LEAST_BACKGROUND} clips; got {len(vectors)}.")
    values = vectors.astype(np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 1e-9 * (np.abs(mean) + 1e-9), scale, np.inf)  # a constant dimension says nothing
    standard = (values - mean) / scale
    correlation = standard.T @ standard / len(standard)
    shrunk = (1 - settings.shrinkage) * correlation + settings.shrinkage * np.eye(len(mean))
    eigenvalues, vectors_ = np.linalg.eigh(shrunk)
    whitening = (vectors_ / np.sqrt(eigenvalues)) @ vectors_.T
    return Background(mean=mean, scale=scale, whitening=whitening, whitened=standard @ whitening)


def fit(
    violating: Float32Array,
    background: Background,
    *,
    harmless: Float32Array | None = None,
    config: Config | None = None,
) -> Model:
    """Learn a rule from float32 [k, D] examples, k at least 1, and optionally float32 [m, D] harmless look-alikes.

    Raises:
        InvalidConfig: no example, another encoder's dimension, not finite, or a setting out of range.
    """
    settings = config or Config()
    _check_settings(settings)
    check(violating, "violating", len(background.mean))
    if len(violating) == 0:
        raise InvalidConfig("A few-shot score needs at least one example that violates.")
    examples = background.whiten(violating)
    away = _away(harmless, background, settings)
    direction, centre, spread = _prototype(examples.mean(axis=0) - away, background)
    observed = [
        _deviation(examples[i], np.delete(examples, i, axis=0).mean(axis=0) - away, background)
        for i in range(len(examples))
        if len(examples) > 1
    ]
    return Model(
        background=background,
        direction=direction,
        centre=centre,
        spread=spread,
        belief=believe(np.array(observed), settings),
        examples=len(examples),
        config=settings,
    )


def check(vectors: Float32Array, name: str, width: int | None) -> None:
    """Raise `InvalidConfig` unless `vectors` is finite, two-dimensional and `width` wide."""
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise InvalidConfig(
            f"{name} must have shape [n, {width or 'D'}]; got {vectors.shape}. One encoder makes them all."
        )
    if not np.isfinite(vectors).all():
        raise InvalidConfig(f"{name} must be finite; got NaN or infinity.")


def _check_settings(config: Config) -> None:
    for name in ("base_rate", "interval"):
        if not 0.0 < getattr(config, name) < 1.0:
            raise InvalidConfig(f"{name} must lie between 0 and 1; got {getattr(config, name)!r}.")
    if not 0.0 <= config.correlation < 1.0:
        raise InvalidConfig(f"correlation must be at least 0 and below 1; got {config.correlation!r}.")
    if config.separation_spread <= 0 or config.harmless_strength < 0:
        raise InvalidConfig("separation_spread must be above 0 and harmless_strength not below.")


def _away(harmless: Float32Array | None, background: Background, config: Config) -> Float64Array:
    """Return what to subtract for harmless examples: their mean, shrunk to nothing the fewer they are."""
    if harmless is None or len(harmless) == 0:
        return np.zeros(len(background.mean))
    share = len(harmless) / (len(harmless) + config.harmless_strength)
    mean: Float64Array = background.whiten(harmless).mean(axis=0)
    return mean * share


def _prototype(towards: Float64Array, background: Background) -> tuple[Float64Array, float, float]:
    """Return the unit direction, and mean and standard deviation of the background's scores along it."""
    length = float(np.linalg.norm(towards))
    direction = towards / length if length > 1e-12 else towards
    scores = _cosines(background.whitened, direction)
    return direction, float(scores.mean()), max(float(scores.std()), 1e-9)


def _deviation(example: Float64Array, towards: Float64Array, background: Background) -> float:
    direction, centre, spread = _prototype(towards, background)
    return float((_cosines(example[None], direction)[0] - centre) / spread)


def _cosines(whitened: Float64Array, direction: Float64Array) -> Float64Array:
    lengths = np.linalg.norm(whitened, axis=1)
    cosines: Float64Array = (whitened @ direction) / np.where(lengths > 1e-12, lengths, 1.0)
    return cosines
