"""From the examples of a policy's rules to `Scores` that the router takes like any detector's.

The encoder stays outside: this module gets embeddings. What it gives is the cautious end of each probability's
interval, so the router settles a video only where the examples leave no doubt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guard.types import Exemplar, Float32Array, Policy, Scores
from policies import few_shot
from policies.exemplar_store import content_key
from policies.exemplars import Demonstration

NAME = "few_shot"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScorer:
    """The rules of one policy that examples can judge, for one encoder."""

    models: Mapping[str, few_shot.Model]
    """Category to what its examples taught."""
    fingerprint: str
    """Identifies encoder, background, examples and settings."""

    def score(self, video: Float32Array) -> Scores:
        """Score one video, float32 [D] as `few_shot.pool` gives it. There are no moments: examples are whole clips."""
        found = [model.score(video[None]).cautious for model in self.models.values()]
        return Scores(
            categories=tuple(self.models),
            probability=np.concatenate([np.zeros(0, np.float32), *found]).astype(np.float32),
            moment_seconds=np.zeros(0, np.float64),
            per_moment=np.zeros((0, len(self.models)), np.float32),
            detector=NAME,
            fingerprint=self.fingerprint,
        )


def fit_rules(
    policy: Policy,
    demonstrations: Sequence[Demonstration],
    background: few_shot.Background,
    *,
    encoder: str,
    covered: Sequence[str] = (),
    config: few_shot.Config | None = None,
) -> RuleScorer:
    """Learn every active rule that has an embedded example which violates.

    Args:
        policy: the effective policy.
        demonstrations: exemplars with embeddings, such as `ExemplarStore.demonstrations` gives; those of another
        encoder
            are left out. An embedding is of a whole clip, pooled as the background is.
        background: ordinary clips, in the same encoder's embeddings.
        encoder: fingerprint of that encoder.
        covered: categories of trained detectors; examples add nothing to those here.
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
    digest = hashlib.sha256("\n".join([encoder, repr(config or few_shot.Config()), *used]).encode("utf-8"))
    digest.update(np.ascontiguousarray(background.whitened.astype("<f4")).tobytes())
    return RuleScorer(models=models, fingerprint=digest.hexdigest()[:16])


def _stacked(demonstrations: Sequence[Demonstration]) -> Float32Array | None:
    """Return float32 [k, D], one row per content: the same clip given twice is one example."""
    rows = {content_key(d.exemplar): d.embedding for d in demonstrations if d.embedding is not None}
    return np.stack([rows[key] for key in sorted(rows)]).astype(np.float32) if rows else None


def _named(exemplar: Exemplar) -> str:
    return f"{exemplar.rule} {exemplar.violates} {content_key(exemplar)}"
