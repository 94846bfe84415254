"""What the screening scores amount to, and where a video goes from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from guard.types.scores import Thresholds


class RouteReason(StrEnum):
    """Why a video was accepted on its screening scores, or was not."""

    CONFIDENT_CLEAR = "confident_clear"
    CONFIDENT_VIOLATION = "confident_violation"
    UNCERTAIN = "uncertain"
    DISAGREEMENT = "disagreement"
    POOR_COVERAGE = "poor_coverage"
    UNCOVERED_RULE = "uncovered_rule"
    NO_ACTIVE_RULES = "no_active_rules"


class Finding(StrEnum):
    """What the screening scores amount to for one rule."""

    CLEAR = "clear"
    VIOLATION = "violation"
    UNCERTAIN = "uncertain"
    DISAGREEMENT = "disagreement"
    UNCOVERED = "uncovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFinding:
    """What the screening scores say of one active rule."""

    category: str
    finding: Finding
    score: float | None
    """Highest score that could violate the rule, or None where nobody scored it."""
    confidence: float
    """In [0, 1]: how far from being undecided."""
    columns: tuple[str, ...] = ()
    """Scored categories that could violate the rule: its own, and those below it that no other rule claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a video goes after screening."""

    path: Literal["fast", "slow"]
    reason: RouteReason
    confidence: float
    """In [0, 1]: how far the least certain active rule is from being undecided; 0 for a rule nobody scored."""
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    """The thresholds used, by category."""
    uncertain: tuple[str, ...] = ()
    """Active categories that the fast path could not settle."""
    findings: tuple[RuleFinding, ...] = ()
    """One for each active rule."""
