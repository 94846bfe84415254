"""`/v1/batches`: many moderation requests in one file of JSON lines, and their answers in another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from guard.errors import RateLimited
from serve.audit import append
from serve.batches import count_lines, own_batch
from serve.depends import Reader, ServiceDep, Submitter, problems
from serve.keys import Principal
from serve.receiving import used_bytes
from serve.request_errors import Conflict
from serve.service import Service
from serve.store.tables import Batch, BatchLine
from serve.views import iso

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_BODY = {"requestBody": {"required": True, "content": {
    "application/jsonl": {"schema": {"type": "string", "description": (
        'One request a line: {"custom_id": "1", "method": "POST", "url": "/v1/moderations", "body": {"input": "text"}}'
    )}},
}}}  # fmt: skip
_OPEN = 20
"""Batches of one tenant under way at once."""
_PAGE = 500


@router.post("", status_code=202, responses=problems(404, 413), openapi_extra=_BODY, summary="Submit a batch")
async def create(
    request: Request,
    service: ServiceDep,
    who: Submitter,
    policy: Annotated[str | None, Query(min_length=1, max_length=120)] = None,
) -> Response:
    """Take the body in as a file of JSON lines; a line that cannot be read is answered with its error."""
    await run_in_threadpool(_require_room, service, who, policy)
    name = service.blobs.new_name()
    with service.blobs.create(name) as file:
        async for piece in request.stream():
            await run_in_threadpool(file.write, piece)
    batch = await run_in_threadpool(_keep, service, who, name, policy)
    return JSONResponse(_view(batch), 202, headers={"Location": f"/v1/batches/{batch.id}"})


@router.get("", responses=problems(), summary="List batches, the newest first")
def list_batches(service: ServiceDep, who: Reader, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """List the tenant's newest batches."""
    query = select(Batch).where(Batch.tenant_id == who.tenant_id).order_by(Batch.created_at.desc(), Batch.id)
    with service.database.read() as session:
        return {"data": [_view(batch) for batch in session.scalars(query.limit(limit))]}


@router.get("/{batch_id}", responses=problems(404), summary="Look at a batch")
def read(batch_id: str, service: ServiceDep, who: Reader) -> dict[str, Any]:
    """Show how far a batch is."""
    with service.database.read() as session:
        return _view(own_batch(session, who.tenant_id, batch_id))


@router.get(
    "/{batch_id}/output",
    response_class=StreamingResponse,
    responses=problems(404, also={200: {"content": {"application/jsonl": {}}}}),
    summary="Read the answers",
)
def output(batch_id: str, service: ServiceDep, who: Reader) -> Response:
    """Give the answers that there are so far, one a line, in the order of the requests."""
    with service.database.read() as session:
        own_batch(session, who.tenant_id, batch_id)
    return StreamingResponse(_lines(service, batch_id), media_type="application/jsonl")


@router.post("/{batch_id}/cancel", status_code=202, responses=problems(404, 409), summary="Cancel a batch")
def cancel(batch_id: str, service: ServiceDep, who: Submitter) -> dict[str, Any]:
    """Answer no further lines; what is answered stays."""
    with service.database.write() as session:
        batch = own_batch(session, who.tenant_id, batch_id)
        if batch.status != "in_progress":
            raise Conflict(f"The batch has ended already, as {batch.status!r}.")
        batch.cancel_requested = True
        append(session, who.tenant_id, actor=who.key_id, action="batch.canceled", subject=batch.id)
        return _view(batch)


def _require_room(service: Service, who: Principal, policy: str | None) -> None:
    service.policies.resolve(who.tenant_id, policy)
    service.blobs.require_room(0, used_bytes(service))
    own = select(func.count()).select_from(Batch).where(Batch.tenant_id == who.tenant_id, Batch.status == "in_progress")
    with service.database.read() as session:
        if (session.scalar(own) or 0) >= _OPEN:
            raise RateLimited(f"{_OPEN} batches of yours are under way already.")


def _keep(service: Service, who: Principal, name: str, policy: str | None) -> Batch:
    try:
        total = count_lines(service.blobs.path(name), service.serve.max_batch_lines)
        with service.database.write() as session:
            batch = Batch(tenant_id=who.tenant_id, blob=name, policy=policy, total=total, completed=0, failed=0)
            session.add(batch)
            session.flush()
            append(
                session, who.tenant_id, actor=who.key_id, action="batch.submitted", subject=batch.id,
                details={"lines": total, "policy": policy},
            )  # fmt: skip
    except BaseException:
        service.blobs.delete(name)
        raise
    return batch


def _lines(service: Service, batch_id: str) -> Iterator[str]:
    after = 0
    while True:
        query = select(BatchLine).where(BatchLine.batch_id == batch_id, BatchLine.number > after)
        with service.database.read() as session:
            rows = session.scalars(query.order_by(BatchLine.number).limit(_PAGE)).all()
        if not rows:
            return
        for row in rows:
            fine = row.status == 200
            error = None if fine else row.response["body"]["error"]
            plain = {
                "id": f"{batch_id}-{row.number}",
                "custom_id": row.custom_id,
                "response": row.response,
                "error": error,
            }
            yield json.dumps(plain, allow_nan=False) + "\n"
        after = rows[-1].number


def _view(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id, "object": "batch", "endpoint": batch.endpoint, "status": batch.status,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "policy": batch.policy, "created_at": iso(batch.created_at), "finished_at": iso(batch.finished_at),
        "output": f"/v1/batches/{batch.id}/output",
    }  # fmt: skip
