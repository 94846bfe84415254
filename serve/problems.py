"""What an error looks like from outside: one body that is both RFC 9457 problem+json and an OpenAI `error` object.

The message is ours, from the catalogue of `guard.errors`; the text of an unexpected exception never leaves the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from guard.errors import GuardError
from serve.failures import failure_of

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:video-guard:error:"
_KINDS: Mapping[int, str] = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
}  # fmt: skip
_RETRY_SECONDS = 1


class Problem(JSONResponse):
    """A response that says what went wrong."""

    media_type = MEDIA_TYPE


def problem(
    error: GuardError,
    *,
    instance: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    status: int | None = None,
) -> Problem:
    """Return the response for an error."""
    status = status or failure_of(error).status
    body = problem_body(error, status=status, instance=instance, request_id=request_id)
    return Problem(body, status_code=status, headers={**_headers(error, status), **(headers or {})})


def problem_body(error: GuardError, *, status: int, instance: str, request_id: str) -> dict[str, Any]:
    """Return the body for an error."""
    message = f"{error.message} {error.hint}".strip()
    return {
        "type": f"{TYPE_PREFIX}{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": status,
        "detail": error.message,
        "instance": instance,
        "code": error.code,
        "hint": error.hint,
        "retryable": error.retryable,
        "request_id": request_id,
        "error": {
            "message": message,
            "type": _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "param": getattr(error, "param", None),
            "code": error.code,
        },
    }


def _headers(error: GuardError, status: int) -> dict[str, str]:
    """Return what tells a client whether to try again: the `openai` client repeats 409 and 5xx unless told not to."""
    found = {"x-should-retry": "true" if error.retryable else "false"}
    if status in (429, 503):
        found["Retry-After"] = str(_RETRY_SECONDS)
    if location := getattr(error, "location", None):
        found["Location"] = location
    if status == 401:
        found["WWW-Authenticate"] = 'Bearer realm="video-guard"'
    return found
