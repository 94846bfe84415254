"""Score categories that are given in words alone, with SigLIP or CLIP.

For each moment and category, p = sigmoid(l - l0): l is the highest scaled cosine of the moment with the category's
prompts, l0 the log-sum-exp over prompts for ordinary scenes. That is the softmax of "this" against "nothing of note".
The score is

    0.1 + 0.79 * p

because words alone prove nothing: from 0.1 to 0.89, the default thresholds (0.1 and 0.9) neither clear nor block a
video on it. A softmax over a handful of sentences is near 1 for anything that looks a little more like this than like
them, and nobody has counted how often that is wrong. A calibration fitted on labelled clips does count it, and maps the
score to a probability; then it may. The video's score is the mean of its two highest moments.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fast_path.detectors.tiny import clips_of
from guard import taxonomy
from guard.errors import InvalidConfig
from guard.interfaces import SamplingNeeds, score_frames
from guard.types import Coverage, Float32Array, Float64Array, Frames, Rule, Scores, UInt8Array

NAME = "open_vocabulary"
NEUTRAL = (
    "an ordinary scene with nothing of note", "people going about their day", "a landscape", "a person talking",
    "sports", "an animal", "a screen with text", "a dark picture",
)  # fmt: skip
_FLOOR, _CEILING = 0.1, 0.89
_ALGORITHM = 2
"""Raise with any change that changes scores: it is part of the fingerprint."""
_TOP = 2
_UNSEEN_ROOTS = ("deception", "flashing", "spam", "profanity", "toxicity", "negativity")
"""Roots that a single picture does not show."""


def default_prompts() -> dict[str, tuple[str, ...]]:
    """Return a prompt for each built-in category that can be seen in a picture."""
    return {
        category.id: (f"a video frame of {category.name.lower()}",)
        for category in taxonomy.categories().values()
        if category.id.partition(".")[0] not in _UNSEEN_ROOTS
    }


def prompts_of(rules: Iterable[Rule]) -> dict[str, tuple[str, ...]]:
    """Return prompts for policy rules: the name, the definition and the blocked lines of each, those that are there."""
    texts = {rule.category: [rule.name, rule.definition, *rule.blocked] for rule in rules}
    return {category: found for category, lines in texts.items() if (found := tuple(t for t in lines if t.strip()))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the detector."""

    prompts: Mapping[str, Sequence[str]] = field(default_factory=default_prompts)
    """Category id to what it looks like, in one or more short descriptions."""
    neutral: Sequence[str] = NEUTRAL
    """Descriptions of what violates nothing."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the `siglip` encoder: model, revision, device, dtype, ..."""
    min_bursts: int = 8


class Detector:
    """Compares moments with words."""

    def __init__(self, config: Config, encoder: Any) -> None:
        self.config = config
        self.encoder = encoder
        self._owner = [index for index, texts in enumerate(config.prompts.values()) for _ in texts]
        texts = [text for group in config.prompts.values() for text in group]
        self._texts: Float32Array = encoder.embed_text([*texts, *config.neutral])
        content = [_ALGORITHM, encoder.fingerprint, list(map(list, config.prompts.items())), list(config.neutral)]
        self.fingerprint = hashlib.sha256(json.dumps(content, default=list).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Registry key."""
        return NAME

    @property
    def categories(self) -> tuple[str, ...]:
        """Category ids, in column order."""
        return tuple(self.config.prompts)

    @property
    def needs(self) -> SamplingNeeds:
        """The encoder's bursts."""
        return SamplingNeeds(
            side_px=self.encoder.input_side_px,
            burst_frames=self.encoder.clip_frames,
            burst_spacing_seconds=self.encoder.clip_spacing_seconds,
            min_bursts=self.config.min_bursts,
        )

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        """Score a batch of videos; element i belongs to video i and does not depend on the others."""
        return [score_frames(self, frames) for frames in batch]

    def begin(self) -> Session:
        """Begin to score one video."""
        return Session(self)

    def compare(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [M, C] for the bursts uint8 [M, L, H, W, 3]."""
        return self.moment_scores(self.encoder.text_logits(clips, self._texts))

    def moment_scores(self, logits: Float32Array) -> Float32Array:
        """Return float32 [M, C] from the logits [M, K] of all prompts, the neutral ones last."""
        count = len(self._owner)
        own, neutral = logits[:, :count].astype(np.float64), logits[:, count:].astype(np.float64)
        owner = np.array(self._owner)
        best = np.stack([own[:, owner == index].max(axis=1) for index in range(len(self.categories))], axis=1)
        ordinary = np.logaddexp.reduce(neutral, axis=1)[:, None]
        p = 1 / (1 + np.exp(np.clip(ordinary - best, -50, 50)))
        return np.asarray(np.maximum(_FLOOR + (_CEILING - _FLOOR) * p, np.float32(_FLOOR)), np.float32)


class Session:
    """Scores bursts as they come; only their scores are kept."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._moments: list[Float32Array] = []
        self._seconds: list[Float64Array] = []

    def feed(self, frames: Frames) -> None:
        """Score the bursts of the next frames."""
        clips, seconds = clips_of(frames, self._detector.encoder.clip_frames)
        self._moments.append(self._detector.compare(clips))
        self._seconds.append(seconds)

    def finish(self, coverage: Coverage) -> Scores:
        """Return the scores of the video; what `coverage` lacks is the router's business."""
        del coverage
        moments = np.concatenate(self._moments)
        highest = np.sort(moments, axis=0)[-_TOP:]
        return Scores(
            categories=self._detector.categories,
            probability=highest.mean(axis=0, dtype=np.float32),
            moment_seconds=np.concatenate(self._seconds),
            per_moment=moments,
            detector=NAME,
            fingerprint=self._detector.fingerprint,
        )


def build(config: Config) -> Detector:
    """Build the detector.

    Raises:
        InvalidConfig: no prompts, an unknown category, or no usable model.
        MissingExtra: transformers is not installed.
    """
    if not config.prompts or not all(config.prompts.values()) or not config.neutral:
        raise InvalidConfig(
            "Open-vocabulary scoring needs a prompt for each category, and neutral ones to compare with."
        )
    for category in config.prompts:
        if not taxonomy.is_known(category):
            close = taxonomy.suggestion(category)
            raise InvalidConfig(
                f"There is no category {category!r}." + (f" Did you mean {close!r}?" if close else ""),
                hint=f"Invented categories live below {taxonomy.CUSTOM_ROOT!r}, such as custom.parkour.",
            )
    from fast_path.encoders import siglip

    try:
        settings = siglip.Config(**config.encoder)
    except TypeError as error:
        raise InvalidConfig(f"These are no settings of the siglip encoder: {error}.") from error
    return Detector(config, siglip.build(settings))


def tiny() -> Detector:
    """Return the detector on a SigLIP of a few thousand random weights."""
    from fast_path.encoders import siglip

    prompts = {"violence.fighting": ("a person fighting in the street",), "custom.parkour": ("parkour on a roof",)}
    return Detector(Config(prompts=prompts), siglip.tiny())
