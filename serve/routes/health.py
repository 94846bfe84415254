"""Whether the process lives, whether it is ready, what it counts, what it is, and what it takes."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from guard._version import __version__
from guard.errors import GuardError
from guard.limits import DECODERS, DEMUXERS
from serve.depends import Reader, ServiceDep, problems
from serve.jobs import counts
from serve.schemas import MAX_TEXT

router = APIRouter(tags=["service"])

_SHOWN = (
    "rate_per_second", "rate_burst", "max_json_bytes", "max_inline_bytes", "max_upload_bytes", "max_resumable_bytes",
    "max_batch_bytes", "max_batch_lines", "max_inputs", "sync_seconds", "tenant_queued", "tenant_running",
    "tenant_media_seconds_per_day", "max_wait_seconds", "content_seconds", "review_content_seconds",
    "evidence_seconds", "record_seconds", "idempotency_seconds", "upload_seconds", "cursor_seconds", "fetch_urls",
)  # fmt: skip


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Say that the process lives. No key needed."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Not ready; the body says which part."}})
def readyz(service: ServiceDep) -> Response:
    """Say whether new work would be taken, part by part. No key needed."""
    parts = {"database": _database(service), "engine": service.engine.ready(), "disk": _disk(service)}
    ready = all(parts.values()) and not service.stopping.is_set()
    body = {"ready": ready, "parts": {name: "ok" if fine else "not ready" for name, fine in parts.items()}}
    return JSONResponse(body, status_code=200 if ready else 503, headers={} if ready else {"Retry-After": "5"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: ServiceDep) -> Response:
    """Count requests, verdicts and jobs, for Prometheus. No key needed: keep it off the outside."""
    shown = service.metrics
    shown.pending.labels("media").set(service.engine.pending_media)
    shown.pending.labels("text").set(service.engine.pending_texts)
    with service.database.read() as session:
        for status, number in counts(session).items():
            shown.queued.labels(status).set(number)
    return Response(shown.text(), media_type="text/plain; version=0.0.4")


@router.get("/version")
def version() -> dict[str, str]:
    """Name the version. No key needed."""
    return {"video_guard": __version__, "python": platform.python_version()}


@router.get("/limits", responses=problems())
def limits(service: ServiceDep, who: Reader) -> dict[str, Any]:
    """List every bound on requests and media, for clients that want to know beforehand."""
    serve = service.serve
    return {
        "service": {name: getattr(serve, name) for name in _SHOWN} | {"max_text_characters": MAX_TEXT},
        "media": asdict(service.engine.guard.limits),
        "containers": list(DEMUXERS),
        "codecs": list(DECODERS),
    }


def _database(service: ServiceDep) -> bool:
    try:
        service.database.ping()
    except GuardError:
        return False
    return True


def _disk(service: ServiceDep) -> bool:
    try:
        service.blobs.require_room(service.serve.max_upload_bytes, 0)
    except GuardError:
        return False
    return True
