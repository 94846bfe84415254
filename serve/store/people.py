"""Tables of people and of the outside: reviews, appeals, overrides, webhooks, sign-ins, and the audit log."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from serve.store.tables import Base, Json, RowId, new_id, utc_now


class PolicyLayer(Base):
    """Whose a layer of the policy store is. The layer itself, with its history, is in `policies.store`."""

    __tablename__ = "policy_layers"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    """As the tenant calls it."""
    store_name: Mapped[str] = mapped_column(unique=True)
    """As the policy store calls it, where all tenants share one room of names."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ReviewItem(Base):
    """A place in the queue. A claim is a column pair here, so that taking it is one conditional UPDATE."""

    __tablename__ = "review_items"
    __table_args__ = (
        Index("ix_review_items_queue", "tenant_id", "status", "risk", "created_at"),
        UniqueConstraint("job_id", "round"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("rev"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    round: Mapped[int] = mapped_column(default=1)
    """1 for the first look; an appeal, an escalation or a second opinion makes the next."""
    reason: Mapped[str]
    """Why a person is asked: `uncertain`, `degraded`, `undecided`, `flagged`, `appeal`, `escalated`, `sample`."""
    status: Mapped[str] = mapped_column(String(16), default="open")
    """`open`, `done` or `withdrawn`."""
    risk: Mapped[float] = mapped_column(default=0.0)
    sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    level: Mapped[int] = mapped_column(default=1)
    """2 and up is asked for by escalation."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    claimed_by: Mapped[str | None]
    claim_token: Mapped[str | None] = mapped_column(String(64))
    claimed_until: Mapped[datetime | None]
    done_at: Mapped[datetime | None]
    skips: Mapped[list[Json]] = mapped_column(default=list)
    """Who skipped it, when and why."""


class Review(Base):
    """What a person decided."""

    __tablename__ = "reviews"
    __table_args__ = (Index("ix_reviews_recent", "tenant_id", "created_at"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("rvw"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(String(40), index=True)
    """Not a foreign key: what a person decided stays on record when the content is deleted."""
    item_id: Mapped[str | None] = mapped_column(String(40))
    reviewer: Mapped[str]
    decision: Mapped[str] = mapped_column(String(16))
    """`allow`, `block`, `relabel` or `escalate`."""
    categories: Mapped[list[str]] = mapped_column(default=list)
    reason: Mapped[str] = mapped_column(Text, default="")
    segments: Mapped[list[Json]] = mapped_column(default=list)
    machine_decision: Mapped[str] = mapped_column(String(16))
    """What the verdict said, for agreement rates."""
    agrees: Mapped[bool | None]
    seconds_spent: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    undone_at: Mapped[datetime | None]
    undone_by: Mapped[str | None]


class Feedback(Base):
    """What a client says of a verdict, without a claim on the queue."""

    __tablename__ = "feedback"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("fb"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    actor: Mapped[str]
    correct: Mapped[bool]
    label: Mapped[str | None]
    """Category id that should have been found; None where none should."""
    note: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Appeal(Base):
    """An uploader's objection."""

    __tablename__ = "appeals"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("apl"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    job_id: Mapped[str] = mapped_column(String(40), index=True)
    statement: Mapped[str] = mapped_column(Text)
    reporter_ref: Mapped[str | None]
    """The client's own name for whoever objects."""
    status: Mapped[str] = mapped_column(String(16), default="open")
    """`open`, `accepted` or `rejected`."""
    item_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]
    resolution: Mapped[str] = mapped_column(Text, default="")


class Override(Base):
    """A person's decision about content, which the next identical input gets at once.

    Where `rule` is set it is an example for a policy as well, once a second person confirmed it.
    """

    __tablename__ = "overrides"
    __table_args__ = (Index("ix_overrides_content", "tenant_id", "sha256"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("ovr"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(String(40))
    review_id: Mapped[str | None] = mapped_column(String(40))
    decision: Mapped[str] = mapped_column(String(16))
    """`allow` or `block`."""
    categories: Mapped[list[str]] = mapped_column(default=list)
    rule: Mapped[str | None]
    layer: Mapped[str | None] = mapped_column(String(120))
    rationale: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(String(16), default="active")
    """`active` or `withdrawn`."""
    exemplar_status: Mapped[str] = mapped_column(String(16), default="none")
    """`none`, `pending`, `confirmed` or `rejected`."""
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    confirmed_by: Mapped[str | None]
    withdrawn_at: Mapped[datetime | None]


class WebhookEndpoint(Base):
    """Where a tenant wants to be told. Secrets are kept as they are: signing needs them."""

    __tablename__ = "webhook_endpoints"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("we"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(default="")
    events: Mapped[list[str]] = mapped_column(default=list)
    """Event types; empty means all."""
    secret: Mapped[str] = mapped_column(String(128))
    previous_secret: Mapped[str | None] = mapped_column(String(128))
    previous_until: Mapped[datetime | None]
    """Both secrets sign until then."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]


class Delivery(Base):
    """One event on its way to one address: the outbox. It is written in the transaction that causes the event.

    `event_id` is the `webhook-id` and stays the same over retries; the pair with `target` is unique, so that work done
    twice tells once.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "target"),
        Index("ix_deliveries_due", "status", "next_attempt_at"),
        Index("ix_deliveries_recent", "tenant_id", "created_at"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=new_id("dlv"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    event_id: Mapped[str] = mapped_column(String(80))
    event_type: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(64))
    """Id of the endpoint, or `callback` for the address of a job."""
    url: Mapped[str] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(String(40), index=True)
    body: Mapped[str] = mapped_column(Text)
    """Exactly the bytes that are signed and sent, as UTF-8."""
    status: Mapped[str] = mapped_column(String(16), default="pending")
    """`pending`, `delivered` or `dead`."""
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(default=utc_now)
    lease_owner: Mapped[str | None] = mapped_column(String(80))
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    delivered_at: Mapped[datetime | None]


class DeliveryAttempt(Base):
    """One try, for the delivery log."""

    __tablename__ = "delivery_attempts"
    delivery_id: Mapped[str] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(default=utc_now)
    status: Mapped[int | None]
    """HTTP status, or None where no answer came."""
    error: Mapped[str | None] = mapped_column(String(255))
    duration_ms: Mapped[float]


class AuditEntry(Base):
    """One link of a tenant's chain. Rows are added, never changed; triggers refuse the rest."""

    __tablename__ = "audit_log"
    __table_args__ = (UniqueConstraint("tenant_id", "number"), Index("ix_audit_log_subject", "tenant_id", "subject"))
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(Integer)
    """1, 2, 3 .. within the tenant: a hole shows."""
    at: Mapped[str] = mapped_column(String(32))
    """ISO 8601 in UTC, as text: the hash is over exactly this."""
    actor: Mapped[str]
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str]
    details: Mapped[str] = mapped_column(Text)
    """Canonical JSON, as text: the hash is over exactly this."""
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class SignIn(Base):
    """A browser session of the review page."""

    __tablename__ = "sign_ins"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Hex SHA-256 of the cookie."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    csrf: Mapped[str] = mapped_column(String(64))
    preferences: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)
