"""What is known of one video when it is decided, and what became of each rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guard.types import (
    Coverage,
    ErrorInfo,
    Judgement,
    Pass,
    Policy,
    Route,
    Rule,
    Scores,
    SlowPathState,
    Stage,
    Thresholds,
    Video,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one active rule."""

    rule: Rule
    score: float | None
    columns: tuple[str, ...]
    """Scored categories that speak of the rule."""
    thresholds: Thresholds
    outcome: str
    """`violates`, `clear` or `unsettled`."""
    stage: Stage
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that is known of one video when it is decided."""

    video: Video
    policy: Policy
    scores: Sequence[Scores]
    route: Route
    coverage: Coverage
    judgement: Judgement | None = None
    slow_error: ErrorInfo | None = None
    """Why a slow path that should have answered did not; None where it answered or was not asked."""
    errors: Sequence[ErrorInfo] = ()
    """Detectors that failed on this video."""
    passes: Sequence[Pass] = ()
    """The decodes, where there were several or detectors should be named; `coverage` is the one that decides."""

    @property
    def slow_path(self) -> SlowPathState:
        """What came of the slow path."""
        if self.slow_error is not None:
            return "failed"
        if self.judgement is not None:
            return "answered"
        return "not_needed" if self.route.path == "fast" else "not_configured"
