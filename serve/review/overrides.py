"""A person's word on a content, which the next identical input gets at once, whatever the models say of it.

Identical means the same SHA-256. Anything less is for the models: an example that a second person confirmed teaches
them by way of the policy (see `serve.review.examples`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard import taxonomy
from guard.types import CategoryScore, Policy, Verdict
from serve.store.people import Override
from serve.store.tables import utc_now

Word = Literal["allow", "block"]


def active_override(session: Session, tenant_id: str, sha256: str | None) -> Override | None:
    """Return the newest word on this content that stands."""
    if sha256 is None:
        return None
    query = select(Override).where(
        Override.tenant_id == tenant_id, Override.sha256 == sha256, Override.status == "active"
    )
    return session.scalar(query.order_by(Override.created_at.desc(), Override.id.desc()).limit(1))


def set_override(
    session: Session, *, tenant_id: str, sha256: str, decision: Word, categories: Sequence[str], rationale: str,
    by: str, job_id: str | None = None, review_id: str | None = None, rule: str | None = None, layer: str | None = None,
) -> Override:  # fmt: skip
    """Keep a word on a content; one that stood before is withdrawn."""
    standing, now = active_override(session, tenant_id, sha256), utc_now()
    if standing is not None:
        withdraw(standing, now)
    made = Override(
        tenant_id=tenant_id, sha256=sha256, job_id=job_id, review_id=review_id, decision=decision,
        categories=list(categories), rule=rule, layer=layer, rationale=rationale, created_by=by,
        created_at=now, exemplar_status="pending" if rule else "none",
    )  # fmt: skip
    session.add(made)
    session.flush()
    return made


def withdraw(override: Override, now: datetime | None = None) -> None:
    """Take a word back; what it taught a policy stays until that edit is reverted."""
    override.status, override.withdrawn_at = "withdrawn", now or utc_now()
    if override.exemplar_status == "pending":
        override.exemplar_status = "rejected"


def restore_before(session: Session, override: Override) -> Override | None:
    """Let the word that `override` replaced, at the very moment it was made, stand again; and return it."""
    query = select(Override).where(
        Override.tenant_id == override.tenant_id,
        Override.sha256 == override.sha256,
        Override.withdrawn_at == override.created_at,
    )
    before = session.scalar(query.limit(1))
    if before is not None:
        before.status, before.withdrawn_at = "active", None
    return before


def apply_override(verdict: Verdict, override: Override, policy: Policy) -> Verdict:
    """Return the verdict as the person decided. Pure; the scores stay as the models gave them.

    A `block` names the categories that the person named; those without a rule of their own are shown all the same.
    """
    word = "blocked" if override.decision == "block" else "allowed"
    rationale = f"A reviewer {word} this very content before ({override.id})."
    named = set(override.categories) if override.decision == "block" else set()
    categories = {name: replace(score, flagged=name in named) for name, score in verdict.categories.items()}
    for name in sorted(named - set(categories)):
        under = [rule for rule in categories if taxonomy.covers(rule, name)]
        for rule in under:
            categories[rule] = replace(categories[rule], flagged=True)
        if not under:
            categories[name] = CategoryScore(score=None, flagged=True, threshold=None, stage="none")
    return replace(
        verdict,
        decision="block" if override.decision == "block" else "allow",
        rationale=rationale,
        categories=categories,
    )
