"""Content that somebody made an example of a violation is known again, whatever the detectors think of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from guard.types import Policy, Scores

NAME = "known_example"


def known_rules(sha256: str, policy: Policy) -> tuple[str, ...]:
    """Return the active rules that have content of this hash as an example that violates, and not as one that does
    not."""
    found = []
    for rule in policy.active():
        labels = {exemplar.violates for exemplar in rule.exemplars if exemplar.sha256 == sha256}
        found += [rule.category] * (labels == {True})
    return tuple(found)


def settled(scores: Sequence[Scores], categories: Sequence[str]) -> tuple[Scores, ...]:
    """Return `scores` with certainty for `categories`: who owns a rule decides what violates it, not a detector."""
    if not categories:
        return tuple(scores)
    return (*(_without(each, categories) for each in scores), _certain(categories))


def _certain(categories: Sequence[str]) -> Scores:
    return Scores(
        categories=tuple(categories),
        probability=np.ones(len(categories), np.float32),
        moment_seconds=np.empty(0, np.float64),
        per_moment=np.empty((0, len(categories)), np.float32),
        detector=NAME,
        fingerprint=NAME,
    )


def _without(scores: Scores, categories: Sequence[str]) -> Scores:
    kept = [i for i, category in enumerate(scores.categories) if category not in categories]
    return replace(
        scores,
        categories=tuple(scores.categories[i] for i in kept),
        probability=scores.probability[kept],
        per_moment=scores.per_moment[:, kept],
    )
