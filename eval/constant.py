"""A system that does not look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eval.types import Kind, Prediction, Sample
from guard.types import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantSystem:
    """Gives every sample the same answer."""

    name: str
    flag: bool

    @property
    def kinds(self) -> frozenset[Kind]:
        """Anything: it does not look."""
        return frozenset({"video", "text"})

    @property
    def signature(self) -> Mapping[str, Any]:
        """The answer."""
        return {"flag": self.flag}

    def predict(self, samples: Iterable[Sample], policies: Mapping[str, Policy]) -> Iterator[Prediction]:
        """Yield the answer for each sample."""
        for sample in samples:
            rules = [rule.category for rule in policies[sample.policy].active()]
            yield Prediction(
                id=sample.id,
                status="ok",
                decision="block" if self.flag else "allow",
                flagged=tuple(rules) if self.flag else (),
                scores=dict.fromkeys(rules, float(self.flag)),
                latency_ms=0.0,
            )

    def close(self) -> None:
        """Nothing to give back."""
