"""`/v1/policies` and `/v1/taxonomy`: what there is, what it says, and edits of one's own layers."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path

from guard import taxonomy
from guard.errors import UsageError
from guard.types import Policy, Verdict
from policies import commands, load
from policies.store import PREFIX
from serve import jobs
from serve.audit import append
from serve.depends import Admin, Reader, ServiceDep, problems
from serve.keys import Principal
from serve.policy_edits import Published, at_version, edit, exemplars, policy_view
from serve.request_errors import NotFound, SyncTimeout
from serve.review.editing import preview, redecide
from serve.schemas import (
    BlockBody,
    DryRunBody,
    ExtendBody,
    OwnPolicyBody,
    PublishedView,
    RevertBody,
    TestBody,
    TestCase,
    UnblockBody,
)
from serve.service import Service
from serve.store.tables import Result, Tenant
from serve.views import iso

router = APIRouter(prefix="/v1", tags=["policies"])
LayerName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
Name = Annotated[str, Path(min_length=1, max_length=120)]
_EDIT: dict[str, Any] = {"response_model": PublishedView, "responses": problems(404, 409, 410)}


@router.get("/taxonomy", responses=problems(), summary="List the categories")
def categories(who: Reader) -> dict[str, Any]:
    """List every built-in category, with the keys of other schemes that it maps to."""
    found = [asdict(category) | {"parent": category.parent} for category in taxonomy.categories().values()]
    return {"categories": found, "openai_keys": list(taxonomy.OPENAI_KEYS)}


@router.get("/policies", responses=problems(), summary="List the policies")
def list_policies(service: ServiceDep, who: Reader) -> dict[str, Any]:
    """List the policies of the library and the tenant's own layers; one that cannot be used says why."""
    found = [_listed(load.load_policy(name), name, "library") for name in load.library()]
    for layer in service.policies.layers(who.tenant_id):
        name = f"{PREFIX}{layer.name}"
        try:
            policy = service.policies.resolve(who.tenant_id, name)
        except UsageError as error:
            found.append({"name": name, "kind": "layer", "problem": error.message})
        else:
            found += [] if policy is None else [_listed(policy, name, "layer") | {"created_at": iso(layer.created_at)}]
    return {"data": found}


@router.get("/policy", responses=problems(), summary="Read which policy is the tenant's own")
def own_policy(service: ServiceDep, who: Reader) -> dict[str, Any]:
    """Name the policy that decides where a request names none; null for that of the service."""
    with service.database.read() as session:
        return {"policy": session.get_one(Tenant, who.tenant_id).policy}


@router.put("/policy", responses=problems(404), summary="Set the tenant's own policy")
def set_own_policy(body: OwnPolicyBody, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Choose the policy that decides where a request names none; in force within two seconds."""
    if body.policy is not None:
        _policy(service, who, body.policy)
    with service.database.write() as session:
        session.get_one(Tenant, who.tenant_id).policy = body.policy
        details = {"policy": body.policy}
        append(session, who.tenant_id, actor=who.key_id, action="policy.chosen", subject="policy", details=details)
    return {"policy": body.policy}


@router.get("/policies/{name}", responses=problems(404), summary="Read a policy")
def read(name: Name, service: ServiceDep, who: Reader) -> dict[str, Any]:
    """Show the effective policy: all rules, as every layer below left them."""
    return policy_view(_policy(service, who, name), name)


@router.get("/policies/{name}/versions", responses=problems(404), summary="List the edits of a layer")
def versions(name: Name, service: ServiceDep, who: Reader) -> dict[str, Any]:
    """List who changed what and when; a policy of the library has the version that it came with."""
    if not name.startswith(PREFIX):
        policy = _policy(service, who, name)
        return {"data": [{"version": policy.version, "hash": policy.hash}]}
    history = service.policies.store.history(service.policies.layer(who.tenant_id, name.removeprefix(PREFIX)))
    return {
        "data": [
            {
                "version": made.number, "action": made.action, "author": made.author, "at": made.at, "note": made.note,
                "reverts": made.reverts, "changed": [change.category for change in made.changes],
            }
            for made in history.edits
        ]
    }  # fmt: skip


@router.get("/policies/{name}/versions/{version}", responses=problems(404), summary="Read an older version")
def read_version(
    name: Name, version: Annotated[int, Path(ge=0, le=1_000_000)], service: ServiceDep, who: Reader
) -> dict[str, Any]:
    """Show a layer as it was after one of its edits; 0 is what it lies on."""
    if not name.startswith(PREFIX):
        raise NotFound("Only a layer has versions; a policy of the library comes with the package.")
    return policy_view(at_version(service, who.tenant_id, name.removeprefix(PREFIX), version), name)


@router.post("/policies/{layer}/block", summary="Block a category", **_EDIT)
def block(layer: LayerName, body: BlockBody, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Block or flag a category in a layer, by a definition, by examples, or both."""
    shown = exemplars(service, who, body.examples)
    made = edit(
        service, who, layer, below=body.below, note=body.note, action="block",
        make=lambda target, by: commands.block(
            body.name, target, by, definition=body.definition, examples=shown, state=body.state
        ),
    )  # fmt: skip
    return _published(made)


@router.post("/policies/{layer}/unblock", summary="Unblock a category", **_EDIT)
def unblock(layer: LayerName, body: UnblockBody, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Switch a category off in a layer, and nothing beside it."""
    made = edit(
        service, who, layer, below=body.below, note=body.note, action="unblock",
        make=lambda target, by: commands.unblock(body.name, target, by),
    )  # fmt: skip
    return _published(made)


@router.post("/policies/{layer}/extend", summary="Extend a rule", **_EDIT)
def extend(layer: LayerName, body: ExtendBody, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Make a rule cover more: by variants, by a definition, or by examples."""
    shown = exemplars(service, who, body.examples)
    made = edit(
        service, who, layer, below=body.below, note=body.note, action="extend",
        make=lambda target, by: commands.extend(
            body.name, target, by, variants=body.variants, definition=body.definition, examples=shown
        ),
    )  # fmt: skip
    return _published(made)


@router.post("/policies/{layer}/revert", summary="Take an edit back", **_EDIT)
def revert(layer: LayerName, body: RevertBody, service: ServiceDep, who: Admin) -> dict[str, Any]:
    """Take back one edit of a layer that no later one built upon."""
    service.policies.layer(who.tenant_id, layer)
    made = edit(
        service, who, layer, below=body.below, note=body.note, action="revert",
        make=lambda target, by: commands.revert(body.number, target, by),
    )  # fmt: skip
    return _published(made)


@router.post("/policies/{name}/dry-run", responses=problems(404), summary="Decide recent jobs again")
def dry_run(name: Name, body: DryRunBody, service: ServiceDep, who: Reader) -> dict[str, Any]:
    """Decide the last 200 jobs again under this policy, from stored scores: nothing is decoded, nobody is asked."""
    after = _policy(service, who, name)
    before = service.policies.resolve(who.tenant_id, body.against)
    before = before or service.engine.guard.policy
    with service.database.read() as session:
        found = preview(session, who.tenant_id, before, after, body.category)
    return asdict(found)


@router.post("/policies/{name}/test", responses=problems(404, 410, 504), summary="Hold a policy against cases")
def test(name: Name, body: TestBody, service: ServiceDep, who: Reader) -> dict[str, Any]:
    """Judge texts, and decide jobs again from stored scores, and say which get another decision than they should."""
    policy = _policy(service, who, name)
    answers = service.engine.submit_texts([case.text for case in body.cases if case.text is not None], policy)
    texts = iter(answers)
    found = []
    for case in body.cases:
        got = _in_time(service, next(texts)) if case.text is not None else _job_decision(service, who, case, policy)
        found.append({"job_id": case.job_id, "expected": case.decision, "got": got, "right": got == case.decision})
    return {"policy": name, "hash": policy.hash, "right": sum(bool(x["right"]) for x in found), "cases": found}


def _policy(service: Service, who: Principal, name: str) -> Policy:
    found = service.policies.resolve(who.tenant_id, name)
    assert found is not None  # noqa: S101 - a name was given
    return found


def _in_time(service: Service, answer: Future[Verdict]) -> str:
    try:
        return answer.result(timeout=service.serve.sync_seconds).decision
    except TimeoutError as error:
        raise SyncTimeout(f"No answer within {service.serve.sync_seconds:g} s.", job_id=None) from error


def _job_decision(service: Service, who: Principal, case: TestCase, policy: Policy) -> str:
    with service.database.read() as session:
        job = jobs.own_job(session, who.tenant_id, case.job_id or "")
        row = session.get(Result, job.id)
    if row is None:
        raise NotFound(f"The job {job.id!r} has no result.")
    return "undecided" if row.decision == "undecided" else redecide(row.verdict, policy)


def _listed(policy: Policy, name: str, kind: str) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "version": policy.version, "hash": policy.hash,
        "active_rules": len(policy.active()), "description": policy.description,
    }  # fmt: skip


def _published(made: Published) -> dict[str, Any]:
    return asdict(made)
