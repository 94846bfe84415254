"""What the slow path answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

SlowPathState: TypeAlias = Literal["not_needed", "answered", "failed", "not_configured"]
"""What came of the slow path: the screen sufficed; it answered; it should have; there is none, and one was needed."""
Violated: TypeAlias = Literal["yes", "no", "unsure"]


JudgementStatus: TypeAlias = Literal["ok", "partial", "parse_error", "generation_error", "video_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Something the slow path says it saw."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCheck:
    """The slow path's finding for one rule."""

    rule: str
    violated: Violated
    evidence_seconds: tuple[float, ...] = ()
    why: str = ""
    confidence: float | None = None
    """In [0, 1], from token log-probabilities of the decision, or None where the engine gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A parsed answer of the slow path, or the typed absence of one."""

    status: JudgementStatus
    engine: str
    observations: tuple[Observation, ...] = ()
    checks: tuple[RuleCheck, ...] = ()
    counter_evidence: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    severity: int = 0
    """0 none, 1 mild, 2 serious, 3 extreme."""
    span_seconds: tuple[float, float] | None = None
    """First and last moment of what was found violated, or None where nothing was or no times were asked for."""
    confidence: float | None = None
    """In [0, 1], of the least certain check; never the model's own words."""
    reason: str = ""
    """One sentence for the uploader."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_hash: str = ""
    passes: int = 1
    """How many independent passes agreed on `checks`."""
    error_code: str | None = None
    """Set where `status` is not `ok`."""
