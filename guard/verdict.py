"""From scores, route, judgement and policy to a decision. Pure: no clock, no file, no network.

The rules, in the order in which they are asked:

1. A violation of a blocking rule that any stage is sure of is `block`.
2. What nobody could judge is never allowed: a decode that broke off or a failed detector is `undecided`, also where a
   flagging rule is violated; a violated flagging rule, an uncertain or uncovered rule that no slow path settled, and a
   slow path that failed are `review`.
3. The slow path may raise any score to a violation and may clear an uncertain one. It clears a score at or above the
   policy's `block_at` only if two independent passes agree. It clears nothing where too little of the video was seen.
4. Only where every active rule was judged and found clear is the decision `allow`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guard.evidence import Evidence, Finding
from guard.rationale import rationale
from guard.segments import merge_segments, segments_of
from guard.timeline import TIMELINE_MOMENTS, timeline_of
from guard.types import (
    DEFAULT_THRESHOLDS,
    CategoryScore,
    Coverage,
    Decision,
    ErrorInfo,
    Judgement,
    MediaInfo,
    Policy,
    PolicyRef,
    Route,
    RouteReason,
    Rule,
    RuleCheck,
    RuleFinding,
    Scores,
    Segment,
    Stage,
    Verdict,
)
from guard.types import Finding as ScreenFinding

__all__ = [
    "SLOW_CONFIDENCE_FLOOR",
    "TIMELINE_MOMENTS",
    "Evidence",
    "Finding",
    "decide",
    "failed",
    "policy_ref",
    "timeline_of",
]

SLOW_CONFIDENCE_FLOOR = 0.7
"""A check of the slow path below this confidence settles nothing; 0.5 would be a coin toss between two labels."""


def policy_ref(policy: Policy) -> PolicyRef:
    """Return the name, version and hash of `policy`."""
    return PolicyRef(name=policy.name, version=policy.version, hash=policy.hash)


def failed(
    *, source: str, sha256: str | None, policy: Policy, error: ErrorInfo, media: MediaInfo | None = None
) -> Verdict:
    """Return the verdict of an input that could not be judged at all: `undecided`, never `allow`."""
    return Verdict(
        decision="undecided",
        source=source,
        sha256=sha256,
        policy=policy_ref(policy),
        rationale=f"Not judged: {error.message}",
        media=media,
        error=error,
    )


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict of one video that was decoded and screened."""
    findings = tuple(_finding(rule, evidence) for rule in evidence.policy.active())
    decision, error = _decision(findings, evidence)
    segments = _segments(evidence, findings)
    return Verdict(
        decision=decision,
        source=evidence.video.source,
        sha256=evidence.video.sha256,
        policy=policy_ref(evidence.policy),
        rationale=rationale(decision, findings, segments, evidence, error),
        categories={f.rule.category: _category_score(f) for f in findings},
        segments=segments,
        route=evidence.route,
        slow_path=evidence.slow_path,
        judgement=evidence.judgement,
        coverage=evidence.coverage,
        passes=tuple(evidence.passes),
        media=evidence.video.media,
        timeline=timeline_of(evidence.scores),
        degraded=evidence.slow_error is not None or bool(evidence.errors),
        error=error,
    )


def _finding(rule: Rule, evidence: Evidence) -> Finding:
    route = evidence.route
    screened = next((f for f in route.findings if f.category == rule.category), None)
    check = _check_for(rule, evidence.judgement)
    outcome, stage, why = _settle(_screen_outcome(rule, screened, route), check, evidence.judgement)
    if outcome == "clear" and route.reason is RouteReason.POOR_COVERAGE:
        outcome, stage, why = "unsettled", "none", ""  # the slow path saw no more than the screen did
    return Finding(
        rule=rule,
        score=screened.score if screened else None,
        columns=screened.columns if screened else (),
        thresholds=route.thresholds.get(rule.category) or rule.thresholds or DEFAULT_THRESHOLDS,
        outcome=outcome,
        stage=stage,
        why=why,
    )


def _screen_outcome(rule: Rule, screened: RuleFinding | None, route: Route) -> str:
    """What the screen alone settles; a rule that the route has no finding for was judged by nobody."""
    if screened is not None and screened.finding is ScreenFinding.VIOLATION:
        return "violates"
    escalated = route.path == "slow" and (not route.uncertain or rule.category in route.uncertain)
    clear = screened is not None and screened.finding is ScreenFinding.CLEAR
    return "clear" if clear and not escalated else "unsettled"


def _check_for(rule: Rule, judgement: Judgement | None) -> RuleCheck | None:
    if judgement is None or judgement.status != "ok":
        return None
    return next((check for check in judgement.checks if check.rule == rule.category), None)


def _settle(screen: str, check: RuleCheck | None, judgement: Judgement | None) -> tuple[str, Stage, str]:
    """Combine what the screen and the slow path found for one rule; see the rules in the module docstring."""
    if check is None or check.violated == "unsure":
        return screen, ("none" if screen == "unsettled" else "fast"), ""
    sure = check.confidence is None or check.confidence >= SLOW_CONFIDENCE_FLOOR
    if not sure:
        return screen, ("none" if screen == "unsettled" else "fast"), "the slow path was not sure"
    if check.violated == "yes":
        return "violates", "slow", check.why
    if screen == "violates":
        agreed = judgement is not None and judgement.passes >= 2
        return ("clear", "slow", check.why) if agreed else ("violates", "fast", "")
    return "clear", "slow", check.why


def _decision(findings: Sequence[Finding], evidence: Evidence) -> tuple[Decision, ErrorInfo | None]:
    violating = [f for f in findings if f.outcome == "violates"]
    unseen = _unseen(evidence)
    problem = unseen or evidence.slow_error
    if any(f.rule.state == "block" for f in violating):
        return "block", problem
    if unseen is not None:
        return "undecided", unseen
    if problem is not None or any(f.outcome != "clear" for f in findings):
        return "review", problem
    return "allow", None


def _unseen(evidence: Evidence) -> ErrorInfo | None:
    """Return what kept the screen from judging the whole video, the gravest first."""
    if evidence.errors:
        return evidence.errors[0]
    coverage = evidence.coverage
    if not coverage.complete:
        return ErrorInfo(
            code=coverage.problem or "truncated",
            message=_incomplete(coverage),
            hint=_HINTS.get(coverage.problem or "truncated", _HINTS["truncated"]),
        )
    return None


_HINTS: Mapping[str, str] = {
    "truncated": "What was decoded was scored; ask for the whole file, undamaged and not encrypted.",
    "undecodable": "What was decoded was scored; ask for a file that is undamaged and not encrypted.",
    "too_many_streams": "Judge each picture as a file of its own (`ffmpeg -i FILE -map 0:v:1 -c copy second.mkv`).",
    "decode_timeout": "What was decoded was scored; see `guard limits` for the time allowed.",
}
"""What to do about a decode that is not complete, by the code of its problem."""


def _incomplete(coverage: Coverage) -> str:
    declared, decoded = coverage.declared_seconds, coverage.decoded_seconds
    if coverage.problem == "too_many_streams":
        return "The file holds more than one moving picture; only the one that players show first was scored."
    if declared is not None and decoded < declared:
        return f"Only a part of the video could be decoded: {decoded:.2f} s of {declared:.2f} s declared."
    return f"Some of the video could not be decoded; {decoded:.2f} s were reached."


def _category_score(finding: Finding) -> CategoryScore:
    return CategoryScore(
        score=None if finding.score is None else round(finding.score, 6),
        flagged=finding.outcome == "violates",
        threshold=finding.thresholds.block_at,
        stage=finding.stage,
    )


def _segments(evidence: Evidence, findings: Sequence[Finding]) -> tuple[Segment, ...]:
    """Return where the scores are high, for every rule that is not clear."""
    lowest: dict[str, float] = {}
    for finding in findings:
        if finding.outcome != "clear":
            bar = finding.thresholds.block_at if finding.outcome == "violates" else finding.thresholds.clear_below
            lowest |= _bars(finding, bar, evidence.scores)
    duration = evidence.coverage.decoded_seconds
    return merge_segments([segments_of(s, lowest, duration_seconds=duration) for s in evidence.scores])


def _bars(finding: Finding, bar: float, scores: Sequence[Scores]) -> Mapping[str, float]:
    """Return the segment bar by column: no higher than the video's own peak, so a violation always shows somewhere."""
    bars: dict[str, float] = {}
    for s in scores:
        for column, category in enumerate(s.categories):
            if len(s.moment_seconds) and category in finding.columns:
                peak = float(s.per_moment[:, column].max())
                fires = float(s.probability[column]) >= bar
                bars[category] = max(min(bar, peak), 1e-6) if fires else bar
    return bars
