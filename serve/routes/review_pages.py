"""The pages at `/review`: sign in, the queue, one item, what people do with it, and its content."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from guard.errors import RateLimited, UsageError
from serve.depends import ServiceDep
from serve.ratelimit import Rate
from serve.request_errors import NotFound
from serve.review import context, decisions, examples, queue, rendering, sessions
from serve.review.decisions import Decided
from serve.review.forms import CheckedForm, Form, FormDep, VisitorDep
from serve.review.rendering import PageRoute, page
from serve.review.sessions import COOKIE, Visitor
from serve.routes.review_api import policy_of_job
from serve.store.people import Review, ReviewItem
from serve.store.tables import Job, utc_now

router = APIRouter(prefix="/review", route_class=PageRoute, include_in_schema=False)
_SIGN_IN_RATE = Rate(per_second=0.2, burst=10)
_PER_PAGE = 50


@router.get("/sign-in")
def sign_in_page() -> Response:
    """Ask for a key."""
    return page("sign_in.html.j2", None, problem=None)


@router.post("/sign-in")
def sign_in(request: Request, form: FormDep, service: ServiceDep) -> Response:
    """Begin a session. Ten wrong keys at once from one address, then one in five seconds."""
    address = request.client.host if request.client else "unknown"
    if not service.limiter.take(f"sign-in/{address}", rate=_SIGN_IN_RATE).allowed:
        raise RateLimited("Too many tries to sign in.", hint="Wait a minute.")
    try:
        cookie = sessions.sign_in(service.database, service.keyring, form.one("key"))
    except UsageError as error:
        return page("sign_in.html.j2", None, status=401, problem=error.message)
    service.limiter.forget(f"sign-in/{address}")
    response = RedirectResponse("/review", 303)
    response.set_cookie(
        COOKIE, cookie, max_age=int(sessions.LASTS.total_seconds()), path="/review", httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return response


@router.post("/sign-out")
def sign_out(service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """End the session."""
    sessions.sign_out(service.database, visitor)
    response = RedirectResponse(rendering.SIGN_IN, 303)
    response.delete_cookie(COOKIE, path="/review")
    return response


@router.post("/preferences")
def preferences(service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """Remember whether to blur, grey and mute, and whether single keys act."""
    sessions.set_preference(service.database, visitor, form.one("name"), form.one("value") == "on")
    return Response(status_code=204)


@router.get("")
def queue_page(service: ServiceDep, visitor: VisitorDep, reason: str = "", start: int = 0, done: str = "") -> Response:
    """Show what waits."""
    now, start = utc_now(), max(0, min(start, 100_000))
    with service.database.read() as session:
        lines = queue.waiting(
            session, visitor.principal, now, limit=_PER_PAGE + 1, offset=start, reason=reason[:16] or None
        )
        return page(
            "queue.html.j2", visitor, lines=lines[:_PER_PAGE], more=len(lines) > _PER_PAGE, start=start, reason=reason,
            counts=queue.counts(session, visitor.principal, now), names=context.names_of(None, None), now=now,
            ago=context.ago, people=examples.holders(session, visitor.principal.tenant_id), step=_PER_PAGE,
            done=_just_done(session, visitor, done),
        )  # fmt: skip


@router.post("/next")
def take_next(service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """Claim the most urgent item and show it."""
    return _onward(service, visitor, "")


@router.get("/items/{item_id}")
def item_page(item_id: str, service: ServiceDep, visitor: VisitorDep, done: str = "") -> Response:
    """Show one item."""
    principal = visitor.principal
    with service.database.read() as session:
        job_id = queue.own_item(session, principal, item_id).job_id
    policy = policy_of_job(service, principal.tenant_id, job_id)
    with service.database.read() as session:
        item = queue.own_item(session, principal, item_id)
        job = decisions.own_job(session, principal, item.job_id)
        now = utc_now()
        shown = context.page_of(session, job, item, policy=policy, blobs=service.blobs)
        return page(
            "item.html.j2", visitor, shown=shown, now=now, ago=context.ago, mine=_is_mine(item, visitor), item=item,
            held=item.claimed_until is not None and item.claimed_until > now, skip_reasons=queue.SKIP_REASONS,
            lean=decisions.lean(shown.verdict), done=_just_done(session, visitor, done),
        )  # fmt: skip


@router.post("/items/{item_id}/claim")
def claim(item_id: str, service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """Claim an item, or hold on to one's own."""
    with service.database.write() as session:
        queue.claim(session, visitor.principal, item_id)
    return RedirectResponse(f"/review/items/{rendering.path_segment(item_id)}", 303)


@router.post("/items/{item_id}/renew")
def renew(item_id: str, service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """Hold on to a claim while the page is open."""
    with service.database.write() as session:
        queue.held_item(session, visitor.principal, item_id)
        queue.claim(session, visitor.principal, item_id)
    return Response(status_code=204)


@router.post("/items/{item_id}/release")
def release(item_id: str, service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """Give an item back and go to the queue."""
    with service.database.write() as session:
        queue.release(session, visitor.principal, item_id)
    return RedirectResponse("/review", 303)


@router.post("/items/{item_id}/decide")
def decide(item_id: str, service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """Keep what was decided and show the next item."""
    principal, choice = visitor.principal, form.one("decision")
    if choice == "skip":
        with service.database.write() as session:
            queue.skip(session, principal, item_id, form.one("skip_reason") or form.one("reason"))
        return _onward(service, visitor, "")
    with service.database.read() as session:
        job_id = queue.own_item(session, principal, item_id).job_id
    decided = decided_of(form)
    policy = policy_of_job(service, principal.tenant_id, job_id)
    with service.database.write() as session:
        queue.held_item(session, principal, item_id)
        review = decisions.decide(session, principal, job_id, decided, policy)
    return _onward(service, visitor, review.id)


@router.post("/reviews/{review_id}/undo")
def undo(review_id: str, service: ServiceDep, visitor: VisitorDep, form: CheckedForm) -> Response:
    """Take a decision back and show its item again."""
    with service.database.write() as session:
        review = decisions.undo(session, visitor.principal, review_id)
    return RedirectResponse(f"/review/items/{review.item_id}" if review.item_id else "/review", 303)


def decided_of(form: Form) -> Decided:
    """Return what a form says. Raises `UsageError` for a form that contradicts itself."""
    choice, reason = form.one("decision"), form.one("reason")
    categories = tuple(dict.fromkeys(filter(None, (*form.all("category"), form.one("other").strip()))))
    if choice == "extend":
        rule = form.one("new_rule").strip() or form.one("rule")
        if not rule:
            raise UsageError("To extend the policy, say which rule this is an example of.")
        return Decided(choice="block", categories=_known(rule), reason=reason, rule=rule, seconds_spent=_seconds(form))
    if choice not in ("allow", "block", "relabel", "escalate"):
        raise UsageError("Choose what to do with it.")
    named = categories if choice in ("block", "relabel") else ()
    return Decided(choice=choice, categories=named, reason=reason, seconds_spent=_seconds(form))  # type: ignore[arg-type]


def _known(rule: str) -> tuple[str, ...]:
    """A rule that is new has no category yet, which a block need not name."""
    from guard import taxonomy

    return (rule,) if taxonomy.is_known(rule) else ()


def _seconds(form: Form) -> float | None:
    text = form.one("seconds_spent")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 86_400 else None


def _onward(service: ServiceDep, visitor: Visitor, done: str) -> Response:
    with service.database.write() as session:
        item = queue.claim_next(session, visitor.principal)
        where = f"/review/items/{item.id}" if item is not None else "/review"
    return RedirectResponse(f"{where}?done={done}" if done else where, 303)


def _is_mine(item: ReviewItem, visitor: Visitor) -> bool:
    return item.status == "open" and item.claimed_by == visitor.principal.key_id


def _just_done(session: object, visitor: Visitor, review_id: str) -> tuple[Review, Job] | None:
    """Return the decision that was just made, to offer its undoing."""
    from sqlalchemy.orm import Session

    assert isinstance(session, Session)  # noqa: S101
    try:
        review = decisions.own_review(session, visitor.principal, review_id[:64])
    except NotFound:
        return None
    job = session.get(Job, review.job_id)
    return (review, job) if job is not None and review.undone_at is None else None
