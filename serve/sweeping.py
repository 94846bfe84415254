"""What is kept no longer than it should be: content, pictures, uploads, keys, and at last the records."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from serve.blobs import Blobs
from serve.jobs import ENDED, bury
from serve.review import sessions
from serve.service import Service
from serve.settings import ServeSettings
from serve.store.people import Delivery, SignIn
from serve.store.tables import Batch, Evidence, IdempotencyKey, Job, ScoreHistory, Upload, utc_now

log = logging.getLogger(__name__)

_AT_ONCE = 200
"""Rows in one transaction: a sweep must not hold up the service."""
_ORPHAN_SECONDS = 86_400.0
"""A file that no row speaks of may be about to get one; after a day it will not."""


def sweep(service: Service, now: datetime | None = None) -> Counter[str]:
    """Delete what is over, and return how much of what. Any number of processes may sweep at once."""
    now = now or utc_now()
    done: Counter[str] = Counter()
    with service.database.write() as session:
        blobs = _contents(session, now, done) + _uploads(session, now, done)
        blobs += _records(session, service.serve, now, done)
        done["idempotency_keys"] += _count(session, delete(IdempotencyKey).where(IdempotencyKey.expires_at <= now))
        # An ended session is kept for a while: the next one takes its preferences from there.
        done["sign_ins"] += _count(session, delete(SignIn).where(SignIn.expires_at <= now - sessions.KEEP))
        old = now - timedelta(seconds=service.serve.record_seconds)
        done["score_history"] += _count(session, delete(ScoreHistory).where(ScoreHistory.at < old))
    for name in blobs:  # after the rows are gone for good: a file without a row is swept later, a row without one lies
        service.blobs.delete(name)
    done["orphans"] += _orphans(service, service.blobs, now)
    return +done


def _contents(session: Session, now: datetime, done: Counter[str]) -> list[str]:
    names: list[str] = []
    ended = select(Job).where(Job.purge_at <= now, Job.blob.is_not(None), Job.status.in_(ENDED), Job.hold.is_(False))
    for job in session.scalars(ended.limit(_AT_ONCE).with_for_update(skip_locked=True)):
        names.append(job.blob or "")
        job.blob = None
        done["contents"] += 1
    held = select(Job.id).where(Job.hold)
    over = select(Evidence).where(Evidence.purge_at <= now, Evidence.job_id.not_in(held))
    for picture in session.scalars(over.limit(_AT_ONCE).with_for_update(skip_locked=True)):
        names.append(picture.blob)
        session.delete(picture)
        done["evidence"] += 1
    for batch in session.scalars(select(Batch).where(Batch.purge_at <= now, Batch.blob.is_not(None)).limit(_AT_ONCE)):
        names.append(batch.blob or "")
        batch.blob = None
        done["batches"] += 1
    return [name for name in names if name]


def _uploads(session: Session, now: datetime, done: Counter[str]) -> list[str]:
    names = []
    over = select(Upload).where(or_(Upload.expires_at <= now, Upload.job_id.is_not(None)))
    for upload in session.scalars(over.limit(_AT_ONCE).with_for_update(skip_locked=True)):
        names += [] if upload.job_id else [upload.blob]
        session.delete(upload)
        done["uploads"] += 1
    return names


def _records(session: Session, serve: ServeSettings, now: datetime, done: Counter[str]) -> list[str]:
    names: list[str] = []
    old = now - timedelta(seconds=serve.record_seconds)
    query = select(Job).where(Job.status.in_(ENDED), Job.finished_at < old, Job.hold.is_(False))
    # By tenant: each burial adds to that tenant's chain, and two sweeps must take their locks in one order.
    for job in session.scalars(query.order_by(Job.tenant_id, Job.id).limit(_AT_ONCE).with_for_update(skip_locked=True)):
        names += bury(session, job, actor="retention", reason="retention", now=now)
        done["jobs"] += 1
    told = select(Delivery).where(Delivery.status != "pending", Delivery.created_at < old).limit(_AT_ONCE)
    for delivery in session.scalars(told.with_for_update(skip_locked=True)):
        session.delete(delivery)
        done["deliveries"] += 1
    answered = select(Batch).where(Batch.finished_at < old, Batch.blob.is_(None)).limit(_AT_ONCE)
    for batch in session.scalars(answered.with_for_update(skip_locked=True)):
        session.delete(batch)
        done["answers"] += 1
    return names


def _orphans(service: Service, blobs: Blobs, now: datetime) -> int:
    with service.database.read() as session:
        known = {name for column in (Job.blob, Evidence.blob, Upload.blob, Batch.blob)
                 for name in session.scalars(select(column).where(column.is_not(None)))}  # fmt: skip
    return blobs.sweep({name for name in known if name}, older_than=now.timestamp() - _ORPHAN_SECONDS)


def _count(session: Session, statement: object) -> int:
    return int(session.execute(statement).rowcount)  # type: ignore[call-overload]


class Sweeper:
    """One thread that sweeps every so often."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard-sweeper", daemon=True)

    def start(self) -> Sweeper:
        """Start the thread."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(self._service.serve.sweep_seconds):
            started = time.monotonic()
            try:
                done = sweep(self._service)
            except Exception:
                log.exception("the sweep failed")
                continue
            if done:
                log.info("swept %s in %.1f s", dict(done), time.monotonic() - started)
