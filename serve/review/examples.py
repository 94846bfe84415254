"""From a reviewer's word to a policy that knows: an example waits for a second person, then joins a layer of policy.

Identical content is decided at once by the override. What resembles it is for the models, and one slip of one person
must not teach them: so whoever confirms is not who proposed.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard.errors import UsageError
from guard.types import Exemplar
from policies import commands, names
from policies.commands import Target
from policies.personalize import By, Outcome
from policies.store import PREFIX
from serve.audit import append
from serve.keys import Principal
from serve.outbox import enqueue
from serve.policy_access import PolicyAccess
from serve.request_errors import Conflict, NotFound
from serve.store.people import Override
from serve.store.tables import ApiKey, Job, Tenant

LAYER = "reviews"
"""Layer of the tenant that examples join where none is named."""


def pending(session: Session, tenant_id: str, *, limit: int = 50) -> list[Override]:
    """Return the examples that wait for a second person, the oldest first."""
    query = select(Override).where(
        Override.tenant_id == tenant_id, Override.exemplar_status == "pending", Override.status == "active"
    )
    return list(session.scalars(query.order_by(Override.created_at, Override.id).limit(limit)))


def confirm(session: Session, principal: Principal, override_id: str, *, policies: PolicyAccess, base: str) -> Outcome:
    """Add an example to the policy that it was proposed for.

    Args:
        session: a writing one.
        principal: who confirms.
        override_id: the word that the example comes from.
        policies: where the tenant's layers are.
        base: what a new layer lies on where the tenant has no policy of its own.

    Raises:
        NotFound: the tenant has no such example.
        Conflict: it is decided already, or it is this person's own.
        InvalidPolicy: a lock forbids it.
    """
    override = _waiting(session, principal, override_id)
    if override.created_by == principal.key_id:
        raise Conflict("An example is confirmed by somebody other than who proposed it.", hint="Ask a colleague.")
    tenant = session.get_one(Tenant, principal.tenant_id)
    layer = override.layer or LAYER
    below = tenant.policy or base
    if below == f"{PREFIX}{layer}":
        below = base
    if below.startswith(PREFIX):
        below = f"{PREFIX}{policies.layer(tenant.id, below.removeprefix(PREFIX))}"
    target = Target(
        layer=policies.ensure(session, tenant.id, layer), below=below, kind="community", store=policies.store.path
    )
    by = By(author=_author(principal), note=f"example {override.id}, proposed by {override.created_by}")
    outcome = _teach(_exemplar(session, override), override.rule or "", target, by)
    override.exemplar_status, override.confirmed_by = "confirmed", principal.key_id
    if tenant.policy is None:
        tenant.policy = f"{PREFIX}{layer}"
    details = {"override": override.id, "rule": override.rule, "layer": layer, "policy_hash": outcome.policy.hash}
    append(
        session,
        tenant.id,
        actor=principal.key_id,
        action="policy.example_added",
        subject=override.sha256,
        details=details,
    )
    enqueue(session, tenant.id, "moderation.policy.updated", {"policy": f"{PREFIX}{layer}", **details})
    return outcome


def reject(session: Session, principal: Principal, override_id: str) -> Override:
    """Leave the policy as it is; the word on this very content stands."""
    override = _waiting(session, principal, override_id)
    override.exemplar_status, override.confirmed_by = "rejected", principal.key_id
    append(session, override.tenant_id, actor=principal.key_id, action="policy.example_rejected",
           subject=override.sha256, details={"override": override.id})  # fmt: skip
    return override


def holders(session: Session, tenant_id: str) -> dict[str, str]:
    """Return the name of whoever holds each key of a tenant, by key id: what people are called on pages."""
    query = select(ApiKey.id, ApiKey.name).where(ApiKey.tenant_id == tenant_id)
    return {row[0]: row[1] for row in session.execute(query)}


def _teach(exemplar: Exemplar, rule: str, target: Target, by: By) -> Outcome:
    """Add to the rule where the policy has it, else make a rule of the example."""
    try:
        return commands.add_examples(rule, [exemplar], target, by)
    except UsageError:
        return commands.block(rule, target, by, examples=[exemplar])


def _exemplar(session: Session, override: Override) -> Exemplar:
    job = session.get(Job, override.job_id) if override.job_id else None
    return Exemplar(
        rule=override.rule or "",
        violates=override.decision == "block",
        rationale=override.rationale,
        source=f"job {job.id}" if job is not None else f"override {override.id}",
        sha256=override.sha256,
    )


def _waiting(session: Session, principal: Principal, override_id: str) -> Override:
    override = session.get(Override, override_id, with_for_update=True)
    if override is None or override.tenant_id != principal.tenant_id or override.exemplar_status == "none":
        raise NotFound(f"There is no example {override_id[:60]!r}.")
    if override.exemplar_status != "pending" or override.status != "active":
        raise Conflict(f"The example is {override.exemplar_status} already.")
    return override


def _author(principal: Principal) -> str:
    """Return a name that the policy store takes; a key may be called anything."""
    try:
        return names.checked(principal.name)
    except UsageError:
        return principal.key_id
