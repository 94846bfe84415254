"""The answer for one input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from guard.types.checks import require
from guard.types.judgement import Judgement, SlowPathState
from guard.types.route import Route
from guard.types.video import Coverage, MediaInfo, Pass

Decision: TypeAlias = Literal["allow", "review", "block", "undecided"]


Stage: TypeAlias = Literal["fast", "slow", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of video in which one category stays at or above its threshold."""

    start_seconds: float
    end_seconds: float
    category: str
    peak_seconds: float
    peak_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryScore:
    """What became of one active rule."""

    score: float | None
    """None where no stage scored the rule: it was not judged."""
    flagged: bool
    threshold: float | None
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Score over time, for people to look at; also what a policy preview re-scores without decoding again."""

    moment_seconds: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef:
    """Which policy decided."""

    name: str
    version: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """Why there is no answer."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for one input. Its JSON form (`guard.verdict_json`) is the same in CLI, API, store and webhooks."""

    decision: Decision
    source: str
    sha256: str | None
    """None only where the content could not be read at all."""
    policy: PolicyRef
    rationale: str
    categories: Mapping[str, CategoryScore] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    route: Route | None = None
    slow_path: SlowPathState = "not_needed"
    judgement: Judgement | None = None
    coverage: Coverage | None = None
    """Of the sampled pass, or of one that broke off: the least that was seen."""
    passes: tuple[Pass, ...] = ()
    """Every decode with the detectors that it fed."""
    media: MediaInfo | None = None
    timeline: Timeline | None = None
    degraded: bool = False
    """True where a configured stage could not be asked."""
    versions: Mapping[str, str] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    error: ErrorInfo | None = None
    """Present exactly when `decision` is `undecided`, or when a stage failed and the rest could still decide."""

    def __post_init__(self) -> None:
        silent = self.decision == "undecided" and self.error is None
        require(not silent, "error", "set on an undecided verdict", self.error)
