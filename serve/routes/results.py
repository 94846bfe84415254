"""What came of a job: its verdict in pages, and the frames that show it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse, JSONResponse
from sqlalchemy import select

from serve import jobs
from serve.audit import append
from serve.cursors import open_cursor, seal
from serve.depends import Reader, Reviewer, ServiceDep, problems
from serve.request_errors import Conflict, Gone, NotFound
from serve.review.decisions import latest_review, outcome_of
from serve.schemas import EvidenceView, JobView, ResultView
from serve.service import Service
from serve.signing import TokenError
from serve.store.tables import Evidence, Result
from serve.views import Aggregate, Sort, job_view, places, without_pages

router = APIRouter(prefix="/v1", tags=["results"])


@router.get(
    "/jobs/{job_id}/result",
    response_model=ResultView,
    responses=problems(404, 409, 410, also={202: {"model": JobView, "description": "Not yet."}}),
    summary="Read the verdict",
)
def result(
    job_id: str,
    service: ServiceDep,
    who: Reader,
    aggregate: Aggregate = "segments",
    category: Annotated[str | None, Query(max_length=120)] = None,
    min_score: Annotated[float, Query(ge=0, le=1)] = 0.0,
    sort: Sort = "time",
    cursor: Annotated[str | None, Query(max_length=2048)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Any:
    """Show the verdict, with the places that it speaks of as segments or as scores at moments, in pages."""
    with service.database.read() as session:
        job = jobs.own_job(session, who.tenant_id, job_id)
        if job.status not in jobs.ENDED:
            return JSONResponse(job_view(job), 202, headers={"Retry-After": "1"})
        row = session.get(Result, job.id)
        human = outcome_of(session, latest_review(session, who.tenant_id, job.id))
    if row is None:
        raise Conflict("The job was canceled; it has no result.")
    question = {"result": job_id, "aggregate": aggregate, "category": category, "min": min_score, "sort": sort}
    place = open_cursor(service, who, question, cursor)
    start = int(place[0]) if place else 0
    found = places(row.verdict, aggregate, category=category, min_score=min_score, sort=sort)
    end = start + limit
    return {
        "job_id": job.id,
        "decision": row.decision,
        "final_decision": human or row.decision,
        "verdict": without_pages(row.verdict),
        aggregate: found[start:end],
        "next_cursor": seal(service, who, question, [end]) if end < len(found) else None,
    }


@router.get(
    "/jobs/{job_id}/evidence",
    response_model=list[EvidenceView],
    responses=problems(404, 410),
    summary="List the frames that were kept",
)
def evidence(job_id: str, service: ServiceDep, who: Reviewer) -> list[dict[str, Any]]:
    """List the kept frames, with addresses that open for five minutes. Who asked is on record."""
    with service.database.write() as session:
        job = jobs.own_job(session, who.tenant_id, job_id)
        rows = session.scalars(select(Evidence).where(Evidence.job_id == job.id).order_by(Evidence.number)).all()
        append(session, who.tenant_id, actor=who.key_id, action="evidence.listed", subject=job.id)
    return [
        {
            "number": row.number, "seconds": row.seconds, "category": row.category, "score": row.score,
            "width": row.width, "height": row.height,
            "url": service.signer.sign_path(f"/v1/evidence-signed/{row.id}.jpg", tenant=who.tenant_id),
        }
        for row in rows
    ]  # fmt: skip


@router.get(
    "/evidence-signed/{name}.jpg",
    response_class=FileResponse,
    responses=problems(404, 410, also={200: {"content": {"image/jpeg": {}}}}),
    summary="Open a frame by its signed address",
)
def picture(
    name: str,
    service: ServiceDep,
    tenant: Annotated[str, Query(max_length=64)] = "",
    expires: Annotated[str, Query(max_length=20)] = "",
    signature: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Give one kept frame to whoever holds an address that this service signed and that has not expired."""
    try:
        service.signer.check_path(
            f"/v1/evidence-signed/{name}.jpg", tenant=tenant, expires=expires, signature=signature
        )
    except TokenError as error:
        raise NotFound("There is no such picture, or its address has expired.") from error
    with service.database.read() as session:
        row = session.get(Evidence, name)
    if row is None or row.tenant_id != tenant:
        raise NotFound("There is no such picture, or its address has expired.")
    return _file(service, row.blob, "image/jpeg")


@router.get(
    "/jobs/{job_id}/content",
    response_class=FileResponse,
    responses=problems(
        404, 410, also={200: {"content": {"application/octet-stream": {}}}, 206: {"description": "A part."}}
    ),
    summary="Read the content, for the one who reviews it",
)
def content(job_id: str, service: ServiceDep, who: Reviewer) -> Response:
    """Give the content back as it came, while it is kept; ranges are answered. Who asked is on record."""
    with service.database.write() as session:
        job = jobs.own_job(session, who.tenant_id, job_id)
        append(session, who.tenant_id, actor=who.key_id, action="content.read", subject=job.id)
    if job.blob is None:
        raise Gone("The content is no longer kept.")
    return _file(service, job.blob, "application/octet-stream")


def _file(service: Service, blob: str, media_type: str) -> Response:
    path = service.blobs.path(blob)
    if not path.exists():
        raise Gone("The content is no longer kept.")
    return FileResponse(path, media_type=media_type, headers={"Content-Disposition": "attachment"})
