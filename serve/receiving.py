"""From bytes on the wire to content on disk: whole files, and files in pieces."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import BinaryIO

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from guard.errors import RateLimited, TooLarge, Undecodable, UnsupportedMediaType
from guard.limits import refused_start
from serve.blobs import Stored
from serve.keys import Principal
from serve.request_errors import Conflict, Gone, NotFound
from serve.service import Service
from serve.store.tables import Evidence, Job, Upload, utc_now
from serve.submitting import Wanted

_CHUNK = 1 << 20


def keep_upload(service: Service, file: BinaryIO) -> Stored:
    """Copy a file to disk for good.

    Raises:
        TooLarge: more than one request may hold.
        Undecodable: it is empty.
        UnsupportedMediaType: a playlist, a document or plain text.
        Capacity: there is no room.
    """
    limit = service.serve.max_upload_bytes
    service.blobs.require_room(0, used_bytes(service))
    head = file.read(64)
    _check_start(head)
    name, digest, size = service.blobs.new_name(), hashlib.sha256(head), len(head)
    with service.blobs.create(name) as out:
        out.write(head)
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise TooLarge(
                    f"A file has at most {limit} bytes.", hint="POST /v1/uploads takes larger ones in pieces."
                )
            digest.update(chunk)
            out.write(chunk)
    return Stored(name=name, sha256=digest.hexdigest(), size_bytes=size)


def used_bytes(service: Service) -> int:
    """Return the bytes of content on record: no walk over the folder on each request."""
    with service.database.read() as session:
        jobs = session.scalar(select(func.coalesce(func.sum(Job.size_bytes), 0)).where(Job.blob.is_not(None))) or 0
        uploads = session.scalar(select(func.coalesce(func.sum(Upload.size_bytes), 0))) or 0
        pictures = session.scalar(select(func.count()).select_from(Evidence)) or 0
    return int(jobs) + int(uploads) + 20_000 * int(pictures)


def begin_upload(service: Service, who: Principal, size_bytes: int, source: str) -> Upload:
    """Begin an upload in pieces. Raises `TooLarge`, `Capacity`, or `RateLimited` where the tenant has too many open."""
    if size_bytes > service.serve.max_resumable_bytes:
        raise TooLarge(f"A file has at most {service.serve.max_resumable_bytes} bytes; got {size_bytes}.")
    service.blobs.require_room(size_bytes, used_bytes(service))
    _require_share(service, who, size_bytes)
    name = service.blobs.new_name()
    with service.blobs.create(name):
        pass
    until = utc_now() + timedelta(seconds=service.serve.upload_seconds)
    upload = Upload(tenant_id=who.tenant_id, source=source, blob=name, size_bytes=size_bytes, expires_at=until)
    with service.database.write() as session:
        session.add(upload)
    return upload


def _require_share(service: Service, who: Principal, size_bytes: int) -> None:
    """What is announced is kept free: one tenant that announces much and sends nothing must leave room for others."""
    share = max(service.serve.max_resumable_bytes, service.blobs.max_bytes // 4)
    announced = select(func.coalesce(func.sum(Upload.size_bytes), 0))
    with service.database.read() as session:
        open_bytes = session.scalar(announced.where(Upload.tenant_id == who.tenant_id, Upload.job_id.is_(None))) or 0
    if int(open_bytes) + size_bytes > share:
        raise RateLimited(f"Your open uploads would hold more than {share} bytes.", hint="Finish those first.")


def own_upload(session: Session, tenant_id: str, upload_id: str) -> Upload:
    """Return an upload of this tenant. Raises `NotFound`, or `Gone` once it has expired."""
    upload = session.get(Upload, upload_id)
    if upload is None or upload.tenant_id != tenant_id:
        raise NotFound(f"There is no upload {upload_id[:60]!r}.")
    if upload.expires_at <= utc_now():
        raise Gone("The upload has expired.")
    return upload


async def receive_piece(
    service: Service, who: Principal, upload_id: str, offset: int, pieces: AsyncIterator[bytes]
) -> Upload:
    """Append to an upload. What arrived before a connection broke stays, and the next piece goes on from there.

    Raises:
        Conflict: `offset` is not where the upload stands, or another piece is on its way.
        TooLarge: more than was announced.
    """
    upload = await run_in_threadpool(_upload, service, who, upload_id)
    if offset != upload.offset_bytes:
        raise Conflict(f"The upload stands at {upload.offset_bytes}, the piece begins at {offset}.")
    with service.blobs.path(upload.blob).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict("Another piece of this upload is on its way.") from error
        at = await run_in_threadpool(_settled, service, who, upload_id, offset, file)
        try:
            async for piece in pieces:
                if at + len(piece) > upload.size_bytes:
                    raise TooLarge(f"The upload was announced with {upload.size_bytes} bytes; more came.")
                await run_in_threadpool(file.write, piece)
                at += len(piece)
        finally:
            await run_in_threadpool(_settle, service, upload_id, file, at)
    upload.offset_bytes = at
    return upload


def uploaded(service: Service, who: Principal, wanted: Wanted) -> Stored:
    """Return the content of a finished upload. Raises `Conflict` where pieces are missing; `submit` uses it up."""
    with service.database.read() as session:
        upload = own_upload(session, who.tenant_id, wanted.upload_id or "")
    if upload.offset_bytes != upload.size_bytes:
        raise Conflict(f"The upload has {upload.offset_bytes} of {upload.size_bytes} bytes.")
    path = service.blobs.path(upload.blob)
    if not path.exists():
        raise Gone("The content of the upload is gone.")
    with path.open("rb") as file:
        _check_start(file.read(64))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Stored(name=upload.blob, sha256=digest, size_bytes=upload.size_bytes)


def _upload(service: Service, who: Principal, upload_id: str) -> Upload:
    with service.database.read() as session:
        return own_upload(session, who.tenant_id, upload_id)


def _settled(service: Service, who: Principal, upload_id: str, offset: int, file: BinaryIO) -> int:
    """Look again under the lock, and cut off what a broken connection left behind the offset on record."""
    upload = _upload(service, who, upload_id)
    if upload.offset_bytes != offset:
        raise Conflict(f"The upload stands at {upload.offset_bytes}, the piece begins at {offset}.")
    file.truncate(offset)
    file.seek(offset)
    return offset


def _settle(service: Service, upload_id: str, file: BinaryIO, at: int) -> None:
    """First the bytes for good, then the offset that promises them."""
    file.flush()
    os.fsync(file.fileno())
    with service.database.write() as session:
        session.get_one(Upload, upload_id).offset_bytes = at


def _check_start(head: bytes) -> None:
    if not head:
        raise Undecodable("The file is empty.")
    kind = refused_start(head)
    if kind is not None:
        raise UnsupportedMediaType(f"The file is {kind}, not a video; playlists and text are never opened.")
