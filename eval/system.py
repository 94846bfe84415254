"""What is measured: anything that answers samples. A part is a file in `eval/systems`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from eval.types import Kind, Prediction, Sample
from guard.types import Policy


@runtime_checkable
class System(Protocol):
    """Answers samples under policies. It never sees what is true of them."""

    @property
    def name(self) -> str:
        """Registry key, with the model where there is one."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it can look at."""
        ...

    @property
    def signature(self) -> Mapping[str, Any]:
        """Everything about it that could change an answer, as JSON values, without credentials."""
        ...

    def predict(self, samples: Iterable[Sample], policies: Mapping[str, Policy]) -> Iterator[Prediction]:
        """Yield one prediction for each sample, in any order. A failure is a prediction with a code, never a raise,
        unless the system as a whole is down."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
