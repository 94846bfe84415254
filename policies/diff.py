"""What differs between two policies, and which way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from guard.types import Policy
from policies.canonical import rules_to_plain
from policies.patch import STRICTNESS, claimant

Direction = Literal["stricter", "looser", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field of one rule."""

    category: str
    field: str
    """Field name as in a policy file; `state` also where a rule is new or gone."""
    before: object
    after: object
    direction: Direction
    """`other` where only a person can say which way it goes, as with reworded definitions."""

    def __str__(self) -> str:
        """Return one line, such as `violence.fighting state: block -> off (looser)`."""
        way = "" if self.direction == "other" else f" ({self.direction})"
        return f"{self.category} {self.field}: {_show(self.before)} -> {_show(self.after)}{way}"


def diff(before: Policy, after: Policy) -> tuple[Difference, ...]:
    """Return every difference that can change a decision, by category: none exactly where the hashes are equal.

    A rule that is on one side only is compared with the rule that its category falls under on the other side: a new
    `violence.fighting: block` under `violence: block` is not stricter, taking `violence` away is looser.
    """
    old, new = rules_to_plain(before.rules), rules_to_plain(after.rules)
    found: list[Difference] = []
    for category in sorted(old.keys() | new.keys()):
        found += _standing(category, before, after)
        on = [side[category] if _is_on(category, policy) else {} for side, policy in ((old, before), (new, after))]
        fields = sorted(
            (on[0].keys() | on[1].keys()) - {"state", "locked"}
        )  # words of a rule that is off decide nothing
        found += [_difference(category, name, on[0].get(name), on[1].get(name)) for name in fields]
    return tuple(d for d in found if _key(d.field, d.before) != _key(d.field, d.after))


def _standing(category: str, before: Policy, after: Policy) -> Iterator[Difference]:
    """Yield how the rule came or went, its state and its lock, the same or not."""
    was, now = _place(category, before), _place(category, after)
    yield Difference(category=category, field="rule", before=was, after=now, direction="other")
    old, new = _state(before, category), _state(after, category)
    way: Direction = "stricter" if STRICTNESS[new] > STRICTNESS[old] else "looser"
    yield Difference(category=category, field="state", before=old, after=new, direction=way)
    if category in before.rules and category in after.rules:
        yield _difference(category, "locked", before.rules[category].locked, after.rules[category].locked)


def _is_on(category: str, policy: Policy) -> bool:
    return category in policy.rules and policy.rules[category].state != "off"


def _place(category: str, policy: Policy) -> str:
    held = claimant(category, policy.rules)
    return "its own" if held == category else f"under {held}" if held else "none"


def _key(name: str, value: object) -> object:
    """Return what is compared: examples have no order."""
    if name == "exemplars" and isinstance(value, list):
        return sorted(json.dumps(item, sort_keys=True) for item in value)
    return value


def _state(policy: Policy, category: str) -> Literal["off", "flag", "block"]:
    held = claimant(category, policy.rules)
    return policy.rules[held].state if held else "off"


def _difference(category: str, name: str, old: object, new: object) -> Difference:
    return Difference(category=category, field=name, before=old, after=new, direction=_direction(name, old, new))


def _direction(name: str, old: object, new: object) -> Direction:
    if name in {"blocked", "allowed"}:
        was, now = set(_items(old)), set(_items(new))
        if was <= now or now <= was:
            return "stricter" if (was <= now) == (name == "blocked") else "looser"
    if name == "locked":
        return "stricter" if new else "looser"
    if name == "thresholds" and isinstance(old, dict) and isinstance(new, dict):
        steps = {new[key] - old[key] for key in ("clear_below", "block_at")}
        if all(step <= 0 for step in steps) or all(step >= 0 for step in steps):
            return "stricter" if min(steps) < 0 else "looser"
    return "other"


def _items(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _show(value: object) -> str:
    shown = "nothing" if value is None else str(value)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."
