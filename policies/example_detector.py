"""Rules that examples judge, as a detector among the others: the clip's embedding against those of the examples.

The encoder and the decoder come from outside; embeddings of examples are kept in the exemplar store, so that a clip is
decoded once and may then be gone. What cannot be compared is said, never skipped: see `Examples.problems`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from guard.errors import BackendError, GuardError, InputError, InvalidConfig
from guard.interfaces import Decoder, SamplingNeeds, score_frames
from guard.types import Coverage, Exemplar, Float32Array, Float64Array, Frames, Policy, Rule, Scores, Video
from policies import few_shot
from policies.background import POOLING, background_for
from policies.exemplar_store import ExemplarStore
from policies.exemplars import Demonstration
from policies.rule_scorer import NAME, RuleScorer, example_vector, fit_rules

log = logging.getLogger(__name__)

MAX_PER_RULE = 64
"""Examples of one rule, for and against each, that are compared with; a prototype gains nothing beyond some dozens."""
MAX_NEW = 200
"""Clips that are decoded when a guard is built; a policy from elsewhere must not keep it busy for hours."""


class Embedder(Protocol):
    """Frames to embeddings, one per moment."""

    needs: SamplingNeeds

    @property
    def fingerprint(self) -> str:
        """Identifies the encoder."""
        ...

    def embed(self, frames: Frames) -> tuple[Float32Array, Float64Array]:
        """Return embeddings float32 [M, D] and times float64 [M] of the moments in `frames`."""
        ...


class Moments:
    """A `FrameSink`, and a session's memory: the embeddings of one video, chunk by chunk."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self._embeddings: list[Float32Array] = []
        self._seconds: list[Float64Array] = []

    def take(self, frames: Frames) -> None:
        """Embed the next frames."""
        embeddings, seconds = self._embedder.embed(frames)
        self._embeddings.append(embeddings)
        self._seconds.append(seconds)

    @property
    def embeddings(self) -> Float32Array:
        """float32 [M, D] of all moments so far."""
        return np.concatenate(self._embeddings)

    @property
    def seconds(self) -> Float64Array:
        """float64 [M]: their times."""
        return np.concatenate(self._seconds)


class Session:
    """The scoring of one video."""

    def __init__(self, detector: ExampleDetector) -> None:
        self._scorer = detector.scorer
        self._moments = Moments(detector.embedder)

    def feed(self, frames: Frames) -> None:
        """Embed the next frames."""
        self._moments.take(frames)

    def finish(self, coverage: Coverage) -> Scores:
        """Return the scores of the video; what `coverage` lacks is the router's business."""
        del coverage
        return self._scorer.score(self._moments.embeddings, self._moments.seconds)


class ExampleDetector:
    """`guard.interfaces.Detector` over the examples of a policy."""

    name = NAME

    def __init__(self, embedder: Embedder, scorer: RuleScorer) -> None:
        self.embedder, self.scorer = embedder, scorer

    @property
    def categories(self) -> tuple[str, ...]:
        """The rules that examples judge."""
        return tuple(self.scorer.models)

    @property
    def fingerprint(self) -> str:
        """Identifies encoder, background, examples and settings."""
        return self.scorer.fingerprint

    @property
    def needs(self) -> SamplingNeeds:
        """The encoder's bursts."""
        return self.embedder.needs

    def begin(self) -> Session:
        """Begin to score one video."""
        return Session(self)

    def score(self, batch: Sequence[Frames]) -> list[Scores]:
        """Score a batch of videos; element i belongs to video i and does not depend on the others."""
        return [score_frames(self, frames) for frames in batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What the examples of a policy are good for here."""

    detector: ExampleDetector | None = None
    """None where they judge no rule."""
    counted: tuple[tuple[str, int], ...] = ()
    """Rule to the number of its violating examples that are compared with."""
    problems: tuple[str, ...] = ()
    """Sentences that say which example or rule cannot be used, why, and what to do."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The rules that are judged by examples."""
        return self.detector.categories if self.detector else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where embeddings of examples come from."""

    embedders: Sequence[Embedder]
    """Of the configured encoders; the first one with a background is used."""
    decoder: Decoder
    open_video: Callable[[Path], Video]
    """Hashes a file. Raises an `InputError`."""
    store: ExemplarStore
    background: Path | None = None
    """Background file; None takes the shipped one."""
    slow: bool = False
    """Whether a slow path is there, which reads the words of a rule."""


def seen(exemplar: Exemplar) -> bool:
    """Whether an example is a clip or an image, so that an encoder of frames can see it."""
    return bool(exemplar.sha256 or exemplar.source)


def by_examples(policy: Policy, covered: Collection[str]) -> tuple[Rule, ...]:
    """Return the active rules that only examples could judge: no detector was trained on them, and one violates."""
    return tuple(
        rule
        for rule in policy.active()
        if rule.category not in covered and any(e.violates and seen(e) for e in rule.exemplars)
    )


def from_policy(policy: Policy, sources: Sources, *, covered: Collection[str] = ()) -> Examples:
    """Learn every rule of `policy` that only examples can judge. Never raises for an example: that is a problem said.

    Args:
        policy: the effective policy.
        sources: encoders, and where clips and stored embeddings are.
        covered: categories of the trained detectors in use; examples add nothing to those here.

    Raises:
        InvalidConfig: a background file was named that does not fit.
    """
    rules = by_examples(policy, covered)
    if not rules:
        return Examples()
    try:
        embedder, background = _first_with_background(sources)
    except InvalidConfig as error:
        if sources.background is not None:
            raise
        return Examples(problems=(f"{_names(rules)}: {error.message} {error.hint}",))
    found, problems = _demonstrations(rules, embedder, sources)
    encoder = embedder.fingerprint
    scorer = fit_rules(policy, found, background, encoder=encoder, covered=tuple(covered), slow=sources.slow)
    lost = [rule for rule in rules if rule.category not in scorer.models]
    problems += [
        f"{rule.category}: none of its examples can be compared with; nothing judges it here." for rule in lost
    ]
    return Examples(
        detector=ExampleDetector(embedder, scorer) if scorer.models else None,
        counted=tuple((category, model.examples) for category, model in scorer.models.items()),
        problems=tuple(problems),
    )


def _first_with_background(sources: Sources) -> tuple[Embedder, few_shot.Background]:
    problem = InvalidConfig(
        "No configured detector has an encoder whose embeddings examples could be compared in.",
        hint="Add the detector 'tiny' to `detectors`.",
    )
    for embedder in sources.embedders:
        try:
            return embedder, background_for(embedder.fingerprint, sources.background)
        except InvalidConfig as error:
            problem = error
    raise problem


def _demonstrations(
    rules: Sequence[Rule], embedder: Embedder, sources: Sources
) -> tuple[list[Demonstration], list[str]]:
    found: list[Demonstration] = []
    problems: list[str] = []
    decoded = 0
    for exemplar in (e for rule in rules for e in _first(rule)):
        vector = _kept(exemplar, embedder, sources.store)
        if vector is None and decoded >= MAX_NEW:
            problems.append(f"{exemplar.rule}: {_label(exemplar)} waits: {MAX_NEW} clips are embedded at a time.")
            continue
        if vector is None:
            decoded += 1
            try:
                vector = _embed(exemplar, embedder, sources)
            except GuardError as error:
                problems.append(f"{exemplar.rule}: {_label(exemplar)} cannot be compared with: {error.message}")
                continue
        found.append(Demonstration(exemplar=exemplar, embedding=vector, encoder=embedder.fingerprint))
    return found, problems


def _first(rule: Rule) -> list[Exemplar]:
    """Return the examples that count: clips and images, the first of either kind."""
    shown = [e for e in rule.exemplars if seen(e)]
    return [e for violates in (True, False) for e in [x for x in shown if x.violates is violates][:MAX_PER_RULE]]


def _kept(exemplar: Exemplar, embedder: Embedder, store: ExemplarStore) -> Float32Array | None:
    try:
        return store.embedding(exemplar, _key(embedder))
    except BackendError as error:
        log.warning("embeddings of examples are not kept: %s", error.message)
        return None


def _embed(exemplar: Exemplar, embedder: Embedder, sources: Sources) -> Float32Array:
    """Return the embedding of an example whose clip is at hand, and keep it.

    A policy may come from elsewhere, so its word alone opens no file: the content must have the hash that the example
    names, and whether there is some other file at that place is not told.
    """
    absent = InvalidConfig("its clip is not at hand, or is not the one that was made an example.")
    if exemplar.sha256 is None or not exemplar.source:
        raise absent
    try:
        video = sources.open_video(Path(exemplar.source))
    except InputError as error:
        raise absent from error
    if video.sha256 != exemplar.sha256:
        raise absent
    try:
        return remember(video, embedder, sources)
    except BackendError as error:
        log.warning("embeddings of examples are not kept: %s", error.message)
        return _vector(video, embedder, sources)


def remember(video: Video, embedder: Embedder, sources: Sources) -> Float32Array:
    """Return what is kept of `video` as an example, float32 [2 D], and keep it: its file may then be gone.

    Raises:
        InputError: the video cannot be decoded.
        BackendError: the store cannot be written.
    """
    vector = _vector(video, embedder, sources)
    content = Exemplar(rule="", violates=True, sha256=video.sha256)  # kept by its hash alone
    sources.store.save_embedding(content, _key(embedder), vector)
    return vector


def _vector(video: Video, embedder: Embedder, sources: Sources) -> Float32Array:
    moments = Moments(embedder)
    sources.decoder.feed(video, embedder.needs, moments)
    return example_vector(moments.embeddings)


def _key(embedder: Embedder) -> str:
    return f"{embedder.fingerprint}:{POOLING}"


def _label(exemplar: Exemplar) -> str:
    return f"the example {(exemplar.source or exemplar.sha256 or '')!r}"


def _names(rules: Sequence[Rule]) -> str:
    return ", ".join(rule.category for rule in rules)
