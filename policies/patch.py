"""What one layer says of one category: the parts of a rule that it sets, and the lines and examples that it adds."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from guard.types import Exemplar, Rule, RuleState, Thresholds

T = TypeVar("T")

STRICTNESS: Mapping[RuleState, int] = {"off": 0, "flag": 1, "block": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A partial rule. None inherits from the layer below; lists add to what is below."""

    category: str
    state: RuleState | None = None
    name: str | None = None
    core_value: str | None = None
    definition: str | None = None
    severity: tuple[str, ...] | None = None
    thresholds: Thresholds | None = None
    locked: bool | None = None
    """Holds for everything below the category as well; False makes an exception from a lock above it."""
    extends: str = ""
    """Category of the rule that this one widens; without a state of its own it has that rule's."""
    subcategories: Mapping[str, str] = field(default_factory=dict)
    blocked: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()


REPLACED = ("state", "name", "core_value", "definition", "severity", "thresholds", "locked", "extends")
"""Fields of which the upper layer's value wins."""
ADDED = ("subcategories", "blocked", "allowed", "exemplars")
"""Fields that grow from layer to layer."""


def given(patch: Patch) -> dict[str, Any]:
    """Return the fields that the patch says something about."""
    values = {name: getattr(patch, name) for name in (*REPLACED, *ADDED)}
    return {name: value for name, value in values.items() if value is not None and value != "" and len_or_one(value)}


def len_or_one(value: object) -> int:
    """Return the length of a container, and 1 for a single value (a lock of False is a statement, not an absence)."""
    return len(value) if isinstance(value, tuple | Mapping) else 1


def merge(lower: Patch, upper: Patch) -> Patch:
    """Return the patch that has the effect of `lower` and then `upper`. Associative."""
    if lower.category != upper.category:
        raise ValueError(f"patches of two categories: {lower.category!r} and {upper.category!r}")
    replaced = {name: value for name, value in given(upper).items() if name in REPLACED}
    return replace(
        lower,
        **replaced,
        subcategories={**lower.subcategories, **upper.subcategories},
        blocked=united(lower.blocked, upper.blocked),
        allowed=united(lower.allowed, upper.allowed),
        exemplars=united(lower.exemplars, upper.exemplars),
    )


def united(first: Iterable[T], second: Iterable[T]) -> tuple[T, ...]:
    """Return both in order, without repetition."""
    return tuple(dict.fromkeys((*first, *second)))


def above(category: str) -> Iterator[str]:
    """Yield `category` and then every id above it: a.b.c, a.b, a."""
    node = category
    while node:
        yield node
        node = node.rpartition(".")[0]


def claimant(category: str, rules: Container[str]) -> str | None:
    """Return the most specific category with a rule that `category` falls under: itself, or the nearest above."""
    return next((node for node in above(category) if node in rules), None)


def state_of(patch: Patch, patches: Mapping[str, Patch]) -> RuleState:
    """Return the state of a rule, also of one that names none.

    An extension follows the rule that it widens. Where that rule has gone from the layer below, the extension stays and
    flags: what somebody asked to have looked at is not dropped in silence. Chains of extensions end the same way.
    """
    seen: set[str] = set()
    current = patch
    while current.state is None and current.extends and current.category not in seen:
        seen.add(current.category)
        below = patches.get(current.extends)
        if below is None:
            break
        current = below
    return current.state or "flag"


def to_patches(rules: Mapping[str, Rule]) -> dict[str, Patch]:
    """Return the patches that make `rules` out of nothing, leaving unsaid what follows from another rule."""
    return {category: _to_patch(rule, rules) for category, rule in rules.items()}


def _to_patch(rule: Rule, rules: Mapping[str, Rule]) -> Patch:
    parent = claimant(rule.category.rpartition(".")[0], rules)
    below_lock = parent is not None and rules[parent].locked
    implied = rules[rule.extends].state if rule.extends in rules else "flag"
    follows = bool(rule.extends) and rule.state == implied
    return Patch(
        category=rule.category,
        state=None if follows else rule.state,
        name=rule.name or None,
        core_value=rule.core_value or None,
        definition=rule.definition or None,
        severity=rule.severity or None,
        thresholds=rule.thresholds,
        locked=None if rule.locked == below_lock else rule.locked,
        extends=rule.extends,
        subcategories=rule.subcategories,
        blocked=rule.blocked,
        allowed=rule.allowed,
        exemplars=rule.exemplars,
    )


def to_rule(patch: Patch, *, state: RuleState, locked: bool) -> Rule:
    """Return the rule that a patch describes, with the state and the lock that hold for it."""
    return Rule(
        category=patch.category,
        state=state,
        name=patch.name or "",
        core_value=patch.core_value or "",
        definition=patch.definition or "",
        severity=patch.severity or (),
        thresholds=patch.thresholds,
        locked=locked,
        extends=patch.extends if patch.state is None else "",  # a rule with a state of its own follows nobody
        subcategories=dict(patch.subcategories),
        blocked=patch.blocked,
        allowed=patch.allowed,
        exemplars=tuple(replace(e, rule=patch.category) for e in patch.exemplars),
    )
