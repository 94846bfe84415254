"""Send what waits in the outbox until it arrives, is given up, or its endpoint is gone.

Two workers never send one delivery at the same time (a lease, taken with SKIP LOCKED on PostgreSQL); one that dies
leaves its lease to run out. So an event may arrive twice and is never lost, and its id tells the receiver.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpcore
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from guard.errors import GuardError, UrlBlocked, UrlFetchFailed
from serve import webhooks
from serve.audit import append
from serve.outbound import Deadline, Reach, Target, http_url, parse_url, pool
from serve.outbox import CALLBACK, callback_secret
from serve.signing import Signer
from serve.store.people import Delivery, DeliveryAttempt, WebhookEndpoint
from serve.store.session import Database
from serve.store.tables import utc_now

log = logging.getLogger(__name__)

_PER_TARGET = 2
"""Deliveries of one target under way at once: a receiver that hangs must not take every sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRules:
    """How deliveries are sent."""

    reach: Reach = field(default_factory=Reach)
    total_seconds: float = 15.0
    lease_seconds: float = 60.0
    at_once: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One delivery that a worker holds."""

    id: str
    url: str
    event_id: str
    body: str
    attempts: int
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one try."""

    status: int | None
    error: str | None
    retry_after: str | None
    duration_ms: float


def claim(session: Session, owner: str, now: datetime, rules: SendRules, signer: Signer) -> list[Due]:
    """Take what is due, the longest overdue first, at most two for one target."""
    free = or_(Delivery.lease_until.is_(None), Delivery.lease_until <= now)
    waits = (Delivery.status == "pending", Delivery.next_attempt_at <= now, free)
    order = (Delivery.next_attempt_at, Delivery.id)
    # Ranked before the limit: a thousand overdue ones of one receiver would fill any window, and hide all others.
    place = func.row_number().over(partition_by=(Delivery.tenant_id, Delivery.target, Delivery.url), order_by=order)
    ranked = select(Delivery.id, place.label("place")).where(*waits).subquery()
    query = select(Delivery).where(*waits, Delivery.id.in_(select(ranked.c.id).where(ranked.c.place <= _PER_TARGET)))
    rows = session.scalars(query.order_by(*order).limit(4 * rules.at_once).with_for_update(skip_locked=True)).all()
    taken: list[Due] = []
    for row in rows:
        keys = _keys(session, row, now, signer)
        if not keys:
            _give_up_all(session, row, now)
        elif len(taken) < rules.at_once:
            row.lease_owner, row.lease_until = owner, now + timedelta(seconds=rules.lease_seconds)
            taken.append(_due(row, keys))
    return taken


def record(session: Session, due: Due, owner: str, answer: Answer, chance: float) -> webhooks.Outcome | None:
    """Note a try and decide what follows; None where another worker has taken the delivery over meanwhile."""
    row = session.get(Delivery, due.id, with_for_update=True)
    if row is None or row.lease_owner != owner:
        return None
    now = utc_now()
    row.attempts += 1
    found = webhooks.outcome(answer.status, row.attempts, chance, answer.retry_after)
    if answer.error == UrlBlocked.code:  # trying again will not make the address public
        found = webhooks.Outcome(state="dead", disable="it leads to an address that is not public")
    logged = len(session.scalars(select(DeliveryAttempt.number).where(DeliveryAttempt.delivery_id == row.id)).all())
    session.add(
        DeliveryAttempt(
            delivery_id=row.id,
            number=logged + 1,
            status=answer.status,
            error=answer.error,
            duration_ms=answer.duration_ms,
        )
    )
    row.status, row.lease_owner, row.lease_until = found.state, None, None
    row.delivered_at = now if found.state == "delivered" else None
    row.next_attempt_at = now + timedelta(seconds=found.delay_seconds or 0)
    if found.disable is not None:
        _disable(session, row, found.disable)
    return found


def send(due: Due, rules: SendRules, now: float) -> Answer:
    """Make one try. Never raises for what the receiver does."""
    started = time.perf_counter()

    def answer(status: int | None, error: str | None = None, retry_after: str | None = None) -> Answer:
        duration = (time.perf_counter() - started) * 1000
        return Answer(status=status, error=error, retry_after=retry_after, duration_ms=duration)

    body = due.body.encode()
    headers = {
        "content-type": "application/json", "content-length": str(len(body)), "user-agent": "video-guard",
        "connection": "close", **webhooks.sign(due.secrets, due.event_id, int(now), body),
    }  # fmt: skip
    try:
        target = parse_url(due.url, rules.reach)
        return answer(*_post(target, headers, body, rules))
    except GuardError as error:
        return answer(None, error.code)
    except httpcore.TimeoutException:
        return answer(None, "timeout")
    except (httpcore.NetworkError, httpcore.ProtocolError):
        return answer(None, UrlFetchFailed.code)


class DeliveryWorker:
    """Sends what is due, until stopped. Run one per process, or in a process of its own."""

    def __init__(
        self,
        database: Database,
        signer: Signer,
        rules: SendRules | None = None,
        *,
        idle_seconds: float = 1.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database, self._signer, self._rules = database, signer, rules or SendRules()
        self._idle, self._chance = idle_seconds, chance
        self._owner = f"webhooks-{secrets.token_hex(8)}"
        self._stop, self._wake = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(self._rules.at_once, thread_name_prefix="guard-webhook")

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stop.is_set():
            try:
                sent = self.run_once()
            except GuardError as error:
                log.warning("webhooks wait: %s", error.code)
                sent = 0
            except Exception:  # one bad delivery must not end the sending of all others
                log.exception("webhooks wait")
                sent = 0
            if sent == 0:
                self._wake.wait(self._idle)
                self._wake.clear()

    def run_once(self) -> int:
        """Send what is due at this moment, once, and return how many tries that were."""
        with self._database.write() as session:
            due = claim(session, self._owner, utc_now(), self._rules, self._signer)
        list(self._threads.map(self._deliver, due))
        return len(due)

    def wake(self) -> None:
        """Look at once instead of after the idle time."""
        self._wake.set()

    def stop(self) -> None:
        """End `run` after the tries that are under way."""
        self._stop.set()
        self._wake.set()

    def close(self) -> None:
        """Stop, and wait for the senders."""
        self.stop()
        self._threads.shutdown(wait=True)

    def _deliver(self, due: Due) -> None:
        answer = send(due, self._rules, time.time())
        with self._database.write() as session:
            found = record(session, due, self._owner, answer, self._chance())
        state = found.state if found else "taken over"
        log.info("webhook %s: status %s, error %s, now %s", due.event_id, answer.status, answer.error, state)


def _post(target: Target, headers: Mapping[str, str], body: bytes, rules: SendRules) -> tuple[int, None, str | None]:
    connections, _ = pool(target, rules.reach, Deadline(rules.total_seconds))
    sent = [("host", target.host_header), *headers.items()]
    with connections, connections.stream("POST", http_url(target), headers=sent, content=body) as response:
        said = {name.lower(): value for name, value in response.headers}
        return response.status, None, said.get(b"retry-after", b"").decode("latin-1")[:64] or None


def _due(row: Delivery, keys: tuple[str, ...]) -> Due:
    return Due(id=row.id, url=row.url, event_id=row.event_id, body=row.body, attempts=row.attempts, secrets=keys)


def _keys(session: Session, row: Delivery, now: datetime, signer: Signer) -> tuple[str, ...]:
    """Return what signs a delivery; nothing where its endpoint was deleted or switched off."""
    if row.target == CALLBACK:
        return (callback_secret(signer, row.tenant_id),)
    endpoint = session.get(WebhookEndpoint, row.target)
    return () if endpoint is None or endpoint.disabled_at is not None else _secrets(endpoint, now)


def _secrets(endpoint: WebhookEndpoint, now: datetime) -> tuple[str, ...]:
    old, until = endpoint.previous_secret, endpoint.previous_until
    return (endpoint.secret, old) if old and until and until > now else (endpoint.secret,)


def _give_up_all(session: Session, row: Delivery, now: datetime) -> None:
    """End all that is due for an endpoint that is not there any more, or switched off."""
    due = (Delivery.tenant_id == row.tenant_id, Delivery.target == row.target, Delivery.next_attempt_at <= now)
    session.execute(update(Delivery).where(*due, Delivery.status == "pending").values(status="dead"))


def _disable(session: Session, row: Delivery, why: str) -> None:
    endpoint = session.get(WebhookEndpoint, row.target) if row.target != CALLBACK else None
    if endpoint is not None and endpoint.disabled_at is None:
        endpoint.disabled_at, endpoint.disabled_reason = utc_now(), why
        append(
            session, row.tenant_id, actor="system", action="webhook.disabled", subject=endpoint.id, details={"why": why}
        )
