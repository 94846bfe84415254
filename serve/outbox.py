"""The outbox of webhooks: who is to be told, and the events that wait for it.

An event is kept in the transaction that causes it, so neither can be without the other; `serve.deliveries` sends it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard.errors import UrlBlocked, UsageError
from serve import webhooks
from serve.addresses import refusal
from serve.audit import append
from serve.outbound import Reach, parse_url
from serve.signing import Signer
from serve.store.people import Delivery, WebhookEndpoint
from serve.store.tables import utc_now

CALLBACK = "callback"
"""Target of a delivery to the address that a job named, rather than to an endpoint."""
_ROTATION = timedelta(hours=24)
_MAX_ENDPOINTS = 20


def callback_secret(signer: Signer, tenant_id: str) -> str:
    """Return the secret that signs the callbacks of a tenant's jobs: made from the service's own, so never stored."""
    return webhooks.encode_secret(signer.key(f"callback/{tenant_id}"))


def checked_url(url: str, reach: Reach) -> str:
    """Return `url` as it will be asked for. Raises `UrlBlocked` for what could never be sent to.

    Names are not looked up here: the real check is made at every sending, since a name may lead elsewhere by then.
    """
    target = parse_url(url, reach)
    why = refusal(target.host, reach.allowed_networks)
    if why not in (None, "not an address") or target.host == "localhost":
        raise UrlBlocked(f"The address {target.host!r} is not public ({why or 'loopback'}).")
    return target.url


def add_endpoint(
    session: Session, tenant_id: str, *, url: str, reach: Reach, events: Iterable[str] = (), description: str = "",
    by: str = "system",
) -> WebhookEndpoint:  # fmt: skip
    """Keep a place to tell. Raises `UsageError` for an unknown event, or for more than 20 endpoints."""
    wanted = list(dict.fromkeys(events))
    unknown = [event for event in wanted if event not in webhooks.EVENTS]
    if unknown:
        raise UsageError(f"There is no event {unknown[0]!r}; there are: {', '.join(webhooks.EVENTS)}.")
    if len(endpoints(session, tenant_id)) >= _MAX_ENDPOINTS:
        raise UsageError(f"A tenant has at most {_MAX_ENDPOINTS} endpoints.")
    row = WebhookEndpoint(
        tenant_id=tenant_id, url=checked_url(url, reach), events=wanted, description=description[:200],
        secret=webhooks.new_secret(),
    )  # fmt: skip
    session.add(row)
    session.flush()
    append(session, tenant_id, actor=by, action="webhook.created", subject=row.id, details={"events": wanted})
    return row


def endpoints(session: Session, tenant_id: str) -> list[WebhookEndpoint]:
    """Return the endpoints of a tenant, the oldest first."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == tenant_id)
    return list(session.scalars(query.order_by(WebhookEndpoint.created_at, WebhookEndpoint.id)))


def rotate(session: Session, endpoint: WebhookEndpoint, *, by: str = "system") -> str:
    """Give an endpoint a new secret and return it; for 24 hours the old one signs as well."""
    endpoint.previous_secret, endpoint.previous_until = endpoint.secret, utc_now() + _ROTATION
    endpoint.secret = webhooks.new_secret()
    append(session, endpoint.tenant_id, actor=by, action="webhook.rotated", subject=endpoint.id)
    return endpoint.secret


def enqueue(
    session: Session,
    tenant_id: str,
    event_type: str,
    data: Mapping[str, Any],
    *,
    event_id: str | None = None,
    job_id: str | None = None,
    callback_url: str | None = None,
) -> int:
    """Put one event in the outbox, for every endpoint that wants it and the job's own address. Returns how many.

    Args:
        session: the transaction that causes the event.
        tenant_id: whose event.
        event_type: one of `webhooks.EVENTS`.
        data: ids, decision, addresses; never content.
        event_id: the same for the same event, so that work done twice tells once; by default a new one.
        job_id: what it is about, for the log.
        callback_url: the address that the job named.
    """
    event = event_id or f"evt_{secrets.token_hex(16)}"
    body = webhooks.event_body(event_type, event, data)
    wanted = [
        (row.id, row.url)
        for row in endpoints(session, tenant_id)
        if row.disabled_at is None and (not row.events or event_type in row.events)
    ]
    wanted += [(CALLBACK, callback_url)] if callback_url else []
    there = set(session.scalars(select(Delivery.target).where(Delivery.event_id == event)))
    fresh = [(target, url) for target, url in wanted if target not in there]
    for target, url in fresh:
        session.add(
            Delivery(
                tenant_id=tenant_id, event_id=event, event_type=event_type, target=target, url=url, job_id=job_id,
                body=body,
            )
        )  # fmt: skip
    return len(fresh)


def redeliver(session: Session, tenant_id: str, delivery_id: str, *, by: str = "system") -> Delivery:
    """Send a delivery again from the first try, with its old id. Raises `UsageError` where the tenant has none such."""
    row = session.get(Delivery, delivery_id)
    if row is None or row.tenant_id != tenant_id:
        raise UsageError(f"There is no delivery {delivery_id!r}.")
    row.status, row.attempts, row.next_attempt_at = "pending", 0, utc_now()
    row.lease_owner = row.lease_until = row.delivered_at = None
    endpoint = session.get(WebhookEndpoint, row.target)
    if endpoint is not None:  # who asks for it has mended what it was switched off for
        endpoint.disabled_at = endpoint.disabled_reason = None
    append(session, tenant_id, actor=by, action="webhook.redelivered", subject=row.id)
    return row


def deliveries(session: Session, tenant_id: str, *, job_id: str | None = None, limit: int = 100) -> list[Delivery]:
    """Return the newest deliveries of a tenant, of one job where it is named."""
    query = select(Delivery).where(Delivery.tenant_id == tenant_id)
    if job_id is not None:
        query = query.where(Delivery.job_id == job_id)
    return list(session.scalars(query.order_by(Delivery.created_at.desc(), Delivery.id).limit(limit)))
