"""What routes ask for: the service, and a principal with the scope that they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer

from serve.keys import Principal
from serve.request_errors import Forbidden, Unauthorized
from serve.schemas import ProblemBody
from serve.service import Service

_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="api_key", description="An API key.")


def service_of(request: Request) -> Service:
    """Return the parts of this process."""
    service: Service = request.app.state.service
    return service


async def _service(request: Request) -> Service:
    return service_of(request)  # asynchronous, as all dependencies here, so that no thread is needed for it


def _requires(scope: str) -> Callable[..., Awaitable[Principal]]:
    async def principal(request: Request, _bearer: Any = Depends(_bearer), _key: Any = Depends(_header)) -> Principal:  # noqa: B008
        who: Principal | None = getattr(request.state, "principal", None)
        if who is None:
            raise Unauthorized("A valid API key is needed.")
        if not who.may(scope):
            raise Forbidden(f"This needs a key with the scope {scope!r}; yours has {', '.join(sorted(who.scopes))}.")
        return who

    return principal


ServiceDep = Annotated[Service, Depends(_service)]
Submitter = Annotated[Principal, Depends(_requires("submit"))]
Reader = Annotated[Principal, Depends(_requires("read"))]
Reviewer = Annotated[Principal, Depends(_requires("review"))]
Admin = Annotated[Principal, Depends(_requires("admin"))]


def problems(*statuses: int, also: Mapping[int | str, dict[str, Any]] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the errors that a route may answer with, beside those that every route may.

    Args:
        statuses: HTTP statuses of the errors.
        also: other answers than errors.
    """
    always = (400, 401, 403, 422, 429, 500, 503)
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemBody, "description": _MEANING[status], "content": content}
        for status in sorted({*always, *statuses})
    }
    return found | dict(also or {})


_MEANING = {
    400: "The request cannot be read.",
    401: "No valid key.",
    403: "The key lacks the scope.",
    404: "There is no such thing, or it is another tenant's.",
    409: "It is not in the state that this needs.",
    410: "It was deleted.",
    413: "Too large.",
    415: "No media that is decoded here.",
    422: "A field is missing, unknown or not allowed.",
    429: "Too many requests; see Retry-After.",
    500: "Something went wrong inside.",
    501: "A part that this needs is not installed.",
    502: "An address did not answer.",
    503: "Full, or a backend is down; see Retry-After.",
    504: "It takes too long; it goes on as the job that Location names.",
}
