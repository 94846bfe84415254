"""The queue and what people decide, for programs; the page at `/review` does the same for people."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field, StringConstraints

from guard.errors import PolicyNotFound
from guard.types import Policy
from serve.depends import Admin, Reader, Reviewer, ServiceDep, Submitter, problems
from serve.review import appeals, decisions, examples, queue
from serve.review.decisions import Choice, Decided
from serve.review.queue import Waiting
from serve.schemas import Request
from serve.service import Service
from serve.store.people import Appeal, Feedback, Override, Review, ReviewItem
from serve.store.tables import Result, utc_now

router = APIRouter(prefix="/v1", tags=["review"])
Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Category = Annotated[str, StringConstraints(min_length=1, max_length=120)]
Words = Annotated[str, StringConstraints(max_length=4000)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Claiming(Request):
    """Which item to take; without one the most urgent that is free."""

    item_id: Id | None = None


class Skipping(Request):
    """Why an item is left to others."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500)]


class SegmentEdit(Request):
    """A stretch as the person marked it."""

    start_seconds: Seconds
    end_seconds: Seconds
    category: Category


class Deciding(Request):
    """A decision on a job."""

    job_id: Id
    decision: Choice
    categories: Annotated[list[Category], Field(max_length=64, default_factory=list)]
    reason: Words = ""
    segments: Annotated[list[SegmentEdit], Field(max_length=1000, default_factory=list)]
    rule: Category | None = None
    """Propose this content as an example of a rule, with the reason as its rationale."""
    layer: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")] | None = None
    seconds_spent: Seconds | None = None


class Saying(Request):
    """What a client thinks of a verdict."""

    job_id: Id
    correct: bool
    label: Category | None = None
    note: Words = ""


class Appealing(Request):
    """An uploader's objection."""

    job_id: Id
    statement: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    reporter_ref: Annotated[str, StringConstraints(max_length=255)] | None = None


@router.get("/queue", responses=problems(), summary="List what waits for a person, the most urgent first")
def list_queue(
    service: ServiceDep, who: Reviewer, limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=100_000)] = 0,
    reason: Annotated[str | None, Query(max_length=16)] = None,
) -> dict[str, Any]:  # fmt: skip
    """Return items with their job, and how many wait in all."""
    now = utc_now()
    with service.database.read() as session:
        found = queue.waiting(session, who, now, limit=limit, offset=offset, reason=reason)
        return {"data": [_waiting(line) for line in found], "counts": queue.counts(session, who, now)}


@router.post(
    "/queue/claim", responses={**problems(404, 409), 204: {"description": "Nothing waits."}}, response_model=None
)
def claim(body: Claiming, service: ServiceDep, who: Reviewer) -> dict[str, Any] | Response:
    """Take an item for ten minutes. Claiming one's own again makes it ten minutes from now."""
    with service.database.write() as session:
        if body.item_id is not None:
            return _item(queue.claim(session, who, body.item_id))
        item = queue.claim_next(session, who)
        return Response(status_code=204) if item is None else _item(item)


@router.post("/queue/{item_id}/release", responses=problems(404, 409))
def release(item_id: Id, service: ServiceDep, who: Reviewer) -> dict[str, Any]:
    """Give an item back."""
    with service.database.write() as session:
        return _item(queue.release(session, who, item_id))


@router.post("/queue/{item_id}/skip", responses=problems(404, 409))
def skip(item_id: Id, body: Skipping, service: ServiceDep, who: Reviewer) -> dict[str, Any]:
    """Leave an item to others, and say why."""
    with service.database.write() as session:
        return _item(queue.skip(session, who, item_id, body.reason))


@router.post("/reviews", status_code=201, responses=problems(404, 409), summary="Decide on a job")
def decide(body: Deciding, service: ServiceDep, who: Reviewer) -> dict[str, Any]:
    """Keep a decision. What waits in the queue must be claimed first; the next identical content is decided alike."""
    decided = Decided(
        choice=body.decision, categories=tuple(body.categories), reason=body.reason, rule=body.rule, layer=body.layer,
        segments=tuple(s.model_dump() for s in body.segments), seconds_spent=body.seconds_spent,
    )  # fmt: skip
    policy = policy_of_job(service, who.tenant_id, body.job_id)
    with service.database.write() as session:
        return _review(decisions.decide(session, who, body.job_id, decided, policy))


@router.get("/reviews", responses=problems(), summary="List decisions, the newest first")
def list_reviews(
    service: ServiceDep, who: Reviewer, job_id: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:  # fmt: skip
    """Return what people decided, what was taken back included."""
    from sqlalchemy import select

    query = select(Review).where(Review.tenant_id == who.tenant_id)
    if job_id is not None:
        query = query.where(Review.job_id == job_id)
    with service.database.read() as session:
        rows = session.scalars(query.order_by(Review.created_at.desc(), Review.id).limit(limit)).all()
        return {"data": [_review(row) for row in rows]}


@router.post("/reviews/{review_id}/undo", responses=problems(404, 409))
def undo(review_id: Id, service: ServiceDep, who: Reviewer) -> dict[str, Any]:
    """Take a decision back; the item is claimed again by who undid it."""
    with service.database.write() as session:
        return _review(decisions.undo(session, who, review_id))


@router.get("/examples", responses=problems(), summary="List examples that wait for a second person")
def list_examples(service: ServiceDep, who: Reviewer) -> dict[str, Any]:
    """Return what reviewers proposed as examples for policies."""
    with service.database.read() as session:
        return {"data": [_override(row) for row in examples.pending(session, who.tenant_id)]}


@router.post("/examples/{override_id}/{answer}", responses=problems(404, 409))
def answer_example(
    override_id: Id, answer: Literal["confirm", "reject"], service: ServiceDep, who: Reviewer
) -> dict[str, Any]:
    """Confirm an example, which joins the policy then, or reject it. Not by who proposed it."""
    with service.database.write() as session:
        if answer == "reject":
            return _override(examples.reject(session, who, override_id))
        base = base_policy(service)
        examples.confirm(session, who, override_id, policies=service.policies, base=base)
        return _override(session.get_one(Override, override_id))


@router.post("/feedback", status_code=201, responses=problems(404), summary="Say whether a verdict was right")
def feedback(body: Saying, service: ServiceDep, who: Submitter) -> dict[str, Any]:
    """Keep what a client says; it changes no verdict."""
    with service.database.write() as session:
        made = appeals.give_feedback(session, who, body.job_id, correct=body.correct, label=body.label, note=body.note)
        return _feedback(made)


@router.post("/appeals", status_code=201, responses=problems(404, 409), summary="Object to a decision")
def appeal(body: Appealing, service: ServiceDep, who: Submitter) -> dict[str, Any]:
    """Put a job in the queue again, for somebody other than who decided."""
    with service.database.write() as session:
        return _appeal(
            appeals.file_appeal(session, who, body.job_id, statement=body.statement, reporter_ref=body.reporter_ref)
        )


@router.get("/appeals", responses=problems(), summary="List objections, the newest first")
def list_appeals(
    service: ServiceDep, who: Reader, status: Literal["open", "accepted", "rejected"] | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:  # fmt: skip
    """Return objections with what became of them."""
    with service.database.read() as session:
        return {
            "data": [_appeal(row) for row in appeals.appeals_of(session, who.tenant_id, status=status, limit=limit)]
        }


@router.delete("/overrides/{override_id}", status_code=204, responses=problems(404, 409))
def withdraw(override_id: Id, service: ServiceDep, who: Admin) -> Response:
    """Take back what holds for identical content; verdicts that it gave stay as they are."""
    from serve.audit import append
    from serve.request_errors import NotFound
    from serve.review.overrides import withdraw as take_back

    with service.database.write() as session:
        row = session.get(Override, override_id)
        if row is None or row.tenant_id != who.tenant_id:
            raise NotFound(f"There is no override {override_id!r}.")
        take_back(row)
        append(session, who.tenant_id, actor=who.key_id, action="override.withdrawn", subject=row.sha256,
               details={"override": row.id})  # fmt: skip
    return Response(status_code=204)


def policy_of_job(service: Service, tenant_id: str, job_id: str) -> Policy | None:
    """Return the policy that decided a job, as it is now; None where it has gone: another one has other rules."""
    with service.database.read() as session:
        result = session.get(Result, job_id)
    if result is None or result.tenant_id != tenant_id:
        return None
    base = service.engine.guard.policy
    try:
        return service.policies.resolve(tenant_id, result.policy_name)
    except PolicyNotFound:  # the service's own may come from a file, which no request can name
        return base if base.name == result.policy_name else None


def base_policy(service: Service) -> str:
    """Return the name of the policy that the service decides by where nobody says otherwise."""
    return service.settings.policy or service.engine.guard.policy.name


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def _item(item: ReviewItem) -> dict[str, Any]:
    return {
        "id": item.id, "job_id": item.job_id, "reason": item.reason, "status": item.status, "risk": item.risk,
        "level": item.level, "round": item.round, "created_at": _iso(item.created_at), "claimed_by": item.claimed_by,
        "claimed_until": _iso(item.claimed_until), "skips": len(item.skips),
    }  # fmt: skip


def _waiting(line: Waiting) -> dict[str, Any]:
    job, result = line.job, line.result
    return _item(line.item) | {
        "held": line.held,
        "job": {"id": job.id, "source": job.source, "sha256": job.sha256, "client_ref": job.client_ref,
                "decision": job.decision, "policy": result.policy_name if result else None},
    }  # fmt: skip


def _review(review: Review) -> dict[str, Any]:
    names = ("id", "job_id", "item_id", "reviewer", "decision", "categories", "reason", "segments", "machine_decision",
             "agrees", "seconds_spent", "undone_by")  # fmt: skip
    plain = {name: getattr(review, name) for name in names}
    return plain | {"created_at": _iso(review.created_at), "undone_at": _iso(review.undone_at)}


def _override(row: Override) -> dict[str, Any]:
    names = ("id", "sha256", "job_id", "decision", "categories", "rule", "layer", "rationale", "status",
             "exemplar_status", "created_by", "confirmed_by")  # fmt: skip
    return {name: getattr(row, name) for name in names} | {"created_at": _iso(row.created_at)}


def _appeal(row: Appeal) -> dict[str, Any]:
    names = ("id", "job_id", "statement", "reporter_ref", "status", "resolved_by", "resolution")
    return {name: getattr(row, name) for name in names} | {
        "created_at": _iso(row.created_at),
        "resolved_at": _iso(row.resolved_at),
    }


def _feedback(row: Feedback) -> dict[str, Any]:
    plain = {name: getattr(row, name) for name in ("id", "job_id", "correct", "label", "note")}
    return plain | {"created_at": _iso(row.created_at)}
