"""The policy editor: one rule of one layer at a time, looked at on recent videos before it is published.

The preview re-decides from stored scores; nothing is decoded or asked again. So it cannot show what a new definition
would make a VLM say, and says so: a rule that nobody scored ends in `review`, as in service until it is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard import taxonomy
from guard.errors import InvalidPolicy, PolicyNotFound
from guard.types import DEFAULT_THRESHOLDS, Decision, Policy, RouteReason, Rule, RuleState, Thresholds
from policies.compose import Base, compose
from policies.edits import Action, History
from policies.names import checked
from policies.patch import Patch, claimant, merge
from policies.personalize import By, Outcome
from policies.store import PREFIX, PolicyStore
from serve.audit import append
from serve.keys import Principal
from serve.outbox import enqueue
from serve.policy_access import PolicyAccess
from serve.store.tables import Job, Result, Tenant

RECENT = 200
"""Verdicts that a preview looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEdit:
    """What an editor changes about one rule; None leaves it as it is."""

    category: str
    state: RuleState | None = None
    definition: str | None = None
    thresholds: Thresholds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One recent verdict that would be another one."""

    job_id: str
    source: str
    before: Decision
    after: Decision
    score: float | None
    """Of the rule that was edited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an edit would have done to recent verdicts."""

    looked_at: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    changed: tuple[Changed, ...]
    unscored: int
    """Verdicts without any score of the edited rule."""
    kept: int
    """Verdicts that stay as they are, since scores cannot tell: undecided ones, and those a person decided."""


def candidate(history: History, below: Base, edit: RuleEdit, by: By) -> Outcome:
    """Return the layer with one rule edited, and the policy that results. Pure.

    Raises:
        InvalidPolicy: a lock forbids it, or nothing is known under the category and no definition was given.
    """
    if edit.state is not None and edit.state not in get_args(RuleState):
        raise InvalidPolicy(f"A rule is one of {', '.join(get_args(RuleState))}; got {edit.state!r}.")
    policy = compose(below, [history.layer()]).policy
    if edit.category not in policy.rules and not (taxonomy.is_known(edit.category) and (edit.definition or "").strip()):
        raise InvalidPolicy(f"There is no rule {edit.category!r} in {policy.name!r}.", hint="Block it by name first.")
    before = history.patches().get(edit.category) or Patch(category=edit.category)
    definition = edit.definition.strip() if edit.definition is not None and edit.definition.strip() else None
    patch = Patch(category=edit.category, state=edit.state, definition=definition, thresholds=edit.thresholds)
    after = merge(before, patch)
    if after == history.patches().get(edit.category):
        composed = compose(below, [history.layer()])
        return Outcome(history=history, composed=composed, changed=(), notes=("Nothing had to change.",))
    action: Action = "unblock" if edit.state == "off" else "block"
    edited = history.with_edit(action, {edit.category: after}, author=checked(by.author), at=by.time(), note=by.note)
    return Outcome(history=edited, composed=compose(below, [edited.layer()]), changed=(edit.category,))


def edited_policy(policies: PolicyAccess, tenant_id: str, layer: str, base: str, edit: RuleEdit) -> Policy:
    """Return the policy that an edit would lead to; nothing is kept."""
    history, below = _layer(policies, tenant_id, layer, base)
    return candidate(history, below, edit, By(author="preview")).policy


def publish(
    session: Session, principal: Principal, policies: PolicyAccess, layer: str, base: str, edit: RuleEdit, note: str
) -> Outcome:
    """Keep an edit in a layer of the tenant, which becomes the tenant's policy where it had none of its own."""
    tenant = session.get_one(Tenant, principal.tenant_id)
    name = policies.ensure(session, tenant.id, layer)
    store = policies.store
    try:
        store.history(name)
    except PolicyNotFound:
        store.create(name, kind="community", below=base)
    by = By(author=checked(principal.name), note=note.strip()[:500])
    outcome = store.update(name, lambda history, below: candidate(history, below, edit, by))
    if outcome.changed:
        tenant.policy = tenant.policy or f"{PREFIX}{layer}"
        details = {"layer": layer, "rule": edit.category, "policy_hash": outcome.policy.hash}
        append(
            session, tenant.id, actor=principal.key_id, action="policy.edited", subject=edit.category, details=details
        )
        enqueue(session, tenant.id, "moderation.policy.updated", {"policy": f"{PREFIX}{layer}", **details})
    return outcome


def preview(session: Session, tenant_id: str, before: Policy, after: Policy, category: str) -> Preview:
    """Decide recent verdicts again under both policies and return what differs."""
    query = select(Result, Job.source).join(Job, Job.id == Result.job_id).where(Result.tenant_id == tenant_id)
    rows = session.execute(query.order_by(Result.created_at.desc()).limit(RECENT)).all()
    return compare(
        ((row[0].job_id, row[1], row[0].verdict, row[0].override_id) for row in rows), before, after, category
    )


def compare(
    verdicts: Iterable[tuple[str, str, Mapping[str, Any], str | None]], before: Policy, after: Policy, category: str
) -> Preview:
    """Return what differs between two policies on stored verdicts: (job id, source, verdict, override). Pure."""
    tally = _Tally()
    for job_id, source, verdict, override in verdicts:
        tally.looked_at += 1
        settled = verdict["decision"] == "undecided" or override is not None
        first, second = (verdict["decision"],) * 2 if settled else (redecide(verdict, p) for p in (before, after))
        score = score_of(verdict, category)
        tally.kept += settled
        tally.unscored += score is None
        tally.before[first] += 1
        tally.after[second] += 1
        if first != second:
            changed = Changed(job_id=job_id, source=source, before=first, after=second, score=score)
            tally.changed.append(changed)
    return Preview(
        looked_at=tally.looked_at, before=dict(tally.before), after=dict(tally.after), changed=tuple(tally.changed),
        unscored=tally.unscored, kept=tally.kept,
    )  # fmt: skip


def redecide(verdict: Mapping[str, Any], policy: Policy) -> Decision:
    """Return what the stored scores and checks amount to under `policy`. Pure; the rules are those of `guard.verdict`.

    A rule that the slow path settled stays as it said, whatever the thresholds: it answered the same question. Verdicts
    keep six digits of a score; one that ties with a threshold may fall to its other side here.
    """
    found = {rule.category: _finding(verdict, rule, policy) for rule in policy.active()}
    if any(finding == "violation" and policy.rules[c].state == "block" for c, finding in found.items()):
        return "block"
    clear = not _half_seen(verdict) and all(finding == "clear" for finding in found.values())
    return "allow" if clear else "review"


def _half_seen(verdict: Mapping[str, Any]) -> bool:
    """Whether a stage failed or too little was seen: low scores of that clear nothing, then as now."""
    return bool(verdict["degraded"]) or (verdict["route"] or {}).get("reason") == RouteReason.POOR_COVERAGE


def score_of(verdict: Mapping[str, Any], category: str) -> float | None:
    """Return the highest stored score that speaks of a category: its own, or one below it; None where nobody scored."""
    stored = {c: s["score"] for c, s in verdict["categories"].items()}
    lines = {c: max(v, default=None) for c, v in ((verdict["timeline"] or {}).get("scores") or {}).items()}
    scores = [*stored.items(), *lines.items()]
    found = [score for name, score in scores if score is not None and taxonomy.covers(category, name)]
    own = stored.get(category)
    return own if own is not None else max(found, default=None)


def _finding(verdict: Mapping[str, Any], rule: Rule, policy: Policy) -> str:
    stored = verdict["categories"].get(rule.category)
    if stored is not None and stored["stage"] == "slow":
        return "violation" if stored["flagged"] else "clear"
    score = score_of(verdict, rule.category) if stored is not None or _unclaimed(verdict, rule, policy) else None
    if score is None:
        return "uncovered"
    bounds = rule.thresholds or _stored_bounds(verdict, rule.category)
    if score >= bounds.block_at:
        return "violation"
    return "clear" if score < bounds.clear_below else "uncertain"


def _unclaimed(verdict: Mapping[str, Any], rule: Rule, policy: Policy) -> bool:
    """Whether some stored score below the rule is the rule's own to judge, and no other rule's."""
    scored = {*verdict["categories"], *((verdict["timeline"] or {}).get("scores") or {})}
    return any(claimant(category, policy.rules) == rule.category for category in scored)


def _stored_bounds(verdict: Mapping[str, Any], category: str) -> Thresholds:
    stored = ((verdict["route"] or {}).get("thresholds") or {}).get(category)
    return Thresholds(**stored) if stored else DEFAULT_THRESHOLDS


def _layer(policies: PolicyAccess, tenant_id: str, layer: str, base: str) -> tuple[History, Base]:
    store: PolicyStore = policies.store
    try:
        history = store.history(policies.layer(tenant_id, layer))
    except PolicyNotFound:
        history = History(name="preview", kind="community", below=base)
    return history, store.below(history)


@dataclass(slots=True)
class _Tally:
    looked_at: int = 0
    kept: int = 0
    unscored: int = 0
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    changed: list[Changed] = field(default_factory=list)
