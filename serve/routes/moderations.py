"""`POST /v1/moderations`: the OpenAI moderation API for texts, images and clips."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from guard._version import __version__
from guard.errors import Capacity
from guard.types import Verdict
from serve.depends import ServiceDep, Submitter, problems
from serve.history import history_row
from serve.moderating import Ask, Asked, ask, submit_late, with_overrides
from serve.openai_form import Kind, result_of
from serve.request_errors import InvalidRequest, SyncTimeout
from serve.schemas import ModerationRequest, ModerationResponse
from serve.service import Service

router = APIRouter(prefix="/v1", tags=["moderation"])
MODEL = f"video-guard-{__version__}"


@router.post(
    "/moderations",
    response_model=ModerationResponse,
    responses=problems(404, 413, 415, 501, 502, 504),
    summary="Moderate texts, images and clips at once",
)
async def moderate(body: ModerationRequest, service: ServiceDep, who: Submitter) -> Response:
    """Judge what the request holds, as the OpenAI moderation API does; see docs/serve.md for what is added.

    A clip that takes longer than `sync_seconds` is answered with 504 and goes on as the job that Location names.
    """
    items = items_of(body)
    total = sum(len(item) for item in items)
    if total > service.serve.max_inputs:
        raise InvalidRequest(f"A request holds at most {service.serve.max_inputs} inputs; got {total}.", param="input")
    started = time.perf_counter()
    inputs = [part for item in items for part in item]
    if all(one.kind == "text" for one in inputs) and service.policies.needs_no_query(who.tenant_id, body.policy):
        asked = ask(service, who, inputs, body.policy)
    else:
        service.engine.require_room(sum(one.kind != "text" for one in inputs))  # before a byte of it is decoded
        async with _turn(service, inputs):
            asked = await run_in_threadpool(ask, service, who, inputs, body.policy)
    verdicts = await _answers(service, who, asked, body.policy)
    if not service.overrides.none_for(who.tenant_id):
        verdicts = await run_in_threadpool(with_overrides, service, who, verdicts, body.policy)
    parts = [(one.kind, verdict) for one, verdict in zip(asked, verdicts, strict=True)]
    elapsed_ms = (time.perf_counter() - started) * 1e3
    for kind, verdict in parts:
        service.history.add(history_row(verdict, tenant_id=who.tenant_id, kind=kind, latency_ms=elapsed_ms))
        service.metrics.verdict(kind, verdict)
    return JSONResponse(
        {"id": f"modr-{secrets.token_hex(12)}", "model": MODEL, "results": _results(items, parts, body)}
    )


def _turn(service: Service, inputs: Sequence[Ask]) -> AbstractAsyncContextManager[None]:
    """Return the line to stand in. Raises `Capacity` where as many fetch as may: a slow host holds up nobody else."""
    if any(one.kind != "text" and one.content[:5].lower() != "data:" for one in inputs):
        if service.fetching.locked():
            raise Capacity("As much content is being fetched already as may be at once.")
        return service.fetching
    return service.reading if any(one.kind != "text" for one in inputs) else nullcontext()


def items_of(body: ModerationRequest) -> list[list[Ask]]:
    """Return what is to be judged: one list for each result."""
    if isinstance(body.input, str):
        return [[Ask(kind="text", content=body.input, param="input")]]
    items: list[list[Ask]] = []
    parts: list[Ask] = []
    for index, part in enumerate(body.input):
        param = f"input.{index}"
        if isinstance(part, str):
            items.append([Ask(kind="text", content=part, param=param)])
        elif part.type == "text":
            parts.append(Ask(kind="text", content=part.text, param=param))
        elif part.type == "image_url":
            parts.append(Ask(kind="image", content=part.image_url.url, param=param))
        else:
            parts.append(Ask(kind="video", content=part.video_url.url, param=param))
    return [*items, parts] if parts else items


async def _answers(
    service: ServiceDep, who: Submitter, asked: Sequence[Asked], policy: str | None
) -> Sequence[Verdict]:
    futures = [asyncio.wrap_future(one.answer) for one in asked]
    _, late = await asyncio.wait(futures, timeout=service.serve.sync_seconds)
    if late:
        for one in asked:
            one.answer.cancel()
        job_id = await run_in_threadpool(submit_late, service, who, asked, policy)
        raise SyncTimeout(f"No answer within {service.serve.sync_seconds:g} s.", job_id=job_id)
    return [future.result() for future in futures]


def _results(
    items: Sequence[Sequence[Ask]], parts: Sequence[tuple[Kind, Verdict]], body: ModerationRequest
) -> list[dict[str, Any]]:
    results, at = [], 0
    for item in items:
        results.append(result_of(parts[at : at + len(item)], flag_on=body.flag_on, detail=body.detail))
        at += len(item)
    return results
