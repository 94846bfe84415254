"""What can be wrong with a request, apart from its content. Listed in `serve.failures` with the rest of the tree."""

from __future__ import annotations

from guard.errors import UsageError


class InvalidRequest(UsageError):
    """A field is missing, unknown or has a value that is not allowed."""

    code = "invalid_request"
    default_hint = "See /openapi.json for the fields and their types."

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        """Where in the request, such as `input.0.text`."""


class Unauthorized(UsageError):
    """No key, or one that is nobody's."""

    code = "unauthorized"
    default_hint = "Send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`; make one with `guard keys create`."


class Forbidden(UsageError):
    """The key lacks the scope."""

    code = "forbidden"
    default_hint = "Use a key with the scope that the message names."


class NotFound(UsageError):
    """There is no such thing, or it is somebody else's: which of the two is not told."""

    code = "not_found"
    default_hint = "Check the id, and that the key belongs to the tenant that made it."


class MethodNotAllowed(UsageError):
    """The path is there, the method is not."""

    code = "method_not_allowed"
    default_hint = "See the Allow header."


class Gone(UsageError):
    """It was there and was deleted."""

    code = "gone"
    default_hint = "Submit the content again if a verdict is needed."


class Conflict(UsageError):
    """It is not in the state that the request needs."""

    code = "conflict"
    default_hint = "Read it again and repeat the request on what is there now."


class IdempotencyMismatch(UsageError):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_mismatch"
    default_hint = "Use a new key for a new request."


class SyncTimeout(UsageError):
    """The answer takes longer than a client should wait; it goes on as a job."""

    code = "sync_timeout"
    default_hint = "POST /v1/jobs takes content that needs longer."

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        self.location = f"/v1/jobs/{job_id}" if job_id else None
        """Where it goes on; None where the request held more than one clip."""
        super().__init__(message, hint=f"It goes on as GET {self.location}." if self.location else None)
