"""What a policy with edits says of itself: the words of the policy below may have become false."""

from __future__ import annotations

from guard.types import Policy

_WITH = " with edits: "
_END = " An `allow` speaks of the rules that are on, and of nothing else."
_MANY = 30
_LONG = 4000


def description(base: Policy, policy: Policy) -> str:
    """Return what `policy`, made from `base`, truly is; the words of `base` where no rule differs.

    Edits of a `base` that was edited itself are told before the new ones, in the order in which they were made.
    """
    changes = [_change(base, policy, category) for category in sorted({*base.rules, *policy.rules})]
    told = [change for change in changes if change]
    if not told:
        return base.description
    start = f"{base.name} {base.version}{_WITH}"
    if _WITH in base.description and base.description.endswith(_END) and len(base.description) < _LONG:
        start = f"{base.description.removesuffix('.' + _END)}; "
    more = f"; and {len(told) - _MANY} more" if len(told) > _MANY else ""
    return f"{start}{'; '.join(told[:_MANY])}{more}.{_END}"


def _change(base: Policy, policy: Policy, category: str) -> str:
    before, after = base.rules.get(category), policy.rules.get(category)
    if before == after:
        return ""
    if after is None:
        return f"{category} removed"
    return f"{category} {after.state}" if before is None or before.state != after.state else f"{category} reworded"
