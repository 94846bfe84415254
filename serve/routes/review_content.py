"""What the review page loads: the clip, its evidence frames, and the page's own files.

A clip is served with a type from a fixed list, by its first bytes and never by its name, and in a sandbox: it can only
ever be played.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from guard.limits import looks_like_media, refused_start
from serve.audit import append
from serve.depends import ServiceDep
from serve.request_errors import NotFound
from serve.review import decisions, rendering
from serve.review.forms import VisitorDep
from serve.review.rendering import PageRoute
from serve.store.tables import Evidence

router = APIRouter(prefix="/review", route_class=PageRoute, include_in_schema=False)
_TYPES: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyp", "video/mp4"), (0, b"\x1aE\xdf\xa3", "video/webm"), (0, b"OggS", "video/ogg"),
    (0, b"GIF8", "image/gif"), (0, b"\x89PNG", "image/png"), (0, b"\xff\xd8\xff", "image/jpeg"),
    (8, b"WEBP", "image/webp"),
)  # fmt: skip
_CONTENT_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
    "Content-Disposition": "inline",
}


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Send a file of the pages; its address changes with its content."""
    try:
        content, kind = rendering.asset(name)
    except KeyError as error:
        raise NotFound("There is no such file.") from error
    return Response(content, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


@router.get("/media/{job_id}")
def media(job_id: str, request: Request, service: ServiceDep, visitor: VisitorDep) -> Response:
    """Send the clip, or the part of it that a player asks for. The first request of a playback goes on record."""
    with service.database.read() as session:
        job = decisions.own_job(session, visitor.principal, job_id)
        path = service.blobs.path(job.blob) if job.blob is not None else None
    if path is None or not path.is_file():
        raise NotFound("The content of this job is not kept any more.")
    kind = type_of(path)
    if request.headers.get("range", "bytes=0-").startswith("bytes=0-"):
        with service.database.write() as session:
            append(session, job.tenant_id, actor=visitor.principal.key_id, action="content.viewed", subject=job.id)
    return FileResponse(path, media_type=kind, headers=_CONTENT_HEADERS)


@router.get("/evidence/{evidence_id}.jpg")
def evidence(evidence_id: str, service: ServiceDep, visitor: VisitorDep) -> Response:
    """Send one evidence frame."""
    with service.database.read() as session:
        row = session.get(Evidence, evidence_id)
    if row is None or row.tenant_id != visitor.principal.tenant_id or not service.blobs.path(row.blob).is_file():
        raise NotFound("There is no such frame.")
    return FileResponse(service.blobs.path(row.blob), media_type="image/jpeg", headers=_CONTENT_HEADERS)


def type_of(path: Path) -> str:
    """Return how content is sent, by its first bytes. What is no media we know is only ever a download."""
    with path.open("rb") as file:
        head = file.read(64)
    if refused_start(head) is not None or not looks_like_media(head):
        return "application/octet-stream"
    found: list[Any] = [kind for offset, mark, kind in _TYPES if head[offset : offset + len(mark)] == mark]
    return str(found[0]) if found else "application/octet-stream"
