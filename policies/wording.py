"""What a rule says beyond the words that its category has in the library.

The weights that come with the package were trained on what the library calls a category. Of words that a policy adds
they know nothing, so their silence must not clear the rule: see `fast_path.router.Config.widened`.
"""

from __future__ import annotations

from guard.types import Policy, Rule
from policies.load import library, load_policy


def added(rule: Rule) -> tuple[str, ...]:
    """Return the definition, the blocked lines and the subcategories of `rule` that no policy of the library has of it.

    Names, allowed lines and examples add nothing here: the first two cover no more, and an example is shown, not said.
    """
    said = list(dict.fromkeys(_folded(line) for line in _words(rule) if line.strip()))
    for name in dict.fromkeys(("screen", "default", *library())):
        if not said:
            break
        known = _known(name, rule.category)
        said = [line for line in said if line not in known]
    return tuple(said)


def widened(policy: Policy) -> frozenset[str]:
    """Return the active categories whose rules say more than the library does."""
    return frozenset(rule.category for rule in policy.active() if added(rule))


def _words(rule: Rule) -> tuple[str, ...]:
    return (rule.definition, *rule.blocked, *rule.subcategories.values())


def _known(name: str, category: str) -> frozenset[str]:
    """Return what the policy `name` says of a category, by a rule of its own or in a line of another rule."""
    rules = load_policy(name).rules
    lines = [rule.subcategories[category] for rule in rules.values() if category in rule.subcategories]
    own = rules.get(category)
    return frozenset(_folded(line) for line in (*lines, *(_words(own) if own else ())))


def _folded(line: str) -> str:
    return " ".join(line.split())
