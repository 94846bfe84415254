"""What is on record: the audit log, and statements of reasons for those who have to publish them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import or_, select, tuple_

from serve.cursors import open_cursor, seal
from serve.depends import Admin, Reader, ServiceDep, problems
from serve.dsa import statement
from serve.request_errors import InvalidRequest
from serve.review.decisions import latest_review, outcome_of
from serve.store.people import AuditEntry, Review
from serve.store.tables import Job, Result

router = APIRouter(prefix="/v1", tags=["records"])
_DSA_PAGE = 100
"""What the Transparency Database takes in one call."""


@router.get("/audit", responses=problems(), summary="Read the audit log")
def audit(
    service: ServiceDep,
    who: Admin,
    subject: Annotated[str | None, Query(max_length=255)] = None,
    action: Annotated[str | None, Query(max_length=64)] = None,
    cursor: Annotated[str | None, Query(max_length=2048)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    """Read the tenant's chain in order. Each entry's `hash` covers the one before: `guard verify-audit` checks it."""
    question = {"list": "audit", "subject": subject, "action": action}
    place = open_cursor(service, who, question, cursor)
    query = select(AuditEntry).where(
        AuditEntry.tenant_id == who.tenant_id, AuditEntry.number > (place[0] if place else 0)
    )
    query = query if subject is None else query.where(AuditEntry.subject == subject)
    query = query if action is None else query.where(AuditEntry.action == action)
    with service.database.read() as session:
        rows = session.scalars(query.order_by(AuditEntry.number).limit(limit + 1)).all()
    data = [
        {
            "number": row.number, "at": row.at, "actor": row.actor, "action": row.action, "subject": row.subject,
            "details": json.loads(row.details), "previous_hash": row.previous_hash, "hash": row.hash,
        }
        for row in rows[:limit]
    ]  # fmt: skip
    more = len(rows) > limit
    return {"data": data, "next_cursor": seal(service, who, question, [rows[limit - 1].number]) if more else None}


@router.get("/exports/dsa", responses=problems(), summary="Export statements of reasons")
def dsa(
    service: ServiceDep,
    who: Reader,
    since: Annotated[datetime | None, Query(description="With its zone.")] = None,
    until: Annotated[datetime | None, Query(description="With its zone.")] = None,
    cursor: Annotated[str | None, Query(max_length=2048)] = None,
) -> dict[str, Any]:
    """Give statements for jobs that are blocked as it stands now, 100 a page, in the form of the EU's database."""
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise InvalidRequest(f"{name}: give the zone, such as 2026-01-31T00:00:00Z.", param=name)
    question = {"list": "dsa", "since": since, "until": until}
    place = open_cursor(service, who, question, cursor)
    query = select(Job).join(Result, Result.job_id == Job.id).where(Job.tenant_id == who.tenant_id)
    decided = select(Review.id).where(Review.job_id == Job.id, Review.tenant_id == who.tenant_id)
    query = query.where(or_(Result.decision == "block", decided.exists()))  # no walk through all that was allowed
    query = query if since is None else query.where(Job.finished_at >= since)
    query = query if until is None else query.where(Job.finished_at < until)
    if place is not None:
        query = query.where(tuple_(Job.finished_at, Job.id) > (datetime.fromisoformat(place[0]), place[1]))
    found: list[dict[str, Any]] = []
    last: Job | None = None
    with service.database.read() as session:
        for job in session.scalars(query.order_by(Job.finished_at, Job.id).execution_options(yield_per=_DSA_PAGE)):
            result, review = session.get_one(Result, job.id), latest_review(session, who.tenant_id, job.id)
            human = outcome_of(session, review)
            if (human or result.decision) != "block":
                continue
            if len(found) == _DSA_PAGE:
                assert last is not None  # noqa: S101 - a page has been filled
                moment = last.finished_at or last.created_at
                return {"statements": found, "next_cursor": seal(service, who, question, [moment.isoformat(), last.id])}
            found.append(statement(job, result, review if human == "block" else None))
            last = job
    return {"statements": found, "next_cursor": None}
