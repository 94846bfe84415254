"""From the examples of a policy's rules to `Scores` that the router takes like any detector's.

The encoder stays outside: this module gets embeddings. A score is the probability, held inside the uncertain band of
the rule's thresholds unless the whole interval lies beyond them: the router then settles a video only where the
examples leave no doubt, and people who look at the others still get them in order.

Examples show a part of what a rule's words say. Where a rule has words, silence of its examples is therefore no silence
of the rule: see `may_clear`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from guard.types import DEFAULT_THRESHOLDS, Exemplar, Float32Array, Float64Array, Policy, Rule, Scores, Thresholds
from policies import few_shot
from policies.exemplar_store import content_key
from policies.exemplars import Demonstration

NAME = "few_shot"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScorer:
    """The rules of one policy that examples can judge, for one encoder."""

    models: Mapping[str, few_shot.Model]
    """Category to what its examples taught."""
    thresholds: Mapping[str, Thresholds]
    """Category to the thresholds that the router will hold its score against."""
    clearing: frozenset[str]
    """Categories that a low score may clear; the scores of the others stay at or above their `clear_below`."""
    fingerprint: str
    """Identifies encoder, background, examples and settings."""
    config: few_shot.Config = field(default_factory=few_shot.Config)

    def score(self, moments: Float32Array, seconds: Float64Array) -> Scores:
        """Score one video by the embeddings of its moments, float32 [M, D], and their times, float64 [M]."""
        parts = few_shot.windows(len(moments), self.config)
        vectors = few_shot.pool_windows(moments, self.config)
        found = {category: model.score_windows(vectors) for category, model in self.models.items()}
        lengths = [part.stop - part.start for part in parts]
        held = [
            tuple(_held(scored, self.thresholds[c], clears=c in self.clearing) for scored in both)
            for c, both in found.items()
        ]
        return Scores(
            categories=tuple(self.models),
            probability=np.array([video[0] for video, _ in held], np.float32),
            moment_seconds=seconds,
            per_moment=np.stack([np.repeat(each, lengths) for _, each in held], axis=1)
            if held
            else np.zeros((len(seconds), 0), np.float32),
            detector=NAME,
            fingerprint=self.fingerprint,
        )


def may_clear(rule: Rule, *, slow: bool) -> bool:
    """Whether examples that a video does not resemble clear it of `rule`.

    They do where examples are all that the rule is. Eight clips of slot machines do not clear "casinos, betting or slot
    machines": with a slow path, which can read that, they clear nothing; without one they do, since nobody else could.
    Where the rule has lines or subcategories they never do: it was written to cover more than anyone has shown. Nor
    where it is locked: layers above may add examples that violate, and enough odd ones would move what it is about.
    """
    if rule.blocked or rule.subcategories or rule.locked:
        return False
    return not (slow and rule.definition)


def _held(scored: few_shot.Scored, thresholds: Thresholds, *, clears: bool = True) -> Float32Array:
    """Return the probabilities, those that the interval does not settle held between the thresholds.

    0.92 [0.69, 0.99] under `block_at` 0.9 becomes the number just below 0.9. Where a rule leaves no band between its
    thresholds, there is nothing to hold a score in, and the probability alone decides.
    """
    low, high = np.float32(thresholds.clear_below), np.nextafter(np.float32(thresholds.block_at), np.float32(0))
    if high < low and clears:
        return np.clip(scored.probability, 0, 1).astype(np.float32)
    held = np.where(scored.low < thresholds.block_at, np.minimum(scored.probability, high), scored.probability)
    held = np.where((scored.high >= low) | (not clears), np.maximum(held, low), held)
    values: Float32Array = np.clip(held, 0, 1).astype(np.float32)
    return values


def fit_rules(
    policy: Policy,
    demonstrations: Sequence[Demonstration],
    background: few_shot.Background,
    *,
    encoder: str,
    covered: Sequence[str] = (),
    slow: bool = False,
    config: few_shot.Config | None = None,
) -> RuleScorer:
    """Learn every active rule that has an embedded example which violates.

    Args:
        policy: the effective policy.
        demonstrations: exemplars with embeddings, such as `ExemplarStore.demonstrations` gives; those of another
            encoder are left out. An embedding is `example_vector` of a clip.
        background: ordinary clips, in the same encoder's embeddings.
        encoder: fingerprint of that encoder.
        covered: categories of trained detectors; examples add nothing to those here.
        slow: whether a slow path is there, which reads the words of a rule.
        config: assumptions.

    Raises:
        InvalidConfig: an embedding does not fit the background.
    """
    models: dict[str, few_shot.Model] = {}
    used: list[str] = []
    for rule in sorted(policy.active(), key=lambda rule: rule.category):
        own = [d for d in demonstrations if d.exemplar.rule == rule.category and d.encoder == encoder]
        violating = _stacked([d for d in own if d.exemplar.violates])
        if rule.category in covered or violating is None:
            continue
        harmless = _stacked([d for d in own if not d.exemplar.violates])
        models[rule.category] = few_shot.fit(violating, background, harmless=harmless, config=config)
        used += sorted(_named(d.exemplar) for d in own)
    settings = config or few_shot.Config()
    thresholds = {c: policy.rules[c].thresholds or DEFAULT_THRESHOLDS for c in models}
    clearing = frozenset(c for c in models if may_clear(policy.rules[c], slow=slow))
    known = [encoder, repr(settings), repr(thresholds), repr(sorted(clearing)), *used]
    digest = hashlib.sha256("\n".join(known).encode("utf-8"))
    digest.update(np.ascontiguousarray(background.whitened.astype("<f4")).tobytes())
    return RuleScorer(
        models=models,
        thresholds=thresholds,
        clearing=clearing,
        fingerprint=digest.hexdigest()[:16],
        config=settings,
    )


def example_vector(moments: Float32Array, config: few_shot.Config | None = None) -> Float32Array:
    """Return float32 [2 D], what is kept of an example: the mean of its windows, from its moments, float32 [M, D]."""
    mean: Float32Array = few_shot.pool_windows(moments, config).mean(axis=0).astype(np.float32)
    return mean


def _stacked(demonstrations: Sequence[Demonstration]) -> Float32Array | None:
    """Return float32 [k, D], one row per content: the same clip given twice is one example."""
    rows = {content_key(d.exemplar): d.embedding for d in demonstrations if d.embedding is not None}
    return np.stack([rows[key] for key in sorted(rows)]).astype(np.float32) if rows else None


def _named(exemplar: Exemplar) -> str:
    return f"{exemplar.rule} {exemplar.violates} {content_key(exemplar)}"
