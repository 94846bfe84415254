"""The queue: what waits for a person, in which order, and who has it at the moment.

A claim is a lease. It runs out by itself, so a closed browser keeps nobody from going on; taking one is a single
conditional UPDATE, so two people never get the same item.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, cast, extract, func, or_, select, update
from sqlalchemy.orm import Session

from guard.errors import UsageError
from serve.audit import append
from serve.keys import Principal
from serve.request_errors import Conflict, NotFound
from serve.store.people import Appeal, ReviewItem
from serve.store.tables import Job, Result, utc_now

CLAIM = timedelta(minutes=10)
RISK_PER_DAY = 0.25
"""What a day of waiting is worth: 0.20 that has waited three days goes before 0.90 that has just come."""
EVERYBODYS_LEVEL = 1
"""Items of higher levels came by escalation and are for keys with the scope admin."""
SKIP_REASONS = ("not my language", "too upsetting", "cannot be played", "conflict of interest", "not sure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One line of the queue."""

    item: ReviewItem
    job: Job
    result: Result | None
    held: bool
    """Whether somebody has claimed it at this moment."""


def reason_for(verdict: Mapping[str, Any]) -> str | None:
    """Return why a person should look at a verdict, or None where nobody need. Pure."""
    if verdict["decision"] == "undecided":
        return "undecided"
    if verdict["decision"] != "review":
        return None
    if verdict["degraded"]:
        return "degraded"
    return "flagged" if any(c["flagged"] for c in verdict["categories"].values()) else "uncertain"


def open_item(
    session: Session, *, tenant_id: str, job_id: str, sha256: str | None, reason: str, risk: float, level: int = 1
) -> ReviewItem:
    """Put a job in the queue. One that waits there already stays as it is, so that work done twice asks once."""
    rounds = select(ReviewItem).where(ReviewItem.job_id == job_id).order_by(ReviewItem.round.desc()).limit(1)
    last = session.scalar(rounds)
    if last is not None and last.status == "open":
        return last
    item = ReviewItem(
        tenant_id=tenant_id, job_id=job_id, sha256=sha256, reason=reason, risk=min(1.0, max(0.0, risk)), level=level,
        round=1 if last is None else last.round + 1,
    )  # fmt: skip
    session.add(item)
    session.flush()
    return item


def waiting(
    session: Session,
    principal: Principal,
    now: datetime,
    *,
    limit: int = 50,
    offset: int = 0,
    reason: str | None = None,
) -> list[Waiting]:
    """Return what waits for this person, the most urgent first."""
    query = _open(principal).order_by(_urgency(session).desc(), ReviewItem.id).limit(limit).offset(offset)
    if reason is not None:
        query = query.where(ReviewItem.reason == reason)
    found = []
    for item in session.scalars(query):
        job = session.get(Job, item.job_id)
        if job is not None:
            held = item.claimed_until is not None and item.claimed_until > now
            found.append(Waiting(item=item, job=job, result=session.get(Result, item.job_id), held=held))
    return found


def counts(session: Session, principal: Principal, now: datetime) -> dict[str, Any]:
    """Return how many wait, by reason, how many of them somebody has, and since when the oldest waits."""
    by_reason = select(ReviewItem.reason, func.count()).where(*_mine(principal)).group_by(ReviewItem.reason)
    held = select(func.count()).where(*_mine(principal), ReviewItem.claimed_until > now)
    oldest = session.scalar(select(func.min(ReviewItem.created_at)).where(*_mine(principal)))
    reasons = {row[0]: row[1] for row in session.execute(by_reason)}
    return {
        "waiting": sum(reasons.values()),
        "claimed": session.scalar(held) or 0,
        "by_reason": reasons,
        "oldest_seconds": None if oldest is None else max(0.0, (now - oldest).total_seconds()),
    }


def claim(session: Session, principal: Principal, item_id: str, now: datetime | None = None) -> ReviewItem:
    """Take an item for ten minutes, or have ten minutes more of one's own.

    Raises:
        NotFound: the tenant has no such item, or it is for a higher level.
        Conflict: somebody else has it, it is done, or it is an appeal against one's own decision.
    """
    moment = now or utc_now()
    item = own_item(session, principal, item_id)
    require_somebody_else(session, principal, item)
    mine = ReviewItem.claimed_by == principal.key_id
    free = or_(ReviewItem.claimed_until.is_(None), ReviewItem.claimed_until <= moment, mine)
    token = item.claim_token if item.claimed_by == principal.key_id and item.claim_token else secrets.token_hex(16)
    done = session.execute(
        update(ReviewItem)
        .where(ReviewItem.id == item.id, ReviewItem.status == "open", free)
        .values(claimed_by=principal.key_id, claim_token=token, claimed_until=moment + CLAIM)
        .execution_options(synchronize_session=False)
    )
    if done.rowcount != 1:  # type: ignore[attr-defined]
        session.refresh(item)
        why = "is decided already" if item.status != "open" else "is with somebody else at the moment"
        raise Conflict(f"This item {why}.", hint="Claim the next one.")
    session.refresh(item)
    return item


def claim_next(session: Session, principal: Principal, now: datetime | None = None) -> ReviewItem | None:
    """Take the most urgent item that is free and that this person has not skipped; None where there is none."""
    moment = now or utc_now()
    free = or_(ReviewItem.claimed_until.is_(None), ReviewItem.claimed_until <= moment)
    skipped = cast(ReviewItem.skips, Text).contains(principal.key_id)
    query = _open(principal).where(free, ~skipped).order_by(_urgency(session).desc(), ReviewItem.id).limit(20)
    for item in session.scalars(query.with_for_update(skip_locked=True)).all():
        try:
            return claim(session, principal, item.id, moment)
        except Conflict:
            continue
    return None


def release(session: Session, principal: Principal, item_id: str) -> ReviewItem:
    """Give an item back. Raises `Conflict` where it is somebody else's."""
    item = held_item(session, principal, item_id)
    item.claimed_by = item.claim_token = item.claimed_until = None
    return item


def skip(session: Session, principal: Principal, item_id: str, reason: str) -> ReviewItem:
    """Give an item back for others, with the reason; it is not offered to this person again."""
    if not reason.strip():
        raise UsageError("To skip an item, say why.", hint=f"Such as: {', '.join(SKIP_REASONS)}.")
    item = release(session, principal, item_id)
    item.skips = [*item.skips, {"by": principal.key_id, "at": utc_now().isoformat(), "reason": reason.strip()[:500]}]
    append(session, item.tenant_id, actor=principal.key_id, action="review.skipped", subject=item.job_id,
           details={"item": item.id, "reason": reason.strip()[:200]})  # fmt: skip
    return item


def require_somebody_else(session: Session, principal: Principal, item: ReviewItem) -> None:
    """Raise `Conflict` where the item is an appeal against this person's own decision."""
    if item.reason == "appeal" and _decided_before(session, item) == principal.key_id:
        raise Conflict("An appeal is looked at by somebody other than who decided before.", hint="Take another item.")


def own_item(session: Session, principal: Principal, item_id: str) -> ReviewItem:
    """Return an item that this person may see. Raises `NotFound`, also for what belongs to another tenant."""
    item = session.get(ReviewItem, item_id)
    low = item is not None and (item.level <= EVERYBODYS_LEVEL or principal.may("admin"))
    if item is None or item.tenant_id != principal.tenant_id or not low:
        raise NotFound(f"There is no item {item_id!r} in the queue.")
    return item


def held_item(session: Session, principal: Principal, item_id: str, now: datetime | None = None) -> ReviewItem:
    """Return an item that this person has claimed. Raises `Conflict` where the claim has run out and another has it."""
    item = own_item(session, principal, item_id)
    if item.status != "open":
        raise Conflict("This item is decided already.", hint="Undo the decision first, or claim the next one.")
    if item.claimed_by != principal.key_id:
        raise Conflict("This item is not claimed by you.", hint="Claim it first.")
    return item


def _open(principal: Principal) -> Select[ReviewItem]:
    return select(ReviewItem).where(*_mine(principal))


def _mine(principal: Principal) -> list[ColumnElement[bool]]:
    wanted = [ReviewItem.tenant_id == principal.tenant_id, ReviewItem.status == "open"]
    return wanted if principal.may("admin") else [*wanted, ReviewItem.level <= EVERYBODYS_LEVEL]


def _urgency(session: Session) -> ColumnElement[Any]:
    """Return risk plus what waiting is worth, up to a constant: that of all items grows alike, so `now` is left out."""
    if session.get_bind().dialect.name == "postgresql":
        days: ColumnElement[Any] = extract("epoch", ReviewItem.created_at) / 86400.0
    else:
        days = func.julianday(ReviewItem.created_at)
    return ReviewItem.risk - RISK_PER_DAY * days


def _decided_before(session: Session, item: ReviewItem) -> str | None:
    from serve.review.decisions import latest_review  # the two know each other: an appeal is against a decision

    appeal = session.scalar(select(Appeal).where(Appeal.item_id == item.id))
    before = latest_review(session, item.tenant_id, item.job_id, before=appeal.created_at if appeal else None)
    return None if before is None else before.reviewer
