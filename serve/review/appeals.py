"""Objections of uploaders, and what clients say of verdicts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard import taxonomy
from guard.errors import UsageError
from serve.audit import append
from serve.keys import Principal
from serve.outbox import enqueue
from serve.request_errors import Conflict
from serve.review import decisions, queue
from serve.review.overrides import Word
from serve.store.people import Appeal, Feedback, Review, ReviewItem
from serve.store.tables import Job, utc_now

_MAX_TEXT = 4000


def file_appeal(
    session: Session, principal: Principal, job_id: str, *, statement: str, reporter_ref: str | None = None
) -> Appeal:
    """Keep an objection and put the job in the queue again, to be looked at by somebody else.

    Raises:
        NotFound: the tenant has no such job.
        Conflict: the job has not ended, or one objection waits already.
        UsageError: the statement is empty or too long.
    """
    job = decisions.own_job(session, principal, job_id)
    text = _checked(statement, "statement")
    if job.finished_at is None or job.decision is None:
        raise Conflict("There is no decision to appeal against yet.", hint="Wait for the job to end.")
    if session.scalar(select(Appeal.id).where(Appeal.job_id == job.id, Appeal.status == "open")) is not None:
        raise Conflict("An appeal of this job is being looked at already.")
    item = queue.open_item(
        session, tenant_id=job.tenant_id, job_id=job.id, sha256=job.sha256, reason="appeal", risk=0.75
    )
    item.reason = "appeal"  # where it waited already, it now waits for this
    made = Appeal(
        tenant_id=job.tenant_id, job_id=job.id, statement=text, reporter_ref=(reporter_ref or "")[:255] or None,
        item_id=item.id,
    )  # fmt: skip
    session.add(made)
    session.flush()
    append(session, job.tenant_id, actor=principal.key_id, action="appeal.filed", subject=job.id,
           details={"appeal": made.id})  # fmt: skip
    return made


def resolve(session: Session, item: ReviewItem, review: Review, word: Word) -> Appeal | None:
    """End the objection that `item` stands for: accepted where the outcome is another one than before."""
    appeal = session.scalar(select(Appeal).where(Appeal.item_id == item.id, Appeal.status == "open"))
    if appeal is None:
        return None
    before = _outcome_before(session, item, appeal.created_at)
    appeal.status = "rejected" if before == word else "accepted"
    appeal.resolved_at, appeal.resolved_by, appeal.resolution = utc_now(), review.reviewer, review.reason
    job = session.get(Job, item.job_id)
    enqueue(
        session, item.tenant_id, "moderation.appeal.resolved",
        {"job_id": item.job_id, "appeal_id": appeal.id, "status": appeal.status, "outcome": word,
         "reporter_ref": appeal.reporter_ref},
        event_id=f"evt_{appeal.id}_{review.id}"[:80], job_id=item.job_id,
        callback_url=job.callback_url if job else None,
    )  # fmt: skip
    return appeal


def reopen(session: Session, item: ReviewItem) -> None:
    """Let an objection wait again whose decision was taken back."""
    appeal = session.scalar(select(Appeal).where(Appeal.item_id == item.id))
    if appeal is not None:
        appeal.status, appeal.resolved_at, appeal.resolved_by, appeal.resolution = "open", None, None, ""


def give_feedback(
    session: Session, principal: Principal, job_id: str, *, correct: bool, label: str | None = None, note: str = ""
) -> Feedback:
    """Keep what a client says of a verdict. Raises `NotFound`, or `UsageError` for an unknown category."""
    job = decisions.own_job(session, principal, job_id)
    if label is not None and not taxonomy.is_known(label):
        close = taxonomy.suggestion(label)
        raise UsageError(f"There is no category {label!r}." + (f" Did you mean {close!r}?" if close else ""))
    if len(note) > _MAX_TEXT:
        raise UsageError(f"A note has at most {_MAX_TEXT} characters; this one {len(note)}.")
    made = Feedback(tenant_id=job.tenant_id, job_id=job.id, actor=principal.key_id, correct=correct, label=label,
                    note=note.strip())  # fmt: skip
    session.add(made)
    session.flush()
    append(session, job.tenant_id, actor=principal.key_id, action="feedback.given", subject=job.id,
           details={"feedback": made.id, "correct": correct, "label": label})  # fmt: skip
    return made


def appeals_of(session: Session, tenant_id: str, *, status: str | None = None, limit: int = 100) -> list[Appeal]:
    """Return the objections of a tenant, the newest first."""
    query = select(Appeal).where(Appeal.tenant_id == tenant_id)
    if status is not None:
        query = query.where(Appeal.status == status)
    return list(session.scalars(query.order_by(Appeal.created_at.desc(), Appeal.id).limit(limit)))


def _outcome_before(session: Session, item: ReviewItem, moment: datetime) -> str | None:
    before = decisions.latest_review(session, item.tenant_id, item.job_id, before=moment)
    word = decisions.outcome_of(session, before)
    if word is not None:
        return word
    job = session.get(Job, item.job_id)
    return job.decision if job is not None else None


def _checked(text: str, name: str) -> str:
    if not text.strip() or len(text) > _MAX_TEXT:
        raise UsageError(f"The {name} of an appeal has 1 to {_MAX_TEXT} characters; this one {len(text.strip())}.")
    return text.strip()
