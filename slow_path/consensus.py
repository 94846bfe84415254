"""Several passes over one video to one judgement. Pure.

A pass that failed has no vote. A rule keeps a label only where a strict majority of the votes has it; otherwise it is
unsure, which settles nothing. `passes` of the result is the smallest number of agreeing passes over all settled rules,
since `guard.verdict` lets two agreeing passes clear a high screening score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from guard.types import Judgement, RuleCheck, Violated

_OPPOSITE: Mapping[Violated, tuple[Violated, ...]] = {"yes": ("no",), "no": ("yes",), "unsure": ("yes", "no")}


def merge(passes: Sequence[Judgement]) -> Judgement:
    """Return what several independent passes say together.

    With no usable pass it is the first failure, so that its code is kept. Texts, observations and severity come from
    the likeliest-looking pass: the first whose labels are those of the majority, else the first usable one.
    """
    if not passes:
        raise ValueError("merge needs at least one pass")
    votes = [judgement for judgement in passes if judgement.status == "ok"]
    if not votes:
        return _with_tokens(passes[0], passes)
    rules = [check.rule for check in votes[0].checks]
    merged = [_merge_rule(rule, votes) for rule in rules]
    checks = tuple(check for check, _ in merged)
    labels = {check.rule: check.violated for check in checks}
    agreed = [v for v in votes if {c.rule: c.violated for c in v.checks} == labels]
    lead = (agreed or votes)[0]
    settled = [count for check, count in merged if check.violated != "unsure"]
    sure = [check.confidence for check in checks if check.confidence is not None]
    violated = tuple(rule for rule in rules if labels[rule] == "yes")
    merged_judgement = replace(
        lead,
        checks=checks,
        categories=violated,
        severity=max((v.severity for v in votes if set(v.categories) & set(violated)), default=0) if violated else 0,
        span_seconds=_span([v for v in votes if set(v.categories) & set(violated)]),
        confidence=min(sure) if len(sure) == len(checks) else None,
        reason=lead.reason if agreed else "Several looks at the video did not agree.",
        passes=min(settled, default=1),
    )
    return _with_tokens(merged_judgement, passes)


def below_floor_unsure(judgement: Judgement, floor: float) -> Judgement:
    """Return `judgement` with every label below `floor` made unsure: it settles its rule in neither direction.

    A label of unknown confidence stays: where the server tells none, agreement of passes stands in for it.
    """
    weak = {c.rule for c in judgement.checks if c.confidence is not None and c.confidence < floor}
    if not weak:
        return judgement
    checks = tuple(replace(c, violated="unsure") if c.rule in weak else c for c in judgement.checks)
    categories = tuple(rule for rule in judgement.categories if rule not in weak)
    return replace(
        judgement,
        checks=checks,
        categories=categories,
        severity=judgement.severity if categories else 0,
        span_seconds=judgement.span_seconds if categories else None,
    )


def with_cost_of(judgement: Judgement, others: Sequence[Judgement]) -> Judgement:
    """Return `judgement` with the tokens of the abandoned `others` added: they were paid for as well."""
    return _with_tokens(judgement, [judgement, *others])


def _with_tokens(judgement: Judgement, passes: Sequence[Judgement]) -> Judgement:
    """Return `judgement` with the tokens of all `passes`."""
    return replace(
        judgement,
        prompt_tokens=sum(p.prompt_tokens for p in passes),
        completion_tokens=sum(p.completion_tokens for p in passes),
    )


def _span(votes: Sequence[Judgement]) -> tuple[float, float] | None:
    """Return the stretch that holds the spans of all `votes`: a person who looks there misses none of them."""
    spans = [vote.span_seconds for vote in votes if vote.span_seconds is not None]
    return (min(start for start, _ in spans), max(end for _, end in spans)) if spans else None


def _merge_rule(rule: str, votes: Sequence[Judgement]) -> tuple[RuleCheck, int]:
    checks = [check for vote in votes for check in vote.checks if check.rule == rule]
    label, count = Counter(check.violated for check in checks).most_common(1)[0]
    if 2 * count <= len(votes):
        label = "unsure"
    agreeing = [check for check in checks if check.violated == label]
    lead = max(agreeing or checks, key=lambda check: check.confidence or 0.0)
    evidence = tuple(sorted({t for check in agreeing for t in check.evidence_seconds}))
    confidence = _confidence(label, checks)
    return replace(lead, violated=label, evidence_seconds=evidence, confidence=confidence), len(agreeing)


def _confidence(label: Violated, checks: Sequence[RuleCheck]) -> float | None:
    """Return the mean probability of `label` over the votes; a vote for the opposite gives it what that one left.

    Votes yes 0.9, yes 0.8, no 0.7 give yes (0.9 + 0.8 + 0.3) / 3 = 0.67, below the floor that settles a rule: looks
    that contradict each other leave it to a person. A vote for unsure abstains: yes 0.9, yes 0.8, unsure 0.9 give 0.85.
    """
    known = [(c.violated, c.confidence) for c in checks if c.violated in (label, *_OPPOSITE.get(label, ()))]
    values = [p if given == label else 1.0 - p for given, p in known if p is not None]
    return sum(values) / len(values) if values and len(values) == len(known) else None
