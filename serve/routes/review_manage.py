"""The pages beside the queue: the dashboard, the policy editor with its preview, and examples to confirm."""

from __future__ import annotations

from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from guard.errors import InvalidPolicy, PolicyNotFound
from guard.types import Policy, RuleState, Thresholds
from policies.store import PREFIX
from serve.depends import ServiceDep
from serve.request_errors import Forbidden
from serve.review import context, drawing, editing, examples, stats
from serve.review.editing import RuleEdit
from serve.review.forms import CheckedForm, VisitorDep
from serve.review.rendering import PageRoute, page
from serve.review.sessions import Visitor
from serve.routes.review_api import base_policy
from serve.service import Service
from serve.store.tables import Tenant, utc_now

router = APIRouter(prefix="/review", route_class=PageRoute, include_in_schema=False)


def _fields(form: CheckedForm) -> dict[str, str]:
    return {name: form.one(name) for name in form.fields}


Fields = Annotated[dict[str, str], Depends(_fields)]


@router.get("/dashboard")
def dashboard(service: ServiceDep, visitor: VisitorDep, window: str = "week") -> Response:
    """Show volume, decisions, latency, agreement and drift of one window."""
    window, now = window if window in stats.WINDOWS else "week", utc_now()
    with service.database.read() as session:
        found = stats.dashboard(session, visitor.principal.tenant_id, window, now)
    bars = drawing.stacked([counts for _, counts in found.bars], stats.DECISIONS)
    return page(
        "dashboard.html.j2", visitor, found=found, bars=bars, windows=stats.WINDOWS, decisions=stats.DECISIONS,
        names=context.names_of(None, None), zipped=list(zip(found.bars, bars, strict=True)), bins=stats.BINS,
    )  # fmt: skip


@router.get("/policy")
def policy_page(
    service: ServiceDep, visitor: VisitorDep, layer: str = examples.LAYER, rule: str = "", saved: str = ""
) -> Response:
    """Show the rules of the tenant's policy and the editor of one."""
    return _editor(service, visitor, layer=layer, rule=rule, edit=None, saved=saved)


@router.post("/policy/preview")
def preview(service: ServiceDep, visitor: VisitorDep, fields: Fields) -> Response:
    """Show what an edit would have done to recent verdicts."""
    return _editor(service, visitor, layer=fields.get("layer", ""), rule=fields.get("category", ""), edit=fields)


@router.post("/policy/publish")
def publish(service: ServiceDep, visitor: VisitorDep, fields: Fields) -> Response:
    """Keep an edit. Needs the scope admin."""
    if not visitor.principal.may("admin"):
        raise Forbidden("To publish a policy one needs a key with the scope 'admin'.", hint="Ask an administrator.")
    edit, layer = rule_edit(fields), fields.get("layer") or examples.LAYER
    with service.database.write() as session:
        outcome = editing.publish(
            session, visitor.principal, service.policies, layer, base_policy(service), edit, fields.get("note", "")
        )
    said = "published" if outcome.changed else "unchanged"
    return RedirectResponse(f"/review/policy?layer={layer}&rule={edit.category}&saved={said}", 303)


@router.post("/examples/{override_id}")
def answer_example(override_id: str, service: ServiceDep, visitor: VisitorDep, fields: Fields) -> Response:
    """Confirm or reject an example that a colleague proposed."""
    with service.database.write() as session:
        if fields.get("answer") == "confirm":
            examples.confirm(
                session, visitor.principal, override_id, policies=service.policies, base=base_policy(service)
            )
        else:
            examples.reject(session, visitor.principal, override_id)
    return RedirectResponse("/review/policy?saved=answered#examples", 303)


def rule_edit(fields: dict[str, str]) -> RuleEdit:
    """Return what a form of the editor says. Raises `InvalidPolicy` for thresholds that are none."""
    state = fields.get("state") or None
    if state is not None and state not in get_args(RuleState):
        raise InvalidPolicy(f"A rule is one of {', '.join(get_args(RuleState))}; got {state[:20]!r}.")
    low, high = fields.get("clear_below", "").strip(), fields.get("block_at", "").strip()
    thresholds = None
    if low or high:
        try:
            thresholds = Thresholds(clear_below=float(low), block_at=float(high))
        except ValueError as error:
            raise InvalidPolicy(
                "Thresholds are two numbers, 0 <= clear below <= block at <= 1.",
                hint="Leave both empty for calibrated ones.",
            ) from error
    return RuleEdit(
        category=fields.get("category", "").strip(),
        state=cast("RuleState | None", state),
        definition=fields.get("definition"),
        thresholds=thresholds,
    )


def _editor(
    service: Service, visitor: Visitor, *, layer: str, rule: str, edit: dict[str, str] | None, saved: str = ""
) -> Response:
    tenant_id, base = visitor.principal.tenant_id, base_policy(service)
    layer = layer or examples.LAYER
    policy = _policy(service, tenant_id, layer, base)
    wanted = rule_edit(edit) if edit is not None else None
    found = None
    if wanted is not None:
        after = editing.edited_policy(service.policies, tenant_id, layer, base, wanted)
        with service.database.read() as session:
            found = editing.preview(session, tenant_id, policy, after, wanted.category)
    with service.database.read() as session:
        waiting = examples.pending(session, tenant_id)
        people = examples.holders(session, tenant_id)
        in_use = session.scalar(_tenant_policy(tenant_id))
    values: dict[str, Any] = {
        "policy": policy, "layer": layer, "base": base,
        "layers": [row.name for row in service.policies.layers(tenant_id)],
        "rule": policy.rules.get(rule) if rule else None, "edit": edit, "preview": found, "saved": saved,
        "waiting": waiting, "people": people, "in_use": in_use, "names": context.names_of(policy, None),
        "decisions": stats.DECISIONS, "recent": editing.RECENT,
    }  # fmt: skip
    return page("policy.html.j2", visitor, **values)


def _policy(service: Service, tenant_id: str, layer: str, base: str) -> Policy:
    try:
        found = service.policies.resolve(tenant_id, f"{PREFIX}{layer}")
    except PolicyNotFound:
        found = service.policies.resolve(tenant_id, None)
    return found or service.engine.media_policy(None)


def _tenant_policy(tenant_id: str) -> Any:
    from sqlalchemy import select

    return select(Tenant.policy).where(Tenant.id == tenant_id)
