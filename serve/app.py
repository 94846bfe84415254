"""The FastAPI application: routes, the front that every request passes, and errors in one form."""

from __future__ import annotations

import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from guard._version import __version__
from guard.errors import GuardError
from serve import routes
from serve.front import BodyLimit, Front
from serve.problems import problem
from serve.request_errors import InvalidRequest, MethodNotAllowed, NotFound
from serve.service import Service
from serve.settings import ServeSettings

Build = Callable[[], Service]
Run = Callable[[Service], Any]


def make_app(build: Build, serve: ServeSettings, *, run: Run | None = None) -> FastAPI:
    """Return the application.

    Args:
        build: builds the parts when the server starts, in the process that serves.
        serve: bounds of the bodies, which hold from the first byte.
        run: starts the workers that live in this process, and returns what `close` ends, or None.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = build()
        app.state.service = service
        workers = run(service) if run is not None else None
        try:
            yield
        finally:
            service.stopping.set()
            if workers is not None:
                workers.close()
            service.close()

    app = FastAPI(
        title="video-guard",
        version=__version__,
        summary="Video moderation: screen every input, give a reason for every decision.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    for router in routers():
        app.include_router(router)
    app.add_middleware(Front, service=lambda: app.state.service, limits=body_limits(serve))
    app.add_exception_handler(GuardError, _on_guard_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def routers() -> list[APIRouter]:
    """Return the router of every module of `serve.routes` that has one: a file there is a noun of the API."""
    names = sorted(module.name for module in pkgutil.iter_modules(routes.__path__))
    found = (getattr(import_module(f"serve.routes.{name}"), "router", None) for name in names)
    return [router for router in found if router is not None]


def body_limits(serve: ServeSettings) -> tuple[BodyLimit, ...]:
    """Return how large bodies may be, the first that fits; the last one fits all."""
    room = 1 << 20  # the fields beside a file
    form = "multipart/form-data"
    return (
        BodyLimit(path="/v1/uploads/", method="PATCH", max_bytes=serve.max_resumable_bytes, to_disk=True),
        BodyLimit(
            path="/v1/jobs", method="POST", media_type=form, max_bytes=serve.max_upload_bytes + room, to_disk=True
        ),
        BodyLimit(path="/v1/batches", method="POST", max_bytes=serve.max_batch_bytes + room, to_disk=True),
        BodyLimit(path="/v1/moderations", method="POST", max_bytes=serve.max_json_bytes),
        BodyLimit(path="/v1/policies/", method="POST", max_bytes=serve.max_json_bytes),
        BodyLimit(path="", max_bytes=room),
    )


async def _on_guard_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GuardError)  # noqa: S101 - registered for it
    return _answer(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    param = ".".join(where[1:]) or where[0]
    unreadable = first["type"] in ("json_invalid",)
    found = InvalidRequest(f"{param}: {first['msg']}.", param=param)
    return _answer(request, found, status=400 if unreadable else None)


async def _on_http(request: Request, error: Exception) -> Response:
    """Give the framework's own refusals our form."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if isinstance(error.__cause__, GuardError):  # a bound that a body met while it was parsed
        return _answer(request, error.__cause__)
    if error.status_code == 404:
        return _answer(request, NotFound("There is no such address.", hint="See /openapi.json."))
    if error.status_code == 405:
        return _answer(request, MethodNotAllowed(f"{request.method} is not for this address."), headers=error.headers)
    return _answer(request, InvalidRequest("The request cannot be read."), status=error.status_code)


def _answer(request: Request, error: GuardError, *, status: int | None = None, headers: Any = None) -> Response:
    request_id = getattr(request.state, "request_id", "")
    return problem(error, instance=request.url.path, request_id=request_id, headers=headers, status=status)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the document; errors are of our own form, not of the framework's."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
        )
        for path in document["paths"].values():
            for operation in path.values():
                _only_our_errors(operation)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def _only_our_errors(operation: dict[str, Any]) -> None:
    for answer in operation["responses"].values():
        content = answer.get("content", {})
        ours = content.get("application/problem+json")
        if ours is not None:
            answer["content"] = {"application/problem+json": ours}
        elif "HTTPValidationError" in str(content):
            schema = {"$ref": "#/components/schemas/ProblemBody"}
            answer["content"] = {"application/problem+json": {"schema": schema}}
