"""Decide, from calibrated scores alone, whether the fast path may answer.

The router never decides what a video is; it decides whether screening may. Three outcomes are settled: a *blocking*
rule is surely violated (whatever the other rules say), every active rule is settled, or nothing is active. All else
goes to the slow path, and the reason says what was missing.

Confidence (`Route.confidence`, in [0, 1]): of one rule, `evidence.certainty` of its deciding score, and 0 where nobody
scored it, detectors contradict each other, or it looks clear but too little of the video was seen. Of the video: the
highest over violated blocking rules if there are any, otherwise the lowest over all active rules. A fast route has
therefore at least 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fast_path.evidence import CLEARED_BY, SHIPPED, RuleEvidence, Weigher, columns
from guard.errors import InvalidConfig
from guard.interfaces import Router
from guard.types import Coverage, Finding, Policy, Route, RouteReason, Scores, Thresholds

_UNSETTLED: tuple[tuple[Finding, RouteReason], ...] = (
    (Finding.UNCOVERED, RouteReason.UNCOVERED_RULE),
    (Finding.DISAGREEMENT, RouteReason.DISAGREEMENT),
    (Finding.UNCERTAIN, RouteReason.UNCERTAIN),
)
"""Findings that need the slow path, the most telling first: the first that occurs names the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the router."""

    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    """Calibrated thresholds by category, for calibrated scores. A rule's own come before them, the default ones after;
    raw scores are held against the default ones."""
    cleared_by: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(CLEARED_BY))
    """Rule category to the columns whose joint silence clears it though none is of that very category."""
    detector_margin: float = 0.5
    """Two detectors on one category, one clear and the other not, disagree when further apart than this; (0, 1]."""
    moment_margin: float = 0.8
    """A clear video with a moment this far above its score is looked at again, and so is one with a moment that
    reaches `block_at`; (0, 1]."""
    max_gap_seconds: float = 10.0
    """A video with a longer unseen stretch is not accepted as clear; above 0."""
    widened: Callable[[Policy], frozenset[str]] = lambda policy: frozenset()
    """Returns the rules whose words say more than the shipped weights were trained on: silence of these weights does
    not clear them, and a high score violates them all the same."""
    shipped: frozenset[str] = SHIPPED
    """Names of the detectors that run the shipped weights. One that was trained on labels of your own is not among
    them: what your words mean is what you labelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRouter:
    """`guard.interfaces.Router` over scores."""

    config: Config

    def route(self, scores: Sequence[Scores], policy: Policy, coverage: Coverage) -> Route:
        """Return the route of one video; pure, and independent of the order of `scores` and of the rules."""
        return route(scores, policy, coverage, self.config)


def build(config: Config) -> Router:
    """Return a router. Raises `InvalidConfig` for a setting out of range."""
    for name in ("detector_margin", "moment_margin"):
        value = getattr(config, name)
        if not 0.0 < value <= 1.0:
            raise InvalidConfig(f"{name} must be above 0 and at most 1; got {value!r}.")
    if not config.max_gap_seconds > 0.0:
        raise InvalidConfig(f"max_gap_seconds must be above 0; got {config.max_gap_seconds!r}.")
    return ScoreRouter(config=config)


def route(scores: Sequence[Scores], policy: Policy, coverage: Coverage, config: Config) -> Route:
    """Return the route of one video: see the module's description."""
    weigher = Weigher(
        policy=policy,
        found=columns(scores),
        calibrated=config.thresholds,
        cleared_by=config.cleared_by,
        detector_margin=config.detector_margin,
        moment_margin=config.moment_margin,
        widened=config.widened(policy),
        shipped=config.shipped,
    )
    evidence = [weigher.weigh(rule) for rule in policy.active()]
    if not evidence:
        return Route(path="fast", reason=RouteReason.NO_ACTIVE_RULES, confidence=1.0)
    seen = well_covered(coverage, config.max_gap_seconds)
    evidence = evidence if seen else [_unseen(item) for item in evidence]
    violated = [item for item in evidence if item.finding is Finding.VIOLATION]
    blocking = [item for item in violated if item.rule.state == "block"]
    unsettled = [item for item in evidence if _needs_slow(item, seen)]
    if unsettled and not blocking:
        return _result("slow", _reason(unsettled, seen), min(item.confidence for item in evidence), evidence, unsettled)
    reason = RouteReason.CONFIDENT_VIOLATION if violated else RouteReason.CONFIDENT_CLEAR
    confidence = max((i.confidence for i in blocking), default=min(item.confidence for item in evidence))
    return _result("fast", reason, confidence, evidence, unsettled)


def well_covered(coverage: Coverage, max_gap_seconds: float) -> bool:
    """Whether silence means anything: the decode was complete and no unseen stretch is too long."""
    return coverage.complete and coverage.frames_scored > 0 and coverage.largest_gap_seconds <= max_gap_seconds


def _unseen(item: RuleEvidence) -> RuleEvidence:
    """A clear finding on a video that was hardly seen is worth nothing; a violation that was seen stays one."""
    return replace(item, confidence=0.0) if item.finding is Finding.CLEAR else item


def _needs_slow(item: RuleEvidence, seen: bool) -> bool:
    return item.finding is not Finding.VIOLATION and not (item.finding is Finding.CLEAR and seen)


def _reason(unsettled: Sequence[RuleEvidence], seen: bool) -> RouteReason:
    if not seen:
        return RouteReason.POOR_COVERAGE  # holds for every rule, and no answer on the same frames mends it
    findings = {item.finding for item in unsettled}
    return next(reason for finding, reason in _UNSETTLED if finding in findings)


def _result(
    path: Literal["fast", "slow"],
    reason: RouteReason,
    confidence: float,
    evidence: Sequence[RuleEvidence],
    unsettled: Sequence[RuleEvidence],
) -> Route:
    return Route(
        path=path,
        reason=reason,
        confidence=confidence,
        thresholds={item.rule.category: item.thresholds for item in evidence},
        uncertain=tuple(item.rule.category for item in unsettled),
        findings=tuple(item.summary() for item in evidence),
    )
