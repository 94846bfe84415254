"""The embedded text classifier: screens titles, captions, comments, and words seen or heard in a video.

It gives the same `Scores` and `Coverage` as a video detector, so that one calibration, router and verdict serve both.
For text, seconds are reading time at 15 characters a second. Text past the limit makes the coverage incomplete. Of a
text in words, scripts or emoji that it was not trained on it hands over high scores only: a column that is not there is
a rule that nobody judged, so no low score is taken for safety, and a slow path that can read the text may settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_path.text import model as stored
from fast_path.text.features import bags
from fast_path.text.normalise import Plain, normalise
from guard.errors import InvalidConfig, TooLong
from guard.types import Coverage, Float32Array, Scores

CHARACTERS_PER_SECOND = 15.0
"""Reading speed that turns lengths of text into the seconds of `Coverage`."""

STANDS_ALONE = 0.5
"""A score this high is handed over even of a text that was not understood: known words of harm are in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the text classifier."""

    folder: Path | None = None
    """Checkpoint folder; None for the one that the package ships."""
    window_words: int = 150
    """A longer text is scored in windows of this many words, so that one bad sentence is not lost in it; 10..1000."""
    overlap_words: int = 30
    """Words that neighbouring windows share; 0 or more, less than half of `window_words`."""
    familiar_share: float = 0.7
    """A window with a smaller share of known words counts as not understood; 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScores:
    """What the classifier says of one text."""

    scores: Scores
    """Raw scores for calibration, without moments; where the text was not understood, only those of at least 0.5."""
    probability: Float32Array
    """float32 [C]: highest probability of any window, for every category of the classifier."""
    understood: bool
    """Whether low scores mean anything: every window is in words that the training texts hold."""
    coverage: Coverage
    """Windows stand for frames."""
    familiar: float
    """Share of words that the training texts hold too, in [0, 1]; 1 for a text without words."""
    disguised: int
    """Words in look-alike letters. Many of them are a sign of someone hiding."""
    peak_window: tuple[int, ...]
    """For each category, the window that scored highest."""


class TextClassifier:
    """Scores texts against the categories that it was trained for."""

    name = "text_ngrams"

    def __init__(self, model: stored.LinearModel, fingerprint: str, config: Config) -> None:
        self._model, self._config, self.fingerprint = model, config, fingerprint

    @property
    def categories(self) -> tuple[str, ...]:
        """Category ids that it covers, in column order. `sexual` is not among them."""
        return self._model.categories

    def score(self, texts: Sequence[str]) -> list[TextScores]:
        """Score a batch; element i belongs to text i and does not depend on the others.

        Raises:
            TypeError: an element is not a `str`.
        """
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{index}] must be a str; got {type(text).__name__}. Decode bytes first.")
        return [self._score(normalise(text)) for text in texts]

    def _score(self, plain: Plain) -> TextScores:
        parts = windows(plain, self._config.window_words, self._config.overlap_words)
        by_window = self._model.probability(self._model.logits(bags(parts, self._model.features)))
        probability = by_window.max(axis=0)
        known = [self._model.known(part.words) for part in parts]
        understood = all(self._understands(plain, hits) for hits in known)
        kept = [i for i, value in enumerate(probability) if understood or value >= STANDS_ALONE]
        return TextScores(
            scores=Scores(
                categories=tuple(self.categories[i] for i in kept),
                probability=probability[kept],
                moment_seconds=np.empty(0, np.float64),
                per_moment=np.empty((0, len(kept)), np.float32),
                detector=self.name,
                fingerprint=self.fingerprint,
            ),
            probability=probability,
            understood=understood,
            coverage=_coverage(plain, len(parts)),
            familiar=_share(np.concatenate(known)),
            disguised=plain.disguised,
            peak_window=tuple(int(i) for i in by_window.argmax(axis=0)),
        )

    def _understands(self, plain: Plain, known: NDArray[np.bool_]) -> bool:
        """Whether a low score of this window means anything: emoji alone were never trained on."""
        return _share(known) >= self._config.familiar_share if len(known) else plain.symbols == 0


def build(config: Config) -> TextClassifier:
    """Load the classifier. Raises `InvalidConfig` for a setting out of range or an unusable checkpoint."""
    if not 10 <= config.window_words <= 1000:
        raise InvalidConfig(f"window_words must be 10 to 1000; got {config.window_words}.")
    if not 0 <= 2 * config.overlap_words < config.window_words:
        raise InvalidConfig(f"overlap_words must be 0 to under half of window_words; got {config.overlap_words}.")
    if not 0.0 <= config.familiar_share <= 1.0:
        raise InvalidConfig(f"familiar_share must be in [0, 1]; got {config.familiar_share}.")
    model, fingerprint = stored.load(config.folder)
    return TextClassifier(model, fingerprint, config)


def windows(plain: Plain, size: int, overlap: int) -> list[Plain]:
    """Cut a text into overlapping windows of `size` words; the surface marks of the whole text go with each.

    200 words with size 150 and overlap 30 give words 0..150 and 120..200. A short or empty text is one window.
    """
    words = plain.words.split()
    starts = range(0, max(1, len(words) - overlap), size - overlap)
    return [replace(plain, words=" ".join(words[at : at + size])) for at in starts]


def _share(hits: NDArray[np.bool_]) -> float:
    return float(np.mean(hits)) if len(hits) else 1.0


def _coverage(plain: Plain, windows_: int) -> Coverage:
    read, unread = len(plain.words) / CHARACTERS_PER_SECOND, plain.unread / CHARACTERS_PER_SECOND
    return Coverage(
        frames_scored=windows_,
        frames_decoded=windows_,
        largest_gap_seconds=unread,
        full_decode=plain.unread == 0,
        decoded_seconds=read,
        declared_seconds=read + unread,
        complete=plain.unread == 0,
        sampler="text_windows",
        seed=0,
        problem=TooLong.code if plain.unread else None,
    )
