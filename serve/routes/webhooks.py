"""`/v1/webhooks`: places to tell, their secrets, and what became of each delivery."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from serve import jobs, outbox
from serve.audit import append
from serve.depends import Admin, ServiceDep, problems
from serve.request_errors import NotFound
from serve.schemas import EndpointBody
from serve.store.people import Delivery, DeliveryAttempt, WebhookEndpoint
from serve.views import iso

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


@router.get("", responses=problems(), summary="List endpoints")
def list_endpoints(service: ServiceDep, who: Admin) -> dict[str, Any]:
    """List the places that are told, without their secrets."""
    with service.database.read() as session:
        return {"data": [_endpoint(row) for row in outbox.endpoints(session, who.tenant_id)]}


@router.post("", status_code=201, responses=problems(), summary="Add an endpoint")
def add(body: EndpointBody, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Add a place to tell. The secret is shown here, and later only by rotating it."""
    with service.database.write() as session:
        row = outbox.add_endpoint(
            session, who.tenant_id, url=body.url, reach=service.reach, events=body.events,
            description=body.description, by=who.key_id,
        )  # fmt: skip
        return _endpoint(row) | {"secret": row.secret}


@router.get("/callback-secret", responses=problems(), summary="Read the secret of callbacks")
def callback_secret(service: ServiceDep, who: Admin) -> dict[str, str]:
    """Show the secret that signs what is sent to a job's `callback_url`."""
    return {"secret": outbox.callback_secret(service.signer, who.tenant_id)}


@router.get("/deliveries", responses=problems(404, 410), summary="Read the delivery log")
def deliveries(
    service: ServiceDep,
    who: Admin,
    job_id: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """List the newest deliveries, with every try."""
    with service.database.read() as session:
        if job_id is not None:
            jobs.own_job(session, who.tenant_id, job_id)
        rows = outbox.deliveries(session, who.tenant_id, job_id=job_id, limit=limit)
        return {"data": [_delivery(session, row) for row in rows]}


@router.post("/deliveries/{delivery_id}/redeliver", status_code=202, responses=problems(404), summary="Deliver again")
def redeliver(delivery_id: str, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Send a delivery again, with the id that it had."""
    with service.database.write() as session:
        row = session.get(Delivery, delivery_id)
        if row is None or row.tenant_id != who.tenant_id:
            raise NotFound(f"There is no delivery {delivery_id[:60]!r}.")
        return _delivery(session, outbox.redeliver(session, who.tenant_id, delivery_id, by=who.key_id))


@router.post("/{endpoint_id}/rotate", responses=problems(404), summary="Rotate a secret")
def rotate(endpoint_id: str, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Give an endpoint a new secret; for 24 hours the old one signs as well."""
    with service.database.write() as session:
        row = _own(session, who.tenant_id, endpoint_id)
        secret = outbox.rotate(session, row, by=who.key_id)
        return _endpoint(row) | {"secret": secret}


@router.post("/{endpoint_id}/ping", status_code=202, responses=problems(404), summary="Send a ping")
def ping(endpoint_id: str, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Send `moderation.ping` to every endpoint that takes it, to try the line out."""
    with service.database.write() as session:
        _own(session, who.tenant_id, endpoint_id)
        sent = outbox.enqueue(session, who.tenant_id, "moderation.ping", {"endpoint": endpoint_id})
    return {"queued": sent}


@router.delete("/{endpoint_id}", status_code=204, responses=problems(404), summary="Remove an endpoint")
def remove(endpoint_id: str, service: ServiceDep, who: Admin) -> Response:
    """Stop telling a place; what waits for it is given up."""
    with service.database.write() as session:
        row = _own(session, who.tenant_id, endpoint_id)
        for waiting in session.scalars(select(Delivery).where(Delivery.target == row.id, Delivery.status == "pending")):
            waiting.status = "dead"
        append(session, who.tenant_id, actor=who.key_id, action="webhook.removed", subject=row.id)
        session.delete(row)
    return Response(status_code=204)


def _own(session: Session, tenant_id: str, endpoint_id: str) -> WebhookEndpoint:
    row = session.get(WebhookEndpoint, endpoint_id)
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"There is no endpoint {endpoint_id[:60]!r}.")
    return row


def _endpoint(row: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": row.id, "url": row.url, "events": row.events, "description": row.description,
        "created_at": iso(row.created_at), "disabled_at": iso(row.disabled_at), "disabled_reason": row.disabled_reason,
        "rotating_until": iso(row.previous_until),
    }  # fmt: skip


def _delivery(session: Session, row: Delivery) -> dict[str, Any]:
    tries = session.scalars(
        select(DeliveryAttempt).where(DeliveryAttempt.delivery_id == row.id).order_by(DeliveryAttempt.number)
    )
    return {
        "id": row.id, "event_id": row.event_id, "type": row.event_type, "target": row.target, "job_id": row.job_id,
        "status": row.status, "attempts": row.attempts, "created_at": iso(row.created_at),
        "delivered_at": iso(row.delivered_at),
        "next_attempt_at": iso(row.next_attempt_at) if row.status == "pending" else None,
        "tries": [
            {"at": iso(x.at), "status": x.status, "error": x.error, "duration_ms": x.duration_ms} for x in tries
        ],
    }  # fmt: skip
