"""From the parts of a request to verdicts on their way: texts in batches, media in line."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from guard.errors import GuardError
from guard.types import Policy, Verdict
from serve.content import content_of
from serve.keys import Principal
from serve.openai_form import Kind
from serve.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One input as it came."""

    kind: Kind
    content: str
    """The text, or the URL of an image or clip."""
    param: str
    """Where in the request it stands, for errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One input whose verdict is on its way."""

    kind: Kind
    answer: Future[Verdict]
    data: bytes | None = None
    """Content of an image or clip."""


def ask(service: Service, who: Principal, inputs: Sequence[Ask], policy_name: str | None) -> list[Asked]:
    """Put inputs in line. All are read before the first is judged, so a bad one costs nothing.

    Raises:
        GuardError: an input is malformed, there is no such policy, or too many wait; see `serve.content`.
    """
    policy = service.policies.resolve(who.tenant_id, policy_name)
    rules = service.fetch_rules(service.serve.max_inline_bytes)
    data = [None if one.kind == "text" else content_of(one.content, rules, param=one.param) for one in inputs]
    asked: list[Asked] = []
    texts = iter(_texts(service, [one.content for one in inputs if one.kind == "text"], policy))
    try:
        for one, content in zip(inputs, data, strict=True):
            answer = next(texts) if content is None else service.engine.submit_media(content, policy, name=one.kind)
            asked.append(Asked(kind=one.kind, answer=answer, data=content))
    except GuardError:
        for each in asked:  # no room for all: the work of those before would be for nobody
            each.answer.cancel()
        raise
    return asked


def with_overrides(
    service: Service, who: Principal, verdicts: Sequence[Verdict], policy_name: str | None
) -> Sequence[Verdict]:
    """Return the verdicts as people decided on the same content before."""
    policy = service.engine.media_policy(service.policies.resolve(who.tenant_id, policy_name))
    return service.overrides.apply(who.tenant_id, verdicts, policy)


def submit_late(service: Service, who: Principal, asked: Sequence[Asked], policy_name: str | None) -> str | None:
    """Make a job of a clip that took too long; only where the request held just that. Returns the job's id."""
    from serve.submitting import submit_bytes

    if len(asked) != 1 or asked[0].data is None:
        return None
    return submit_bytes(service, who, asked[0].data, source=asked[0].kind, policy=policy_name)


def _texts(service: Service, texts: Sequence[str], policy: Policy | None) -> list[Future[Verdict]]:
    return service.engine.submit_texts(texts, policy) if texts else []
