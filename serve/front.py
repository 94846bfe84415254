"""What every request meets first: an id, headers, the key, the rate, and the bound on its body, in this order.

Plain ASGI, because a body must not be read, let alone parsed, for somebody who may not send one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guard.errors import Capacity, GuardError, RateLimited, TooLarge
from serve.keys import Principal
from serve.problems import problem
from serve.request_errors import InvalidRequest, Unauthorized

if TYPE_CHECKING:
    from serve.service import Service

log = logging.getLogger("serve.access")

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/version", "/openapi.json", "/metrics"})
"""Paths without a key: they say nothing of anybody's content."""
_LEAST_BYTES_PER_SECOND = 8 << 10
"""What a body must come at, after `body_seconds`: slow enough for any line and any disk, 100 MB in 3.5 hours."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimit:
    """How large the body of a request may be, by its path, its method and its type."""

    path: str
    """All of the path, or its beginning where it ends with a slash; empty for every path."""
    max_bytes: int
    method: str | None = None
    media_type: str = ""
    """Beginning of the content type."""
    to_disk: bool = False
    """Whether it is written as it comes; others lie in memory until they are answered."""

    def fits(self, scope: Scope, headers: Headers) -> bool:
        """Whether this is the bound of a request."""
        path: str = scope["path"]
        here = path == self.path or (self.path[-1:] in ("", "/") and path.startswith(self.path))
        typed = headers.get("content-type", "").lower().startswith(self.media_type)
        return here and typed and self.method in (None, scope["method"])


class Front:
    """Outermost layer of the API. Pages under `/review` sign in by themselves; they pass with the id and the bounds."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service], limits: tuple[BodyLimit, ...]) -> None:
        self._app = app
        self._service = service
        self._limits = limits
        self._in_memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, send)
        try:
            await self._admit(scope, call)
            await self._app(scope, self._bounded(scope, receive, call), call.send)
        except GuardError as error:
            await call.fail(error, scope, receive)
        except ClientDisconnect:
            log.info("%s the client went away", call.request_id)
        except Exception:
            log.exception("request %s failed", call.request_id)
            await call.fail(GuardError("Something went wrong inside; the log has the details."), scope, receive)
        finally:
            self._in_memory -= call.in_memory
            self._note(scope, call)

    async def _admit(self, scope: Scope, call: _Call) -> None:
        path: str = scope["path"]
        if path in OPEN_PATHS or path.startswith(("/review", "/v1/evidence-signed/")):
            return
        service = self._service()
        presented = _presented(Headers(scope=scope))
        principal = service.keyring.remembered(presented)  # a hop to a thread and back costs more than all the rest
        if principal is None:
            principal = await run_in_threadpool(service.keyring.principal, presented)
        if principal is None:
            raise Unauthorized("A valid API key is needed.")
        scope["state"]["principal"] = principal
        taken = service.limiter.take(principal.key_id)
        call.headers |= taken.headers()
        if not taken.allowed:
            raise RateLimited("This key has made too many requests.", hint="Wait as long as Retry-After says.")

    def _bounded(self, scope: Scope, receive: Receive, call: _Call) -> Receive:
        """Return a `receive` that ends bodies which are too large or too slow."""
        headers = Headers(scope=scope)
        bound = next(x for x in self._limits if x.fits(scope, headers))
        limit = bound.max_bytes
        declared = headers.get("content-length", "")
        expected = int(declared) if declared.isascii() and declared.isdigit() else 0
        if expected > limit:
            raise _too_large(limit)
        if not bound.to_disk:
            self._require_memory(expected)
        if scope["path"] == "/v1/moderations" and len(declared) > 5 and not self._service().engine.ready():
            # 100 kB and more are no text: what will be refused need not be read first
            raise Capacity("As many images and clips wait already as may.")
        seconds, seen, begun = self._service().serve.body_seconds, 0, time.monotonic()

        async def bounded() -> Message:
            nonlocal seen
            if call.body_done:
                return await receive()
            try:
                # A byte now and then keeps every single wait short: the whole must come at a rate as well.
                left = begun + seconds + seen / _LEAST_BYTES_PER_SECOND - time.monotonic()
                message = await asyncio.wait_for(receive(), max(0.001, min(seconds, left)))
            except TimeoutError as error:
                raise InvalidRequest(f"The body came too slowly, or not at all for {seconds:g} s.") from error
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                seen += size
                call.body_done = not message.get("more_body", False)
                if seen > limit:
                    raise _too_large(limit)
                if not bound.to_disk:
                    self._require_memory(size)
                    self._in_memory += size
                    call.in_memory += size
            return message

        return bounded

    def _require_memory(self, size: int) -> None:
        if size and self._in_memory + size > self._service().serve.max_bodies_bytes:
            raise Capacity("Too many large requests are being answered already.")

    def _note(self, scope: Scope, call: _Call) -> None:
        seconds = time.perf_counter() - call.started
        route = getattr(scope.get("route"), "path", "other")
        self._service().metrics.request(scope["method"], route, call.status, seconds)
        who: Principal | None = scope["state"].get("principal")
        log.info(
            "%s %s %s %d %.1fms tenant=%s", call.request_id, scope["method"], route, call.status, seconds * 1e3,
            who.tenant_id if who else "-",
        )  # fmt: skip


class _Call:
    """One request: its id, and what is added to the answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        self.headers = {"x-request-id": self.request_id}
        self.started = time.perf_counter()
        self.status = 0
        self.body_done = False
        self.in_memory = 0
        """Bytes of the body, which lie in memory until the answer is given."""
        self._send = send
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        """Send on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self.headers.items():
                headers[name] = value
            for name, value in _SECURITY.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def fail(self, error: GuardError, scope: Scope, receive: Receive) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            raise error
        closing = {} if self.body_done else {"Connection": "close"}  # the rest of the body is not waited for
        answer = problem(
            error, instance=scope["path"], request_id=self.request_id, headers={**closing, **_retry(self.headers)}
        )
        await answer(scope, receive, self.send)


def _retry(headers: dict[str, str]) -> dict[str, Any]:
    return {"Retry-After": headers["Retry-After"]} if "Retry-After" in headers else {}


def _presented(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than the {limit} bytes that this address takes.",
        hint="GET /limits lists every bound; POST /v1/uploads takes large files in pieces.",
    )
