"""The tables of the moderation core. Those of people and of the outside are in `serve.store.people`.

Ids are text made by us (`job_` and 32 hex digits): they can be handed out, and say nothing about how many there are.
Every row that belongs to somebody names its tenant, and every query by id asks for the tenant as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from serve.store.types import UtcDateTime, json_type

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

RowId = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite counts up only a column that is called INTEGER."""

Json = dict[str, Any]


def utc_now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> Callable[[], str]:
    """Return a maker of ids such as `job_9f...`: 128 random bits, so that none can be guessed."""
    return lambda: f"{prefix}_{secrets.token_hex(16)}"


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - read once, by SQLAlchemy
        datetime: UtcDateTime(),
        Json: json_type(),
        list[str]: json_type(),
        list[Json]: json_type(),
        str: String(255),
    }


class Tenant(Base):
    """Somebody whose jobs nobody else sees."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    disabled_at: Mapped[datetime | None]
    policy: Mapped[str | None]
    """Policy where a request names none; None takes that of the service."""
    settings: Mapped[Json] = mapped_column(default=dict)
    """Overrides of limits and retention, by name of the field in `serve.settings`."""


class ApiKey(Base):
    """A key, of which only the hash is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("key"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    """Who holds it, as pages show it; reviews and the audit log hold the id."""
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    """Hex SHA-256 of the key, which holds 256 random bits."""
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Job(Base):
    """One accepted piece of work. A row here is a promise: it ends once, with one result or one error."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_next", "status", "priority", "created_at"),
        Index("ix_jobs_listing", "tenant_id", "created_at", "id"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("job"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    key_id: Mapped[str | None] = mapped_column(String(40))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    """`queued`, `running`, `succeeded`, `failed` or `canceled`."""
    priority: Mapped[int] = mapped_column(default=0)
    """Higher goes first."""
    source: Mapped[str] = mapped_column(String(1024))
    """What the client called it; shown, never opened."""
    blob: Mapped[str | None]
    """Name of the content in the blob directory; made by us. None once it was purged, or is still at `url`."""
    url: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    policy: Mapped[str | None]
    """Name as asked for; the result names version and hash."""
    client_ref: Mapped[str | None] = mapped_column(index=True)
    meta: Mapped[Json] = mapped_column(default=dict)
    callback_url: Mapped[str | None] = mapped_column(Text)
    keep_evidence: Mapped[bool] = mapped_column(default=True)
    retention_seconds: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None] = mapped_column(index=True)
    purge_at: Mapped[datetime | None] = mapped_column(index=True)
    """When the content goes; set with the end of the job."""
    hold: Mapped[bool] = mapped_column(default=False)
    """A legal hold: sweeps leave it alone."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    stage: Mapped[str] = mapped_column(String(16), default="queued")
    """What is being done: `queued`, `fetch`, `screen`, `done`."""
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(80))
    lease_until: Mapped[datetime | None] = mapped_column(index=True)
    decision: Mapped[str | None] = mapped_column(String(16))
    degraded: Mapped[bool] = mapped_column(default=False)
    error: Mapped[Json | None]


class Result(Base):
    """The verdict of a job. Its primary key is the job: a second one cannot be."""

    __tablename__ = "results"
    __table_args__ = (Index("ix_results_recent", "tenant_id", "created_at"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    decision: Mapped[str] = mapped_column(String(16))
    """As the machine decided; a person's decision is a `Review`."""
    risk: Mapped[float]
    """In [0, 1]: the highest score of an active rule; 1 for what could not be judged."""
    sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    policy_name: Mapped[str]
    policy_version: Mapped[str]
    policy_hash: Mapped[str] = mapped_column(String(64))
    override_id: Mapped[str | None] = mapped_column(String(40))
    """The override that decided instead of the models, if one did."""
    verdict: Mapped[Json]
    """The one JSON form of a `Verdict`."""


class Upload(Base):
    """Content that arrives in pieces."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("upl"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    source: Mapped[str] = mapped_column(String(1024))
    blob: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    offset_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    job_id: Mapped[str | None] = mapped_column(String(40))
    """Set once the upload has become the content of a job."""


class IdempotencyKey(Base):
    """What was answered to a request that carried an Idempotency-Key."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Tombstone(Base):
    """What is left of a job that was deleted: that it was, and whose content it spoke of."""

    __tablename__ = "tombstones"
    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    sha256: Mapped[str | None] = mapped_column(String(64))
    decision: Mapped[str | None] = mapped_column(String(16))
    deleted_at: Mapped[datetime] = mapped_column(default=utc_now)
    deleted_by: Mapped[str]
    reason: Mapped[str]


class Batch(Base):
    """Many moderation requests in one file."""

    __tablename__ = "batches"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("batch"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    status: Mapped[str] = mapped_column(String(16), default="in_progress")
    """`in_progress`, `completed` or `cancelled`, as the OpenAI Batch API spells them."""
    endpoint: Mapped[str] = mapped_column(default="/v1/moderations")
    blob: Mapped[str | None]
    policy: Mapped[str | None]
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    meta: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]
    purge_at: Mapped[datetime | None] = mapped_column(index=True)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    lease_owner: Mapped[str | None] = mapped_column(String(80))
    lease_until: Mapped[datetime | None]


class BatchLine(Base):
    """The answer to one line of a batch; its key makes answering twice impossible."""

    __tablename__ = "batch_lines"
    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    custom_id: Mapped[str]
    status: Mapped[int]
    """HTTP status that the line would have had on its own."""
    response: Mapped[Json]


class Evidence(Base):
    """A frame that shows what a verdict speaks of."""

    __tablename__ = "evidence"
    __table_args__ = (UniqueConstraint("job_id", "number"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("ev"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    tenant_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    seconds: Mapped[float]
    category: Mapped[str | None]
    score: Mapped[float | None]
    blob: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    purge_at: Mapped[datetime | None] = mapped_column(index=True)


class ScoreHistory(Base):
    """One line for each answer, without content: for the dashboard, drift, and previews of a policy."""

    __tablename__ = "score_history"
    __table_args__ = (Index("ix_score_history_recent", "tenant_id", "at"),)
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(default=utc_now)
    kind: Mapped[str] = mapped_column(String(8))
    """`text`, `image` or `video`."""
    job_id: Mapped[str | None] = mapped_column(String(40))
    sha256: Mapped[str | None] = mapped_column(String(64))
    policy_name: Mapped[str]
    policy_hash: Mapped[str] = mapped_column(String(64))
    decision: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(String(8), default="fast")
    """`fast`, `slow`, or `none` where nothing was judged."""
    degraded: Mapped[bool] = mapped_column(default=False)
    error_code: Mapped[str | None] = mapped_column(String(40))
    latency_ms: Mapped[float]
    media_seconds: Mapped[float] = mapped_column(default=0.0)
    scores: Mapped[Json]
    """Category id to score."""


class Usage(Base):
    """What a tenant has used on one day, in UTC."""

    __tablename__ = "usage"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    jobs: Mapped[int] = mapped_column(default=0)
    media_seconds: Mapped[float] = mapped_column(default=0.0)
    bytes_in: Mapped[int] = mapped_column(BigInteger, default=0)
    vlm_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
