"""What a person decides: kept with what the machine said, told to whoever asked, and taken back where it was a slip.

Every decision is one transaction: the review, the word on this content, the end of the claim, the webhook and the audit
entry stand or fall together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard import taxonomy
from guard.errors import UsageError
from guard.types import Policy
from policies.patch import claimant
from serve.audit import append
from serve.keys import Principal
from serve.outbox import enqueue
from serve.request_errors import Conflict, NotFound
from serve.review import appeals, queue
from serve.review.overrides import Word, restore_before, set_override, withdraw
from serve.store.people import Override, Review, ReviewItem
from serve.store.tables import Job, Result, utc_now

Choice = Literal["allow", "block", "relabel", "escalate"]
UNDO = timedelta(minutes=30)
"""How long one may take one's own decision back; a key with the scope admin may at any time."""
_MAX_REASON = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What a person chose, as it came in."""

    choice: Choice
    categories: tuple[str, ...] = ()
    """What is shown, by `block` and `relabel`."""
    reason: str = ""
    segments: tuple[Mapping[str, Any], ...] = ()
    seconds_spent: float | None = None
    rule: str | None = None
    """Rule that this content shall be an example of, once a second person has confirmed it."""
    layer: str | None = None


def decide(session: Session, principal: Principal, job_id: str, decided: Decided, policy: Policy | None) -> Review:
    """Keep a decision on a job, whether or not it stood in the queue.

    Args:
        session: a writing one.
        principal: who decides.
        job_id: what about.
        decided: the decision.
        policy: what decided before; says whether a category that was named by `relabel` blocks.

    Raises:
        NotFound: the tenant has no such job.
        Conflict: it stands in the queue and this person has not claimed it.
        UsageError: a category is unknown, or what the choice needs is missing.
    """
    job = own_job(session, principal, job_id)
    result = session.get(Result, job.id)
    _check(decided, policy)
    item = _item_to_close(session, principal, job)
    verdict = result.verdict if result is not None else None
    word = word_of(decided, policy)
    review = Review(
        tenant_id=job.tenant_id, job_id=job.id, item_id=item.id if item else None, reviewer=principal.key_id,
        decision=decided.choice, categories=list(decided.categories), reason=decided.reason.strip(),
        segments=[dict(segment) for segment in decided.segments], machine_decision=job.decision or "undecided",
        agrees=agreement(word, verdict), seconds_spent=decided.seconds_spent,
    )  # fmt: skip
    session.add(review)
    session.flush()
    if decided.choice == "escalate":
        _close(item)
        session.flush()
        level = (item.level if item else 1) + 1
        queue.open_item(session, tenant_id=job.tenant_id, job_id=job.id, sha256=job.sha256, reason="escalated",
                        risk=item.risk if item else 1.0, level=level)  # fmt: skip
    else:
        _close(item)
    if word is not None and job.sha256 is not None:
        set_override(
            session, tenant_id=job.tenant_id, sha256=job.sha256, decision=word, categories=decided.categories,
            rationale=decided.reason.strip(), by=principal.key_id, job_id=job.id, review_id=review.id,
            rule=decided.rule, layer=decided.layer,
        )  # fmt: skip
    if item is not None and item.reason == "appeal" and word is not None:
        appeals.resolve(session, item, review, word)
    _tell(session, job, review, word, "moderation.review.decided")
    append(session, job.tenant_id, actor=principal.key_id, action=f"review.{decided.choice}", subject=job.id,
           details=_noted(review, job))  # fmt: skip
    return review


def undo(session: Session, principal: Principal, review_id: str, now: datetime | None = None) -> Review:
    """Take a decision back: its word on the content, its example and its place in the queue are as before.

    Raises:
        NotFound: the tenant has no such review.
        Conflict: it is somebody else's or too old, somebody decided since, or its example teaches a policy already.
    """
    moment = now or utc_now()
    review = own_review(session, principal, review_id, lock=True)
    override = session.scalar(select(Override).where(Override.review_id == review.id))
    _check_undo(session, principal, review, override, moment)
    review.undone_at, review.undone_by = moment, principal.key_id
    if override is not None and override.status == "active":
        withdraw(override)
        restore_before(session, override)
    item = session.get(ReviewItem, review.item_id) if review.item_id else None
    if review.decision == "escalate":
        _withdraw_escalation(session, review)
    if item is not None:
        item.status, item.done_at = "open", None
        item.claimed_by, item.claimed_until = principal.key_id, moment + queue.CLAIM
        appeals.reopen(session, item)
    job = session.get(Job, review.job_id)
    if job is not None:
        _tell(session, job, review, None, "moderation.review.undone")
    append(session, review.tenant_id, actor=principal.key_id, action="review.undone", subject=review.job_id,
           details={"review": review.id})  # fmt: skip
    return review


def word_of(decided: Decided, policy: Policy | None) -> Word | None:
    """Return what the choice means for the content; None where it settles nothing. Pure.

    To relabel is to say what is shown: that blocks where a rule of the policy does, and is fine where none does.
    """
    if decided.choice in ("allow", "block"):
        return "allow" if decided.choice == "allow" else "block"
    if decided.choice == "escalate" or policy is None:
        return None
    ruling = [claimant(category, policy.rules) for category in decided.categories]
    return "block" if any(rule is not None and policy.rules[rule].state == "block" for rule in ruling) else "allow"


def lean(verdict: Mapping[str, Any] | None) -> Word | None:
    """Return what the machine would have said had it been made to choose; None where it had nothing to go by. Pure.

    A verdict that went to review leans to the side of the middle between its two thresholds on which its score lies:
    0.62 between 0.1 and 0.9 leans to block.
    """
    if verdict is None or verdict["decision"] == "undecided":
        return None
    if verdict["decision"] in ("allow", "block"):
        return "allow" if verdict["decision"] == "allow" else "block"
    bounds = (verdict["route"] or {}).get("thresholds") or {}
    sides = []
    for category, score in verdict["categories"].items():
        if score["flagged"]:
            return "block"
        if score["score"] is not None:
            pair = bounds.get(category) or {"clear_below": 0.1, "block_at": 0.9}
            sides.append(score["score"] >= (pair["clear_below"] + pair["block_at"]) / 2)
    return None if not sides else "block" if any(sides) else "allow"


def agreement(word: Word | None, verdict: Mapping[str, Any] | None) -> bool | None:
    """Return whether person and machine agree; None where either said nothing."""
    machine = lean(verdict)
    return None if word is None or machine is None else word == machine


def latest_review(session: Session, tenant_id: str, job_id: str, *, before: datetime | None = None) -> Review | None:
    """Return the newest decision on a job that stands and settles it."""
    query = select(Review).where(
        Review.tenant_id == tenant_id,
        Review.job_id == job_id,
        Review.undone_at.is_(None),
        Review.decision != "escalate",
    )
    if before is not None:
        query = query.where(Review.created_at < before)
    return session.scalar(query.order_by(Review.created_at.desc(), Review.id.desc()).limit(1))


def outcome_of(session: Session, review: Review | None) -> Word | None:
    """Return what a decision came to, for `relabel` the word that it put on the content; None where nothing."""
    if review is None or review.decision == "escalate":
        return None
    if review.decision in ("allow", "block"):
        return "allow" if review.decision == "allow" else "block"
    word = session.scalar(select(Override.decision).where(Override.review_id == review.id))
    return None if word is None else "allow" if word == "allow" else "block"


def own_job(session: Session, principal: Principal, job_id: str) -> Job:
    """Return a job of the tenant. Raises `NotFound`, also for what belongs to another."""
    job = session.get(Job, job_id)
    if job is None or job.tenant_id != principal.tenant_id:
        raise NotFound(f"There is no job {job_id!r}.")
    return job


def own_review(session: Session, principal: Principal, review_id: str, *, lock: bool = False) -> Review:
    """Return a review of the tenant. Raises `NotFound`, also for what belongs to another."""
    review = session.get(Review, review_id, with_for_update=lock, populate_existing=lock)
    if review is None or review.tenant_id != principal.tenant_id:
        raise NotFound(f"There is no review {review_id!r}.")
    return review


def _check(decided: Decided, policy: Policy | None) -> None:
    if decided.choice not in get_args(Choice):
        raise UsageError(f"A decision is one of {', '.join(get_args(Choice))}; got {decided.choice!r}.")
    if len(decided.reason) > _MAX_REASON:
        raise UsageError(f"A reason has at most {_MAX_REASON} characters; this one {len(decided.reason)}.")
    rules = policy.rules if policy is not None else {}
    for category in decided.categories:
        if category not in rules and not taxonomy.is_known(category):
            close = taxonomy.suggestion(category)
            raise UsageError(f"There is no category {category!r}." + (f" Did you mean {close!r}?" if close else ""))
    if decided.rule is not None and not decided.reason.strip():
        raise UsageError("An example for a policy needs a rationale: without a reason it teaches little.")
    if decided.choice == "relabel" and policy is None:
        raise UsageError("The policy that decided is not there any more; allow or block instead.")


def _item_to_close(session: Session, principal: Principal, job: Job) -> ReviewItem | None:
    query = select(ReviewItem).where(ReviewItem.job_id == job.id, ReviewItem.status == "open")
    item = session.scalar(query.with_for_update())
    if item is None:
        return None
    queue.require_somebody_else(session, principal, item)  # it may have become an appeal since it was claimed
    return queue.held_item(session, principal, item.id)


def _close(item: ReviewItem | None) -> None:
    if item is not None:
        item.status, item.done_at = "done", utc_now()
        item.claimed_until = item.claim_token = None


def _check_undo(
    session: Session, principal: Principal, review: Review, override: Override | None, now: datetime
) -> None:
    if review.undone_at is not None:
        raise Conflict("This decision was taken back already.")
    if not principal.may("admin"):
        if review.reviewer != principal.key_id:
            raise Conflict("This decision is somebody else's.", hint="Ask a person with the scope admin.")
        if now - review.created_at > UNDO:
            raise Conflict(f"A decision can be taken back for {UNDO.seconds // 60} minutes.", hint="File an appeal.")
    newer = select(Review.id).where(
        Review.job_id == review.job_id, Review.undone_at.is_(None), Review.created_at > review.created_at
    )
    if session.scalar(newer.limit(1)) is not None:
        raise Conflict("Somebody has decided on this again since.", hint="Take that decision back first.")
    again = select(ReviewItem.id).where(
        ReviewItem.job_id == review.job_id, ReviewItem.status == "open", ReviewItem.id != review.item_id
    )
    if review.decision != "escalate" and session.scalar(again.limit(1)) is not None:
        raise Conflict("It waits in the queue again since, such as for an appeal.", hint="Decide on it there.")
    if override is not None and override.exemplar_status == "confirmed":
        raise Conflict("Its example teaches the policy already.", hint="Revert that edit of the policy first.")


def _withdraw_escalation(session: Session, review: Review) -> None:
    query = select(ReviewItem).where(
        ReviewItem.job_id == review.job_id, ReviewItem.status == "open", ReviewItem.reason == "escalated"
    )
    item = session.scalar(query.with_for_update())
    if item is None or (item.claimed_until is not None and item.claimed_until > utc_now()):
        raise Conflict("Somebody is looking at what was escalated.")
    item.status = "withdrawn"


def _tell(session: Session, job: Job, review: Review, word: Word | None, event: str) -> None:
    data = {
        "job_id": job.id, "client_ref": job.client_ref, "review_id": review.id, "decision": review.decision,
        "outcome": word, "categories": list(review.categories), "sha256": job.sha256,
    }  # fmt: skip
    undone = "_undone" if review.undone_at else ""
    enqueue(session, job.tenant_id, event, data, event_id=f"evt_{review.id}{undone}", job_id=job.id,
            callback_url=job.callback_url)  # fmt: skip


def _noted(review: Review, job: Job) -> dict[str, Any]:
    """What the audit log holds: ids, hashes and categories; the typed reason stays in the review."""
    return {"review": review.id, "item": review.item_id, "machine": review.machine_decision, "sha256": job.sha256,
            "categories": list(review.categories)}  # fmt: skip


def history(session: Session, tenant_id: str, sha256: str | None, *, limit: int = 20) -> Sequence[tuple[Review, Job]]:
    """Return what people decided on this very content before, under whatever name it came; the newest first."""
    if sha256 is None:
        return []
    query = (
        select(Review, Job)
        .join(Job, Job.id == Review.job_id)
        .where(Review.tenant_id == tenant_id, Job.sha256 == sha256)
    )
    return [(row[0], row[1]) for row in session.execute(query.order_by(Review.created_at.desc()).limit(limit))]
