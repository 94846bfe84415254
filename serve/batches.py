"""Batches: a file of moderation requests, one a line, answered line by line. A line is answered once, whoever dies.

The answers already in the database are where a worker goes on, and their key (batch and line) makes a second answer to
a line impossible. One worker at a time holds a batch, by a lease like those of jobs.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from guard.errors import Capacity, GuardError, TooLarge
from serve.failures import failure_of
from serve.history import history_row
from serve.keys import Principal
from serve.moderating import Asked, ask, with_overrides
from serve.openai_form import result_of
from serve.problems import problem_body
from serve.request_errors import InvalidRequest, NotFound
from serve.routes.moderations import MODEL, items_of
from serve.schemas import ModerationRequest
from serve.service import Service
from serve.store.tables import Batch, BatchLine, utc_now

log = logging.getLogger(__name__)

CHUNK = 16
"""Lines in one transaction: what is judged again where a worker dies in between."""
_LINES_AT_ONCE = 4
ENDPOINT = "/v1/moderations"
_FULL_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a batch, parsed as far as it can be."""

    number: int
    custom_id: str
    body: ModerationRequest | None
    error: GuardError | None = None


def own_batch(session: Session, tenant_id: str, batch_id: str) -> Batch:
    """Return a batch of this tenant. Raises `NotFound`."""
    row = session.get(Batch, batch_id)
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"There is no batch {batch_id[:60]!r}.")
    return row


def count_lines(path: Path, most: int) -> int:
    """Return the number of lines with something on them. Raises `InvalidRequest` for none, or for more than `most`."""
    with path.open("rb") as file:
        total = sum(1 for line in file if line.strip())
    if not 1 <= total <= most:
        raise InvalidRequest(f"A batch has 1 to {most} lines; got {total}.")
    return total


def rows_of(path: Path, max_line_bytes: int = 28 << 20) -> Iterator[Row]:
    """Yield the lines, numbered from 1. A line that cannot be read is a row with an error: the others go on."""
    with path.open("rb") as file:
        for number, line in enumerate((line for line in file if line.strip()), 1):
            if len(line) > max_line_bytes:
                error = TooLarge(f"A line has at most {max_line_bytes} bytes; got {len(line)}.")
                yield Row(number=number, custom_id="", body=None, error=error)
            else:
                yield _row(number, line)


def _row(number: int, line: bytes) -> Row:
    custom_id = ""
    try:
        plain = json.loads(line)
        if not isinstance(plain, dict):
            raise InvalidRequest("A line is a JSON object.")
        custom_id = str(plain.get("custom_id", ""))[:255]
        if plain.get("method", "POST") != "POST" or plain.get("url", ENDPOINT) != ENDPOINT:
            raise InvalidRequest(f"A line asks for POST {ENDPOINT}.", param="url")
        body = ModerationRequest.model_validate(plain.get("body"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        return Row(number=number, custom_id=custom_id, body=None, error=InvalidRequest(f"{where}: {first['msg']}."))
    except GuardError as error:
        return Row(number=number, custom_id=custom_id, body=None, error=error)
    except (ValueError, RecursionError):
        return Row(number=number, custom_id=custom_id, body=None, error=InvalidRequest("The line is not JSON."))
    return Row(number=number, custom_id=custom_id, body=body)


def claim(session: Session, owner: str, lease_seconds: float) -> Batch | None:
    """Lease the oldest batch that nobody holds."""
    now = utc_now()
    free = or_(Batch.lease_until.is_(None), Batch.lease_until < now)
    query = select(Batch).where(Batch.status == "in_progress", free).order_by(Batch.created_at)
    batch = session.scalar(query.limit(1).with_for_update(skip_locked=True))
    if batch is not None:
        batch.lease_owner, batch.lease_until = owner, now + timedelta(seconds=lease_seconds)
    return batch


class BatchWorker:
    """One thread that answers batches."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._owner = f"batch-{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(6)}"
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(_LINES_AT_ONCE, thread_name_prefix="guard-batch-line")
        self._thread = threading.Thread(target=self._work, name="guard-batches", daemon=True)

    def start(self) -> BatchWorker:
        """Start the thread."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End after the lines under way, and give the batch back."""
        self._stop.set()
        self._thread.join(timeout=30)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def run_one(self) -> bool:
        """Answer one batch to its end, or until told to stop; False where there is none."""
        service = self._service
        with service.database.read() as session:
            if session.scalar(select(Batch.id).where(Batch.status == "in_progress").limit(1)) is None:
                return False
        with service.database.write() as session:
            batch = claim(session, self._owner, self._lease_seconds)
        if batch is None:
            return False
        self._run(batch)
        return True

    @property
    def _lease_seconds(self) -> float:
        """A chunk of clips may take its time; a batch that waits for a dead worker loses nothing but time."""
        return max(60.0, 4 * self._service.serve.lease_seconds)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                found = self.run_one()
            except Exception:
                log.exception("a batch was interrupted; it goes on from its last answer")
                found = False
            if not found:
                self._stop.wait(self._service.serve.poll_seconds)

    def _run(self, batch: Batch) -> None:
        service = self._service
        with service.database.read() as session:
            done = session.scalar(select(func.max(BatchLine.number)).where(BatchLine.batch_id == batch.id)) or 0
        lines = (
            row
            for row in rows_of(service.blobs.path(batch.blob or ""), service.serve.max_json_bytes)
            if row.number > done
        )
        who = Principal(tenant_id=batch.tenant_id, key_id=batch.id, name=batch.id, scopes=frozenset({"submit"}))
        if not self._keep(batch.id, []):  # cancelled before it was begun
            return
        while chunk := list(islice(lines, CHUNK)):
            try:
                answers = self._answers(chunk, who, batch.policy)
            except Capacity:  # shutting down: no answer at all rather than a 503 that would stand for good
                self._give_back(batch.id)
                return
            if not self._keep(batch.id, answers):
                return
            if self._stop.is_set():
                self._give_back(batch.id)
                return
        self._finish(batch.id)

    def _answers(self, chunk: Sequence[Row], who: Principal, policy: str | None) -> list[BatchLine]:
        """Answer lines side by side. The lease is renewed meanwhile: clips may take longer than any lease."""
        asked = [self._threads.submit(self._answer, row, who, policy) for row in chunk]
        while wait(asked, timeout=self._lease_seconds / 3).not_done:
            if not self._keep(who.key_id, []):  # cancelled, or somebody else's: what has not begun need not
                for one in asked:
                    one.cancel()
                return []
        return [one.result() for one in asked]

    def _answer(self, row: Row, who: Principal, policy: str | None) -> BatchLine:
        service, request_id = self._service, f"{who.key_id}-{row.number}"
        try:
            if row.error is not None:
                raise row.error
            if row.body is None:
                raise InvalidRequest("The line has no body.")
            body = _moderate(service, who, row.body, policy)
            status = 200
        except Capacity:
            raise
        except GuardError as error:
            status = failure_of(error).status
            body = problem_body(error, status=status, instance=ENDPOINT, request_id=request_id)
        except Exception:
            log.exception("line %d of %s failed", row.number, who.key_id)
            inside = GuardError("Something went wrong inside; the log has the details.")
            status, body = 500, problem_body(inside, status=500, instance=ENDPOINT, request_id=request_id)
        response = {"status_code": status, "request_id": request_id, "body": body}
        return BatchLine(
            batch_id=who.key_id, number=row.number, custom_id=row.custom_id, status=status, response=response
        )

    def _keep(self, batch_id: str, answers: Iterable[BatchLine]) -> bool:
        """Write a chunk and renew the lease; False where the batch was cancelled or is somebody else's now."""
        with self._service.database.write() as session:
            batch = session.get_one(Batch, batch_id, with_for_update=True)
            if batch.lease_owner != self._owner or batch.status != "in_progress":
                return False
            for line in answers:
                session.add(line)
                batch.completed += line.status == 200
                batch.failed += line.status != 200
            if batch.cancel_requested:
                _end(batch, "cancelled")
                return False
            batch.lease_until = utc_now() + timedelta(seconds=self._lease_seconds)
            return True

    def _finish(self, batch_id: str) -> None:
        with self._service.database.write() as session:
            batch = session.get_one(Batch, batch_id, with_for_update=True)
            if batch.lease_owner == self._owner:
                _end(batch, "completed")

    def _give_back(self, batch_id: str) -> None:
        with self._service.database.write() as session:
            batch = session.get_one(Batch, batch_id, with_for_update=True)
            if batch.lease_owner == self._owner:
                batch.lease_owner = batch.lease_until = None


def _end(batch: Batch, status: str) -> None:
    now = utc_now()
    batch.status, batch.finished_at, batch.lease_owner, batch.lease_until = status, now, None, None
    batch.purge_at = now  # the requests, which hold content; the answers stay


def _moderate(service: Service, who: Principal, body: ModerationRequest, policy: str | None) -> dict[str, Any]:
    items, name = items_of(body), body.policy or policy
    parts = [part for item in items for part in item]
    if len(parts) > service.serve.max_inputs:
        raise InvalidRequest(
            f"A line holds at most {service.serve.max_inputs} inputs; got {len(parts)}.", param="input"
        )
    media, most = sum(part.kind != "text" for part in parts), service.serve.max_pending_media
    if media > most:  # it would wait for room for ever
        raise InvalidRequest(f"A line holds at most {most} images and clips; got {media}.", param="input")
    started = time.perf_counter()
    asked: list[Asked] = _patiently(service, lambda: ask(service, who, parts, name))
    verdicts = with_overrides(service, who, [one.answer.result() for one in asked], name)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    judged = [(one.kind, verdict) for one, verdict in zip(asked, verdicts, strict=True)]
    for kind, verdict in judged:
        service.history.add(history_row(verdict, tenant_id=who.tenant_id, kind=kind, latency_ms=elapsed_ms))
        service.metrics.verdict(kind, verdict)
    results, at = [], 0
    for item in items:
        results.append(result_of(judged[at : at + len(item)], flag_on=body.flag_on, detail=body.detail))
        at += len(item)
    return {"id": f"modr-{secrets.token_hex(12)}", "model": MODEL, "results": results}


def _patiently(service: Service, make: Any) -> Any:
    """Ask until there is room: a batch waits for the requests of people, not the other way round."""
    while True:
        try:
            return make()
        except Capacity:
            if service.stopping.wait(_FULL_SECONDS):
                raise
