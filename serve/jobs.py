"""Jobs in the database: taken in once, leased to one worker at a time, ended once. Functions of a session.

What makes each effect happen once: a job is ended by one UPDATE that asks for the lease, in the transaction that also
writes the result, the events and the place in the review queue. A worker that lost its lease changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from guard.errors import Capacity, RateLimited
from serve.audit import append
from serve.request_errors import Conflict, Gone, NotFound
from serve.settings import ServeSettings
from serve.store.people import ReviewItem
from serve.store.tables import Evidence, Job, Result, Tenant, Tombstone, Usage, utc_now

ENDED = ("succeeded", "failed", "canceled")
_BACKOFF_SECONDS = (5, 30, 120, 600)


def counts(session: Session) -> dict[str, int]:
    """Return the number of unfinished jobs by status."""
    query = select(Job.status, func.count()).where(Job.status.in_(("queued", "running"))).group_by(Job.status)
    return {"queued": 0, "running": 0} | dict(session.execute(query).all())


def require_room(session: Session, tenant_id: str, serve: ServeSettings) -> None:
    """Raise unless one more job may wait.

    Raises:
        RateLimited: the tenant has as many as it may, or has used up its day.
        Capacity: there are as many as there may be.
    """
    waiting = select(func.count()).select_from(Job).where(Job.status == "queued")
    own = session.scalar(waiting.where(Job.tenant_id == tenant_id)) or 0
    if own >= serve.tenant_queued:
        raise RateLimited(f"{own} jobs of yours wait already; at most {serve.tenant_queued} may.")
    if (session.scalar(waiting) or 0) >= serve.max_queued:
        raise Capacity(f"{serve.max_queued} jobs wait already; no more are taken at present.")
    bound = serve.tenant_media_seconds_per_day
    used = session.get(Usage, (tenant_id, _day(utc_now())))
    if bound and used is not None and used.media_seconds >= bound:
        raise RateLimited(
            f"The {bound:g} s of video that may be judged per day are used up.", hint="Try again tomorrow."
        )


def own_job(session: Session, tenant_id: str, job_id: str) -> Job:
    """Return a job of this tenant.

    Raises:
        NotFound: there is none, or it is another tenant's.
        Gone: it was deleted.
    """
    job = session.get(Job, job_id)
    if job is not None and job.tenant_id == tenant_id:
        return job
    grave = session.get(Tombstone, job_id)
    if grave is not None and grave.tenant_id == tenant_id:
        raise Gone(f"The job {job_id!r} was deleted.")
    raise NotFound(f"There is no job {job_id[:60]!r}.")


def claim(session: Session, owner: str, serve: ServeSettings, now: datetime) -> Job | None:
    """Lease the next job to `owner`, or return None where nothing may run now.

    Higher priority first; then whose tenant has fewer running, so that a flood of one does not hold up another; then
    the oldest.
    """
    job = session.scalar(_next(serve, now))
    if job is None:
        return None
    job.status, job.stage = "running", "screen"
    job.lease_owner, job.lease_until = owner, now + timedelta(seconds=serve.lease_seconds)
    job.attempts += 1
    job.started_at = job.started_at or now
    session.flush()
    return job


def _next(serve: ServeSettings, now: datetime) -> Select[Job]:
    running = aliased(Job)
    busy = (
        select(func.count())
        .select_from(running)
        .where(running.tenant_id == Job.tenant_id, running.status == "running")
        .correlate(Job)
        .scalar_subquery()
    )
    due = or_(Job.not_before.is_(None), Job.not_before <= now)
    return (
        select(Job)
        .where(Job.status == "queued", due, busy < serve.tenant_running)
        .order_by(Job.priority.desc(), busy, Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def heartbeat(session: Session, owner: str, serve: ServeSettings, now: datetime) -> dict[str, bool]:
    """Renew every lease of `owner`; return the jobs that it still holds, and whether each is to be cancelled."""
    held = and_(Job.lease_owner == owner, Job.status == "running")
    session.execute(update(Job).where(held).values(lease_until=now + timedelta(seconds=serve.lease_seconds)))
    return dict(session.execute(select(Job.id, Job.cancel_requested).where(held)).all())


def release(session: Session, owner: str, job_ids: Iterable[str] | None = None) -> int:
    """Put the jobs of `owner` back in the queue, as if they had not been begun: for a worker that shuts down."""
    held = and_(Job.lease_owner == owner, Job.status == "running")
    if job_ids is not None:
        held = and_(held, Job.id.in_(list(job_ids)))
    values = {"status": "queued", "stage": "queued", "lease_owner": None, "lease_until": None}
    done = session.execute(update(Job).where(held).values(**values, attempts=Job.attempts - 1))
    return int(done.rowcount)  # type: ignore[attr-defined]


def postpone(session: Session, job_id: str, owner: str, now: datetime) -> bool:
    """Put a job back for a later try; False where the lease is gone, or nobody wants it any more."""
    job = _held(session, job_id, owner)
    if job is None or job.cancel_requested:
        return False
    delay = _BACKOFF_SECONDS[min(job.attempts, len(_BACKOFF_SECONDS)) - 1]
    job.status, job.stage, job.lease_owner, job.lease_until = "queued", "queued", None, None
    job.not_before = now + timedelta(seconds=delay)
    return True


def reap(session: Session, owner: str, serve: ServeSettings, now: datetime) -> list[str]:
    """Put the jobs whose lease ran out back in the queue, or end those that were cancelled.

    Those that have had all their attempts are leased to `owner`, who is to end them; their ids are returned.
    """
    query = select(Job).where(Job.status == "running", Job.lease_until < now).with_for_update(skip_locked=True)
    lost = []
    for job in session.scalars(query):
        if job.cancel_requested:
            job.status, job.stage, job.finished_at, job.purge_at = "canceled", "done", now, now
            job.lease_owner = job.lease_until = None
        elif job.attempts >= serve.max_attempts:
            job.lease_owner, job.lease_until = owner, now + timedelta(seconds=serve.lease_seconds)
            lost.append(job.id)
        else:
            job.status, job.stage, job.lease_owner, job.lease_until = "queued", "queued", None, None
    session.flush()
    return lost


def end(session: Session, job_id: str, owner: str | None, *, status: str, now: datetime) -> Job | None:
    """Mark a job as ended, if `owner` still holds it (None: if nobody does); else return None and change nothing."""
    job = _held(session, job_id, owner)
    if job is None:
        return None
    job.status, job.stage, job.finished_at = status, "done", now
    job.lease_owner = job.lease_until = None
    return job


def cancel(session: Session, job: Job, now: datetime) -> bool:
    """Ask for the end of a job; True where it ended at once. A running one ends when its worker next looks.

    Raises:
        Conflict: it has ended already.
    """
    locked = session.get_one(Job, job.id, with_for_update=True, populate_existing=True)
    if locked.status in ENDED:
        raise Conflict(f"The job has ended already, as {locked.status!r}.")
    locked.cancel_requested = True
    if locked.status == "queued":
        locked.status, locked.stage, locked.finished_at, locked.purge_at = "canceled", "done", now, now
        return True
    return False


def bury(session: Session, job: Job, *, actor: str, reason: str, now: datetime) -> list[str]:
    """Delete a job, its result and its evidence, and leave a tombstone. Returns the content to delete.

    Raises:
        Conflict: it is running, or under a legal hold.
        Gone: somebody else has just deleted it.
    """
    # Looked at under its lock: a hold, or a worker, may have come since it was read.
    there = session.get(Job, job.id, with_for_update=True, populate_existing=True)
    if there is None:
        raise Gone(f"The job {job.id!r} was deleted.")
    job = there
    if job.status == "running":
        raise Conflict("The job is running; cancel it first.")
    if job.hold:
        raise Conflict("The job is under a legal hold.")
    blobs = list(session.scalars(select(Evidence.blob).where(Evidence.job_id == job.id)))
    blobs += [job.blob] if job.blob else []
    session.add(
        Tombstone(
            job_id=job.id, tenant_id=job.tenant_id, sha256=job.sha256, decision=job.decision, deleted_at=now,
            deleted_by=actor, reason=reason,
        )
    )  # fmt: skip
    for table in (Evidence, ReviewItem, Result):
        for row in session.scalars(select(table).where(table.job_id == job.id)):
            session.delete(row)
    append(session, job.tenant_id, actor=actor, action="job.deleted", subject=job.id, details={"reason": reason})
    session.flush()
    session.delete(job)
    return blobs


def use(session: Session, tenant_id: str, now: datetime, amounts: Mapping[str, float]) -> None:
    """Add to what a tenant has used today."""
    day = _day(now)
    if session.get(Usage, (tenant_id, day), with_for_update=True) is None:
        session.execute(_insert_usage(session, tenant_id, day))
    values: dict[str, Any] = {name: getattr(Usage, name) + amount for name, amount in amounts.items()}
    session.execute(update(Usage).where(Usage.tenant_id == tenant_id, Usage.day == day).values(**values))


def _insert_usage(session: Session, tenant_id: str, day: str) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = session.get_bind().dialect.name
    insert = postgresql.insert(Usage) if dialect == "postgresql" else sqlite.insert(Usage)
    row = {"tenant_id": tenant_id, "day": day, "jobs": 0, "media_seconds": 0.0, "bytes_in": 0, "vlm_tokens": 0}
    return insert.values(**row).on_conflict_do_nothing()


def tenant_of(session: Session, tenant_id: str) -> Tenant:
    """Return a tenant that is known to be there."""
    return session.get_one(Tenant, tenant_id)


def _held(session: Session, job_id: str, owner: str | None) -> Job | None:
    lease = Job.lease_owner.is_(None) if owner is None else Job.lease_owner == owner
    query = select(Job).where(Job.id == job_id, Job.status == "running", lease).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
