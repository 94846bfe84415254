"""Tosses a fair coin for each category; the score is uniform, and flags above one half."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.types import Kind, Prediction, Sample
from guard.types import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What places the draws, together with the sample's id."""

    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSystem:
    """Answers by chance, the same way every time."""

    seed: int
    name: str = "random"

    @property
    def kinds(self) -> frozenset[Kind]:
        """Anything: it does not look."""
        return frozenset({"video", "text"})

    @property
    def signature(self) -> Mapping[str, Any]:
        """The seed."""
        return {"seed": self.seed}

    def predict(self, samples: Iterable[Sample], policies: Mapping[str, Policy]) -> Iterator[Prediction]:
        """Yield an answer for each sample, drawn by its id alone."""
        for sample in samples:
            rng = np.random.default_rng((self.seed, int(sample.id, 16)))
            scores = {rule.category: float(rng.random()) for rule in policies[sample.policy].active()}
            flagged = tuple(category for category, score in scores.items() if score > 0.5)
            decision = "block" if flagged else "allow"
            yield Prediction(
                id=sample.id, status="ok", decision=decision, flagged=flagged, scores=scores, latency_ms=0.0
            )

    def close(self) -> None:
        """Nothing to give back."""


def build(config: Config) -> RandomSystem:
    """Return the system."""
    return RandomSystem(seed=config.seed)


def tiny() -> RandomSystem:
    """Return the system: it is tiny as it is."""
    return build(Config())
