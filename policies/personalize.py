"""Block, unblock, extend: one command changes what a layer says of a category. Pure; nothing is trained.

Each function takes the layer's history and the policy underneath, and returns the new history with the policy that
results. Taking a change back by its opposite restores what was there: blocking something that was off and unblocking it
again leaves no trace in the effective policy, likewise unblocking and blocking again.

The protocol (new category, category allowed again, category widened; by definition, by demonstrations, by both) follows
"Beyond One-Size-Fits-All" (arXiv 2511.05532).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from guard import taxonomy
from guard.errors import InvalidPolicy
from guard.types import Exemplar, Policy, Rule, RuleState
from policies import names, text
from policies.compose import Base, Composed, compose
from policies.edits import Action, History
from policies.load import library_words
from policies.patch import Patch, claimant, merge


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who edits, when, and why."""

    author: str
    at: str = ""
    """UTC time, ISO 8601; empty takes the present."""
    note: str = ""

    def time(self) -> str:
        """Return the time of the edit."""
        return self.at or datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an edit led to."""

    history: History
    composed: Composed
    changed: tuple[str, ...]
    """Categories of which the layer now says something else; empty where nothing had to change."""
    notes: tuple[str, ...] = ()
    """What the author should know: rules that still hold, names that resemble others."""

    @property
    def policy(self) -> Policy:
        """The effective policy."""
        return self.composed.policy


def block(
    history: History,
    name: str,
    *,
    below: Base,
    by: By,
    definition: str = "",
    examples: Sequence[Exemplar] = (),
    state: RuleState = "block",
) -> Outcome:
    """Make `name` a rule that blocks (or flags). A new name needs a definition or one example.

    Raises:
        InvalidPolicy: the name is a likely typo, or new and nothing else was said; or a lock forbids it.
    """
    if state == "off":
        raise InvalidPolicy("To block, the state is 'block' or 'flag'; to switch a rule off, unblock it.")
    policy = compose(below, [history.layer()]).policy
    found = names.resolve(name, policy.rules)
    if not found.known and not definition.strip() and not examples:
        raise names.unknown(name, found)
    added = _content(found, definition, examples, policy.rules.get(found.category))
    after = _restored(history, found.category, "unblock", below, wanted=state) if not added else None
    if after is None:
        before = history.patches().get(found.category) or Patch(category=found.category)
        words = {} if found.category in policy.rules else library_words(found.category)
        after = (merge(before, replace(_patch(found.category, words | added), state=state)),)
    hint = () if found.known or not found.close else (f"{found.category} is new; it is not {found.close!r}.",)
    return _apply(history, "block", {found.category: after[0]}, below, by, hint)


def unblock(history: History, name: str, *, below: Base, by: By) -> Outcome:
    """Switch `name` off: it violates nothing any more, unless a more specific rule says so.

    Raises:
        InvalidPolicy: nothing is known under that name, or a lock forbids it.
    """
    policy = compose(below, [history.layer()]).policy
    found = names.resolve(name, policy.rules, by_part=True)
    if not found.known:
        raise _nothing_called(name, found, policy)
    category = found.category
    if _state(policy, category) == "off":
        return _unchanged(history, below, f"{category} was off already.")
    after = _restored(history, category, "block", below, wanted="off")
    if after is None:
        before = history.patches().get(category) or Patch(category=category)
        words = {} if category in policy.rules else library_words(category)  # the rule above is told what is exempt
        after = (merge(before, replace(_patch(category, words), state="off")),)
    outcome = _apply(history, "unblock", {category: after[0]}, below, by, ())
    return replace(outcome, notes=(*outcome.notes, *_still_on(outcome.policy, category)))


def extend(
    history: History,
    name: str,
    *,
    below: Base,
    by: By,
    variants: Sequence[str] = (),
    definition: str = "",
    examples: Sequence[Exemplar] = (),
) -> Outcome:
    """Make the rule `name` cover more: further categories, variants in words, or what examples show.

    Each extension is a rule of its own that follows the state of the one it widens. The widened rule stays as it is, so
    a detector that was trained on it cannot clear what it was never trained on.

    Raises:
        InvalidPolicy: the rule is off or unknown, nothing was given to extend by, or a lock forbids it.
    """
    policy = compose(below, [history.layer()]).policy
    found = names.resolve(name, policy.rules)
    base = claimant(found.category, policy.rules)
    if base is None or policy.rules[base].state == "off":
        raise InvalidPolicy(f"{name!r} is off, so there is nothing to extend.", hint="Block it first.")
    if not variants and not examples and not definition.strip():
        raise InvalidPolicy("To extend a rule, give a variant, a definition or an example of what it shall cover.")
    if len(variants) > 1 and (examples or definition.strip()):
        raise InvalidPolicy("A definition or example belongs to one variant; extend by one variant at a time.")
    short = not definition.strip()  # who defines a variant means their own
    resolved = [names.resolve(variant, policy.rules, by_part=short) for variant in variants] or [
        _widening(policy.rules[base])
    ]
    after: dict[str, Patch | None] = {}
    notes: list[str] = []
    for variant in resolved:
        rule = policy.rules.get(variant.category)
        if rule is not None and rule.extends != base and rule.state != "off":
            notes.append(f"{variant.category} already has a rule of its own ({rule.state}); it was left as it is.")
            continue
        added = _content(variant, definition, examples, rule)
        if not variant.known and "definition" not in added and not examples:
            added["definition"] = f"{variant.given}, to be treated like: {_label(policy.rules[base])}."
        before = history.patches().get(variant.category) or Patch(category=variant.category)
        fresh = replace(_patch(variant.category, added), extends=base, state=_follow(rule, policy.rules[base]))
        after[variant.category] = merge(before, fresh)
    if not after:
        return _unchanged(history, below, *notes)
    return _apply(history, "extend", after, below, by, tuple(notes))


def lock(history: History, name: str, *, below: Base, by: By) -> Outcome:
    """Keep the present state of a rule from being loosened by the layers above this one."""
    policy = compose(below, [history.layer()]).policy
    found = names.resolve(name, policy.rules)
    if not found.known:
        raise _nothing_called(name, found, policy)
    before = history.patches().get(found.category) or Patch(category=found.category)
    patch = Patch(category=found.category, state=_state(policy, found.category), locked=True)
    return _apply(history, "lock", {found.category: merge(before, patch)}, below, by, ())


def add_examples(history: History, name: str, examples: Sequence[Exemplar], *, below: Base, by: By) -> Outcome:
    """Add demonstrations, of violation or of its absence, to a rule that is there; its state stays as it is."""
    policy = compose(below, [history.layer()]).policy
    found = names.resolve(name, policy.rules)
    rule = policy.rules.get(found.category)
    if rule is None:
        raise _nothing_called(name, found, policy)
    before = history.patches().get(found.category) or Patch(category=found.category)
    added = Patch(category=found.category, exemplars=_own(examples, found.category))
    return _apply(history, "add-example", {found.category: merge(before, added)}, below, by, ())


def revert(history: History, number: int, *, below: Base, by: By) -> Outcome:
    """Take back edit `number`: every category it touched gets back what it had before.

    Raises:
        InvalidPolicy: there is no such edit, a later one changed the same category (take that back first), or a layer
            below has locked the rule since.
    """
    if not 1 <= number <= history.version:
        raise InvalidPolicy(f"Layer {history.name!r} has the edits 1 to {history.version}; got {number}.")
    edit, now = history.edits[number - 1], history.patches()
    for change in edit.changes:
        if now.get(change.category) != change.after:
            later = history.last_change(change.category)
            which = later[0].number if later else number
            raise InvalidPolicy(f"Edit {which} changed {change.category!r} after edit {number}; revert {which} first.")
    after = {change.category: change.before for change in edit.changes}
    return _apply(history, "revert", after, below, by, (), reverts=number)


def _apply(
    history: History,
    action: Action,
    after: Mapping[str, Patch | None],
    below: Base,
    by: By,
    notes: Iterable[str],
    *,
    reverts: int | None = None,
) -> Outcome:
    now = history.patches()
    changed = {category: patch for category, patch in after.items() if patch != now.get(category)}
    if not changed:
        return _unchanged(history, below, *notes, "Nothing had to change.")
    edited = history.with_edit(
        action, changed, author=names.checked(by.author), at=by.time(), note=by.note, reverts=reverts
    )
    composed = compose(below, [edited.layer()])  # refuses what a lock forbids
    return Outcome(history=edited, composed=composed, changed=tuple(changed), notes=tuple(notes))


def _unchanged(history: History, below: Base, *notes: str) -> Outcome:
    return Outcome(history=history, composed=compose(below, [history.layer()]), changed=(), notes=notes)


def _restored(
    history: History, category: str, undoes: Action, below: Base, *, wanted: RuleState
) -> tuple[Patch | None] | None:
    """Return the patch from before the last edit of `category`, where going back to it has the wanted effect.

    The patch comes in a tuple, since "no patch" is an answer too; None means that going back is not possible.
    """
    last = history.last_change(category)
    if last is None or last[0].action != undoes:
        return None
    patches = history.patches()
    patches.pop(category, None)
    before = last[1].before
    if before is not None:
        patches[category] = before
    layer = replace(history.layer(), patches=patches)
    reached = _state(compose(below, [layer]).policy, category)
    return (before,) if reached == wanted else None


def _content(
    found: names.Resolved, definition: str, examples: Sequence[Exemplar], rule: Rule | None
) -> dict[str, object]:
    """Return the fields that the author said something about."""
    values: dict[str, object] = {}
    if found.label and (rule is None or not rule.name):
        values["name"] = found.label
    if definition.strip():
        values["definition"] = text.clean(definition)
    if examples:
        values["exemplars"] = _own(examples, found.category)
    return values


def _patch(category: str, values: Mapping[str, object]) -> Patch:
    return Patch(category=category, **values)  # type: ignore[arg-type]


def _own(examples: Iterable[Exemplar], category: str) -> tuple[Exemplar, ...]:
    return tuple(replace(example, rule=category) for example in examples)


def _state(policy: Policy, category: str) -> RuleState:
    """Return the state of the rule that `category` falls under; off where there is none."""
    held = claimant(category, policy.rules)
    return policy.rules[held].state if held else "off"


def _follow(rule: Rule | None, base: Rule) -> RuleState | None:
    """An extension names no state, unless it must overcome one that is off."""
    return base.state if rule is not None and rule.state == "off" else None


def _widening(base: Rule) -> names.Resolved:
    """Return the category for what only examples or a definition describe."""
    slug = base.category.removeprefix(f"{taxonomy.CUSTOM_ROOT}.").replace(".", "_")
    return names.Resolved(
        category=f"{taxonomy.CUSTOM_ROOT}.{slug}_extended", given=f"{_label(base)} (extended)", known=False
    )


def _label(rule: Rule) -> str:
    known = taxonomy.categories().get(rule.category)
    return rule.name or (known.name if known else rule.category)


def _still_on(policy: Policy, category: str) -> list[str]:
    below = [r for r in policy.active() if r.category != category and taxonomy.covers(category, r.category)]
    return [f"{rule.category} has a rule of its own and stays at {rule.state}." for rule in below]


def _nothing_called(name: str, found: names.Resolved, policy: Policy) -> InvalidPolicy:
    guess = f" Did you mean {found.close!r}?" if found.close else ""
    return InvalidPolicy(
        f"No rule or category is called {name!r}; {policy.name!r} has {', '.join(policy.rules)}.{guess}"
    )
