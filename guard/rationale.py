"""Why a video was decided as it was, in a few sentences with numbers and times that a person can check. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from guard import taxonomy
from guard.evidence import Evidence, Finding
from guard.types import Decision, ErrorInfo, RouteReason, Rule, Segment, SlowPathState


def rationale(
    decision: Decision,
    findings: Sequence[Finding],
    segments: Sequence[Segment],
    evidence: Evidence,
    error: ErrorInfo | None,
) -> str:
    """Return the reason: what is violated first, then what is open by falling score, then what nobody judged."""
    if not findings:
        sentences = [f"The policy {evidence.policy.name!r} has no active rule."]
    else:
        ranked = sorted(findings, key=_rank)
        sentences = [_sentence(f, segments, evidence) for f in ranked if _is_told_alone(f, evidence)]
        sentences += _together(
            [f for f in ranked if f.outcome == "unsettled" and not _is_told_alone(f, evidence)], evidence
        )
        sentences += [_all_clear(findings)] if decision == "allow" else []
    unsettled = any(f.outcome == "unsettled" for f in findings)
    if decision == "review" and unsettled and evidence.slow_path == "not_configured" and error is None:
        sentences.append("No slow path is configured to settle it (slow_path_unavailable).")
    if error is not None:
        sentences.append(f"{error.message} ({error.code})")
    return " ".join(sentences)


def _rank(finding: Finding) -> tuple[bool, bool, float]:
    """Violated rules before open ones, blocking rules before flagging ones, high scores before low ones."""
    return finding.outcome != "violates", finding.rule.state != "block", -(finding.score or 0.0)


def _all_clear(findings: Sequence[Finding]) -> str:
    scored = [f for f in findings if f.score is not None]
    highest = max(scored, key=lambda f: f.score or 0.0, default=None)
    top = f" Highest: {_label(highest.rule)} {highest.score:.2f}." if highest else ""
    return f"All {len(findings)} active rules were judged and found clear.{top}"


def _is_told_alone(finding: Finding, evidence: Evidence) -> bool:
    """Whether a rule gets a sentence of its own: it is violated, or open with a score that says something."""
    if finding.outcome == "violates":
        return True
    telling = finding.score is not None and finding.score >= finding.thresholds.clear_below
    return finding.outcome == "unsettled" and telling and evidence.slow_path != "not_needed"


_OPEN: dict[SlowPathState, str] = {
    "not_needed": "Not judged, since the decision stands without",
    "not_configured": "Not judged, since no configured stage can judge",
    "failed": "Not judged, since only the slow path could and it failed",
    "answered": "Not settled by the slow path, which was not sure of",
}


def _together(findings: Sequence[Finding], evidence: Evidence) -> list[str]:
    """Name the open rules that have little to say in a sentence or two: a policy may have a dozen of them."""
    low = [f for f in findings if f.score is not None and evidence.slow_path != "not_needed"]
    others = [_label(f.rule) for f in findings if f not in low]
    sentences = []
    if low:
        seen = evidence.route.reason is not RouteReason.POOR_COVERAGE
        why = "which alone does not clear it here" if seen else "but too little of the video was seen"
        sentences.append(f"Scored low, {why}: {', '.join(f'{_label(f.rule)} {f.score:.2f}' for f in low)}.")
    if others:
        sentences.append(f"{_OPEN[evidence.slow_path]}: {', '.join(others)}.")
    return sentences


def _sentence(finding: Finding, segments: Sequence[Segment], evidence: Evidence) -> str:
    label, score = _label(finding.rule), finding.score
    if finding.stage == "slow" or score is None:
        return f"{label}: violated, according to the slow path. {finding.why}".strip()
    peak = max(
        (s for s in segments if s.category in finding.columns),
        key=lambda s: s.peak_score,
        default=None,
    )
    where = f" at {peak.peak_seconds:.1f} s" if peak else ""
    low, high = finding.thresholds.clear_below, finding.thresholds.block_at
    if finding.outcome == "violates":
        return f"{label}: score {score:.2f}{where} is at or above {high:.2f}."
    unsure = " The slow path was not sure." if evidence.slow_path == "answered" else ""
    return f"{label}: score {score:.2f}{where} lies between {low:.2f} and {high:.2f}.{unsure}"


def _label(rule: Rule) -> str:
    known = taxonomy.categories().get(rule.category)
    return rule.name or (known.name if known else rule.category)
