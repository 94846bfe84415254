"""Edits of a tenant's layers over the API: the functions of `guard policy`, with the tenant's own names, no paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guard.errors import GuardError, InvalidPolicy
from guard.types import Exemplar, Policy
from policies import commands, load
from policies import text as policy_text
from policies.canonical import rules_to_plain
from policies.compose import Composed, compose
from policies.edits import History
from policies.names import checked
from policies.personalize import By, Outcome
from policies.store import PREFIX
from serve import jobs
from serve.audit import append
from serve.keys import Principal
from serve.outbox import enqueue
from serve.request_errors import NotFound
from serve.schemas import ExampleBody
from serve.service import Service

Edit = Callable[[commands.Target, By], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What an edit led to, as clients see it."""

    policy: str
    version: int
    hash: str
    changed: tuple[str, ...]
    notes: tuple[str, ...]


def edit(service: Service, who: Principal, layer: str, *, below: str, note: str, action: str, make: Edit) -> Published:
    """Make one edit of a layer of this tenant, which is made on its first edit, and tell of it.

    Raises:
        InvalidPolicy: the edit cannot be made; `RuleLocked` where a layer below forbids it.
        PolicyNotFound: there is no `below`.
    """
    base = _below(service, who, below)
    with service.database.write() as session:
        name = service.policies.ensure(session, who.tenant_id, layer)
    target = commands.Target(layer=name, below=base, kind="community", store=service.policies.store.path)
    try:
        outcome = make(target, By(author=checked(who.name), note=_clean(note)[:500]))
    except ValueError as error:
        raise InvalidPolicy(f"The text cannot stand in a policy: {error}.") from error
    except GuardError as error:
        error.message = error.message.replace(name, layer)  # the store's own name means nothing to the tenant
        raise
    version = outcome.history.version
    if outcome.changed:
        details: dict[str, Any] = {
            "layer": layer, "version": version, "changed": list(outcome.changed), "hash": outcome.policy.hash,
        }  # fmt: skip
        with service.database.write() as session:
            append(session, who.tenant_id, actor=who.key_id, action=f"policy.{action}", subject=layer, details=details)
            data = {"policy": f"{PREFIX}{layer}", **details}
            enqueue(session, who.tenant_id, "moderation.policy.updated", data)
    return Published(
        policy=f"{PREFIX}{layer}",
        version=version,
        hash=outcome.policy.hash,
        changed=outcome.changed,
        notes=outcome.notes,
    )


def exemplars(service: Service, who: Principal, examples: Sequence[ExampleBody]) -> list[Exemplar]:
    """Return the examples of a request: texts, or content that was judged as a job of this tenant.

    Raises:
        NotFound: there is no such job, or its content was never read.
        InvalidPolicy: a text holds characters that no policy may hold.
    """
    return [_exemplar(service, who, one) for one in examples]


def at_version(service: Service, tenant_id: str, layer: str, version: int) -> Policy:
    """Return what a layer was after edit `version`. Raises `PolicyNotFound` or `NotFound`."""
    history = service.policies.store.history(service.policies.layer(tenant_id, layer))
    if not 0 <= version <= history.version:
        raise NotFound(f"The layer {layer!r} has the versions 0 to {history.version}; got {version}.")
    then = History(name=history.name, kind=history.kind, below=history.below, edits=history.edits[:version])
    found: Composed = compose(service.policies.store.below(then), [then.layer()])
    return found.policy


def policy_view(policy: Policy, name: str) -> dict[str, Any]:
    """Return a policy as clients see it."""
    return {
        "name": name, "version": policy.version, "hash": policy.hash, "description": policy.description,
        "rules": rules_to_plain(policy.rules),
    }  # fmt: skip


def _below(service: Service, who: Principal, below: str) -> str:
    if below in load.library():
        return below
    if below.startswith(PREFIX):
        return f"{PREFIX}{service.policies.layer(who.tenant_id, below.removeprefix(PREFIX))}"
    service.policies.resolve(who.tenant_id, below)  # says what there is
    raise InvalidPolicy(f"A layer lies on a policy of the library or on another layer; got {below!r}.")


def _exemplar(service: Service, who: Principal, one: ExampleBody) -> Exemplar:
    rationale = _clean(one.rationale)
    if one.job_id is None:
        return Exemplar(rule="", violates=one.violates, text=_clean(one.text or ""), rationale=rationale)
    with service.database.read() as session:
        job = jobs.own_job(session, who.tenant_id, one.job_id)
    if job.sha256 is None:
        raise NotFound("The content of that job was never read.")
    return Exemplar(rule="", violates=one.violates, source=job.id, sha256=job.sha256, rationale=rationale)


def _clean(value: str) -> str:
    try:
        return policy_text.clean(value) if value.strip() else ""
    except ValueError as error:
        raise InvalidPolicy(f"The text {value[:60]!r}: {error}.") from error
