"""`/v1/jobs`: submit, look, wait, list, cancel, delete."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy import select, tuple_
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from serve import jobs
from serve.audit import append
from serve.blobs import Stored
from serve.cursors import open_cursor, seal
from serve.depends import Admin, Reader, ServiceDep, Submitter, problems
from serve.keys import Principal
from serve.receiving import keep_upload, uploaded
from serve.request_errors import InvalidRequest
from serve.schemas import HoldBody, JobList, JobRequest, JobView
from serve.service import Service
from serve.store.tables import Job, utc_now
from serve.submitting import Wanted, made_before, submit
from serve.views import job_view

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_POLL_SECONDS = 0.2
_SCHEMA = JobRequest.model_json_schema()
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}}
    | {name: field for name, field in _SCHEMA["properties"].items() if name not in ("url", "upload_id", "metadata")}
    | {"metadata": {"type": "string", "description": "A JSON object."}},
}
_BODY = {"requestBody": {"required": True, "content": {
    "multipart/form-data": {"schema": _FORM}, "application/json": {"schema": _SCHEMA},
}}}  # fmt: skip
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    responses=problems(
        404, 409, 410, 413, 415, also={200: {"model": JobView, "description": "The same request made this job before."}}
    ),
    openapi_extra=_BODY,
    summary="Submit a clip",
)
async def create(request: Request, service: ServiceDep, who: Submitter, idempotency_key: Key = None) -> Response:
    """Take a clip in, and answer as soon as it is safe on disk: as a multipart form, by upload id, or by URL."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with _form(request) as form:
            wanted, file = _of_form(form)
            stored: Stored | None = await run_in_threadpool(keep_upload, service, file.file)
    else:
        body = _of_json(await request.body())
        wanted = _wanted(body, body.source or "upload")
        before = (
            await run_in_threadpool(made_before, service, who, wanted, idempotency_key) if wanted.upload_id else None
        )
        if before is not None:
            return JSONResponse(
                job_view(before.job), headers={"Location": f"/v1/jobs/{before.job.id}", "Retry-After": "1"}
            )
        stored = await run_in_threadpool(uploaded, service, who, wanted) if wanted.upload_id else None
    accepted = await run_in_threadpool(submit, service, who, wanted, stored, idempotency_key=idempotency_key)
    headers = {"Location": f"/v1/jobs/{accepted.job.id}", "Retry-After": "1"}
    return JSONResponse(job_view(accepted.job), status_code=202 if accepted.created else 200, headers=headers)


@router.get("", response_model=JobList, responses=problems(), summary="List jobs, the newest first")
def list_jobs(
    service: ServiceDep,
    who: Reader,
    status: Annotated[str | None, Query(pattern="^(queued|running|succeeded|failed|canceled)$")] = None,
    decision: Annotated[str | None, Query(pattern="^(allow|review|block|undecided)$")] = None,
    client_ref: Annotated[str | None, Query(max_length=255)] = None,
    cursor: Annotated[str | None, Query(max_length=2048)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """List the tenant's jobs in pages; `next_cursor` asks for the next one."""
    wanted = {"status": status, "decision": decision, "client_ref": client_ref}
    question = {"list": "jobs"} | wanted
    place = open_cursor(service, who, question, cursor)
    query = select(Job).where(Job.tenant_id == who.tenant_id)
    for name, value in wanted.items():
        query = query if value is None else query.where(getattr(Job, name) == value)
    with service.database.read() as session:
        if place is not None:
            last = session.get(Job, place[0])
            if last is None or last.tenant_id != who.tenant_id:
                raise InvalidRequest("The job at the end of the last page was deleted; begin again.", param="cursor")
            query = query.where(tuple_(Job.created_at, Job.id) < (last.created_at, last.id))
        rows = session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)).all()
    more = len(rows) > limit
    following = seal(service, who, question, [rows[limit - 1].id]) if more else None
    return {"data": [job_view(job) for job in rows[:limit]], "next_cursor": following}


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses=problems(404, 410, also={304: {"description": "Not changed since the ETag."}}),
    summary="Look at a job",
)
async def read(
    job_id: str,
    request: Request,
    service: ServiceDep,
    who: Reader,
    wait: Annotated[float, Query(ge=0, le=60)] = 0.0,
) -> Response:
    """Show a job; with `wait`, as soon as it has ended, or after that many seconds."""
    until = time.monotonic() + min(wait, service.serve.max_wait_seconds)
    while True:
        job = await run_in_threadpool(_read, service, who, job_id)
        if job.status in jobs.ENDED or time.monotonic() >= until or service.stopping.is_set():
            break
        await asyncio.sleep(_POLL_SECONDS)
    tag = f'"{job.status}-{job.stage}-{job.attempts}-{int(bool(job.blob))}"'
    headers = {"ETag": tag} | ({} if job.status in jobs.ENDED else {"Retry-After": "1"})
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return JSONResponse(job_view(job), headers=headers)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    response_model=JobView,
    responses=problems(404, 409, 410),
    summary="Cancel a job",
)
def cancel(job_id: str, service: ServiceDep, who: Submitter) -> dict[str, Any]:
    """End a job that waits at once; one that runs ends without a result when its clip has been gone through."""
    with service.database.write() as session:
        job = jobs.own_job(session, who.tenant_id, job_id)
        at_once = jobs.cancel(session, job, utc_now())
        append(
            session, who.tenant_id, actor=who.key_id, action="job.canceled", subject=job.id, details={"done": at_once}
        )
        return job_view(job)


@router.post("/{job_id}/hold", response_model=JobView, responses=problems(404, 410), summary="Set a legal hold")
def hold(job_id: str, body: HoldBody, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Keep content, frames and records of a job past every date, and from being deleted, until the hold is lifted."""
    with service.database.write() as session:
        job = jobs.own_job(session, who.tenant_id, job_id)
        job.hold = body.hold
        details = {"hold": body.hold, "reason": body.reason}
        append(session, who.tenant_id, actor=who.key_id, action="job.hold", subject=job.id, details=details)
        return job_view(job)


@router.delete("/{job_id}", status_code=204, responses=problems(404, 409, 410), summary="Delete a job")
def delete(
    job_id: str, service: ServiceDep, who: Submitter, reason: Annotated[str, Query(max_length=255)] = "requested"
) -> Response:
    """Delete content, result and evidence. What people decided, and that there was a job, stay on record."""
    with service.database.write() as session:
        job = jobs.own_job(session, who.tenant_id, job_id)
        blobs = jobs.bury(session, job, actor=who.key_id, reason=reason, now=utc_now())
    for name in blobs:
        service.blobs.delete(name)
    return Response(status_code=204)


def _read(service: Service, who: Principal, job_id: str) -> Job:
    with service.database.read() as session:
        return jobs.own_job(session, who.tenant_id, job_id)


class _form:  # noqa: N801 - reads as a verb at its call
    """Reads a form, and closes its temporary files."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def __aenter__(self) -> FormData:
        try:
            self._data = await self._request.form(max_files=1, max_fields=16, max_part_size=65536)
        except MultiPartException as error:
            raise InvalidRequest("The multipart form cannot be read.") from error
        except Exception as error:
            if type(error).__name__ == "HTTPException":
                raise InvalidRequest("The multipart form cannot be read, or has more than one file.") from error
            raise
        return self._data

    async def __aexit__(self, *_: object) -> None:
        await self._data.close()


def _of_form(form: FormData) -> tuple[Wanted, UploadFile]:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidRequest("The form has no file named `file`.", param="file")
    plain: dict[str, Any] = {name: value for name, value in form.items() if name != "file"}
    try:
        plain |= {"metadata": json.loads(plain["metadata"])} if "metadata" in plain else {}
    except ValueError as error:
        raise InvalidRequest("metadata: not a JSON object.", param="metadata") from error
    body = _checked(plain)
    if body.url or body.upload_id:
        raise InvalidRequest("A form with a file has neither `url` nor `upload_id`.", param="file")
    return _wanted(body, body.source or (file.filename or "upload")[-255:]), file


def _of_json(raw: bytes) -> JobRequest:
    try:
        plain = json.loads(raw)
    except ValueError as error:
        raise InvalidRequest("The body is neither a multipart form nor JSON.") from error
    body = _checked(plain)
    if (body.url is None) == (body.upload_id is None):
        raise InvalidRequest("A job without a file names its content by `url` or by `upload_id`.", param="url")
    return body


def _checked(plain: Any) -> JobRequest:
    try:
        return JobRequest.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidRequest(f"{param}: {first['msg']}.", param=param) from error


def _wanted(body: JobRequest, source: str) -> Wanted:
    clean = source.encode("utf-8", "replace").decode().replace("\x00", "")
    return Wanted(
        source=clean or "upload", policy=body.policy, priority=body.priority, client_ref=body.client_ref,
        meta=body.metadata, callback_url=body.callback_url, keep_evidence=body.keep_evidence,
        retention_seconds=body.retention_seconds, url=body.url, upload_id=body.upload_id,
    )  # fmt: skip
