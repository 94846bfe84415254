"""Take jobs in: content on disk first, then one transaction with the row, the idempotency key and the audit entry.

Only then is the job accepted: whatever dies before leaves at most a file that the sweep removes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from guard.errors import BackendError
from serve import jobs
from serve.audit import append
from serve.blobs import Stored
from serve.keys import Principal
from serve.outbox import checked_url
from serve.request_errors import Conflict, IdempotencyMismatch
from serve.service import Service
from serve.store.tables import IdempotencyKey, Job, Upload, utc_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A job as it was asked for."""

    source: str = "upload"
    policy: str | None = None
    priority: int = 0
    client_ref: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    callback_url: str | None = None
    keep_evidence: bool = True
    retention_seconds: int | None = None
    url: str | None = None
    upload_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A job that is on record."""

    job: Job
    created: bool
    """False where the same request had made it before."""


def request_hash(wanted: Wanted, sha256: str | None) -> str:
    """Return what two requests have in common exactly when they ask for the same.

    An upload is known by its id: its content may be gone when the request is repeated.
    """
    sha256 = None if wanted.upload_id is not None else sha256
    plain = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__} | {"sha256": sha256}
    plain["meta"] = dict(wanted.meta)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def submit(
    service: Service, who: Principal, wanted: Wanted, stored: Stored | None, *, idempotency_key: str | None = None
) -> Accepted:
    """Keep a job; the content, if any, is on disk already and is deleted where the job is not kept.

    Raises:
        PolicyNotFound: there is no such policy; better now than when the job runs.
        UrlBlocked: the callback or the content's address could never be asked for.
        RateLimited: the tenant has too many jobs.
        Capacity: too many jobs wait.
        Conflict: the upload was used already.
        IdempotencyMismatch: the key came with another request before.
    """
    try:
        accepted = _submit(service, who, wanted, stored, idempotency_key)
    except BaseException as error:
        # What came in pieces stays, to be asked for again. Where the database was lost the row may be there all the
        # same: a file that has none is swept.
        if wanted.upload_id is None and type(error) is not BackendError:
            service.blobs.delete(stored.name if stored else None)
        raise
    for wake in service.on_job:
        wake()
    if not accepted.created and stored is not None and wanted.upload_id is None:
        service.blobs.delete(stored.name)
    return accepted


def made_before(service: Service, who: Principal, wanted: Wanted, idempotency_key: str | None) -> Accepted | None:
    """Return the job that the same request for an upload made before, whatever has become of the upload since.

    Raises:
        IdempotencyMismatch: the key came with another request before.
        Gone: the job was deleted.
    """
    if idempotency_key is None:
        return None
    with service.database.write() as session:
        before = _before(session, who.tenant_id, idempotency_key, request_hash(wanted, None))
        return None if before is None else Accepted(job=jobs.own_job(session, who.tenant_id, before), created=False)


def submit_bytes(service: Service, who: Principal, data: bytes, *, source: str, policy: str | None) -> str:
    """Keep a job for content that is at hand, and return its id."""
    return submit(service, who, Wanted(source=source, policy=policy), service.blobs.put(data)).job.id


def _submit(
    service: Service, who: Principal, wanted: Wanted, stored: Stored | None, idempotency_key: str | None
) -> Accepted:
    callback = checked_url(wanted.callback_url, service.reach) if wanted.callback_url else None
    service.policies.resolve(who.tenant_id, wanted.policy)
    digest = request_hash(wanted, stored.sha256 if stored else None)
    with service.database.write() as session:
        before = _before(session, who.tenant_id, idempotency_key, digest)
        if before is not None:
            return Accepted(job=jobs.own_job(session, who.tenant_id, before), created=False)
        jobs.require_room(session, who.tenant_id, service.serve)
        job = Job(
            tenant_id=who.tenant_id, key_id=who.key_id, source=wanted.source, policy=wanted.policy,
            priority=wanted.priority, client_ref=wanted.client_ref, meta=dict(wanted.meta), callback_url=callback,
            keep_evidence=wanted.keep_evidence, retention_seconds=wanted.retention_seconds, url=wanted.url,
            blob=stored.name if stored else None, sha256=stored.sha256 if stored else None,
            size_bytes=stored.size_bytes if stored else None, created_at=utc_now(),
        )  # fmt: skip
        session.add(job)
        session.flush()
        if wanted.upload_id is not None:
            _use_up(session, wanted.upload_id, job.id)
        if idempotency_key is not None:
            _remember(session, service, who.tenant_id, idempotency_key, digest, job.id)
        jobs.use(session, who.tenant_id, utc_now(), {"jobs": 1, "bytes_in": job.size_bytes or 0})
        details = {"sha256": job.sha256, "policy": job.policy, "client_ref": job.client_ref}
        append(session, who.tenant_id, actor=who.key_id, action="job.submitted", subject=job.id, details=details)
    return Accepted(job=job, created=True)


def _use_up(session: Session, upload_id: str, job_id: str) -> None:
    """Make an upload the content of one job: two would share a file, which goes with the first that ends."""
    upload = session.get(Upload, upload_id, with_for_update=True, populate_existing=True)
    if upload is None or upload.job_id is not None:
        raise Conflict("The upload is the content of a job already.", hint="Upload it again for another job.")
    upload.job_id = job_id


def _before(session: Session, tenant_id: str, key: str | None, digest: str) -> str | None:
    """Return the job that this key made; PostgreSQL lets one request per key at a time look."""
    if key is None:
        return None
    if session.get_bind().dialect.name == "postgresql":
        from sqlalchemy import text

        name = f"idempotency/{tenant_id}/{key}"
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": name})
    row = session.get(IdempotencyKey, (tenant_id, key))
    if row is None:
        return None
    if row.expires_at <= utc_now():
        session.delete(row)
        session.flush()
        return None
    if row.request_hash != digest:
        raise IdempotencyMismatch("This Idempotency-Key came with another request before.")
    return row.job_id


def _remember(session: Session, service: Service, tenant_id: str, key: str, digest: str, job_id: str) -> None:
    until = utc_now() + timedelta(seconds=service.serve.idempotency_seconds)
    session.add(
        IdempotencyKey(tenant_id=tenant_id, key=key, request_hash=digest, job_id=job_id, expires_at=until)
    )  # fmt: skip
