"""What the page shows of one item: read once, in one transaction, as plain values that a template only lays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard import taxonomy
from guard.types import Policy, Rule
from policies.patch import claimant
from serve.blobs import Blobs
from serve.review import alike, decisions, drawing, examples
from serve.review.rendering import age
from serve.store.people import Appeal, Override, Review, ReviewItem
from serve.store.tables import Evidence, Job, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleLine:
    """One rule of the policy beside what was found of it."""

    category: str
    name: str
    state: str
    score: float | None
    clear_below: float | None
    block_at: float | None
    flagged: bool
    stage: str
    at_stake: bool
    """Whether this rule is why a person is asked."""
    rule: Rule | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything about one item."""

    item: ReviewItem | None
    job: Job
    result: Result | None
    verdict: Mapping[str, Any] | None
    policy: Policy | None
    names: Mapping[str, str]
    rules: Sequence[RuleLine]
    timeline: drawing.Timeline
    evidence: Sequence[Evidence]
    history: Sequence[tuple[Review, Job]]
    alike: Sequence[alike.Alike]
    override: Override | None
    appeal: Appeal | None
    people: Mapping[str, str]
    playable: bool
    """Whether the content is still there."""

    @property
    def at_stake(self) -> list[RuleLine]:
        """The rules that a person is asked about, with their text."""
        return [line for line in self.rules if line.at_stake]


def page_of(session: Session, job: Job, item: ReviewItem | None, *, policy: Policy | None, blobs: Blobs) -> Page:
    """Read what the page shows of a job."""
    from serve.review.overrides import active_override

    result = session.get(Result, job.id)
    verdict = result.verdict if result is not None else None
    names = names_of(policy, verdict)
    appeal = None
    if item is not None:
        appeal = session.scalar(select(Appeal).where(Appeal.item_id == item.id).order_by(Appeal.created_at.desc()))
    frames = session.scalars(
        select(Evidence).where(Evidence.job_id == job.id).order_by(Evidence.seconds).limit(24)
    ).all()
    return Page(
        item=item, job=job, result=result, verdict=verdict, policy=policy, names=names,
        rules=rule_lines(policy, verdict, names) if verdict is not None else [],
        timeline=drawing.timeline(verdict, names) if verdict is not None else drawing.Timeline(duration_seconds=0.0),
        evidence=frames, history=decisions.history(session, job.tenant_id, job.sha256),
        alike=alike.near(session, blobs, job), override=active_override(session, job.tenant_id, job.sha256),
        appeal=appeal, people=examples.holders(session, job.tenant_id),
        playable=job.blob is not None and blobs.path(job.blob).is_file(),
    )  # fmt: skip


def names_of(policy: Policy | None, verdict: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what people call each category: as the policy names it, else as the taxonomy does."""
    known = {identifier: category.name for identifier, category in taxonomy.categories().items()}
    rules = {c: rule.name for c, rule in policy.rules.items() if rule.name} if policy is not None else {}
    spoken = {c: c.rpartition(".")[2].replace("_", " ").capitalize() for c in (verdict or {}).get("categories", {})}
    return spoken | known | rules


def rule_lines(policy: Policy | None, verdict: Mapping[str, Any], names: Mapping[str, str]) -> list[RuleLine]:
    """Return the active rules with scores and thresholds: those at stake first, then by score. Pure."""
    bounds = (verdict["route"] or {}).get("thresholds") or {}
    uncertain = set((verdict["route"] or {}).get("uncertain") or ())
    lines = []
    for category, score in verdict["categories"].items():
        rule = _rule(policy, category)
        pair = bounds.get(category) or {}
        lines.append(
            RuleLine(
                category=category, name=names.get(category, category), state=rule.state if rule else "–",
                score=score["score"], clear_below=pair.get("clear_below"),
                block_at=pair.get("block_at", score["threshold"]), flagged=score["flagged"], stage=score["stage"],
                at_stake=score["flagged"] or category in uncertain or _between(score, pair, verdict), rule=rule,
            )
        )  # fmt: skip
    return sorted(lines, key=lambda line: (not line.flagged, not line.at_stake, -(line.score or 0.0)))


def _between(score: Mapping[str, Any], pair: Mapping[str, float], verdict: Mapping[str, Any]) -> bool:
    """Whether the screening left a rule open: nobody judged it, or its score lies between the two thresholds."""
    if score["stage"] == "none" or verdict["decision"] not in ("review", "undecided"):
        return bool(score["stage"] == "none")
    low, high = pair.get("clear_below", 1.0), pair.get("block_at", 1.0)
    return score["stage"] == "fast" and score["score"] is not None and low <= score["score"] < high


def _rule(policy: Policy | None, category: str) -> Rule | None:
    held = claimant(category, policy.rules) if policy is not None else None
    return policy.rules[held] if policy is not None and held is not None else None


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago something was."""
    return age(max(0.0, (now - moment).total_seconds()))
