"""The same policy in the words of another scheme: which of our categories stand behind each of its keys.

The mapping lives in `guard.taxonomy` (nearest key, for export). A view makes one rule per category whose key differs
from that of the rule above it, so that every key that can be answered gets an answer of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from guard import taxonomy
from guard.types import Rule
from policies.patch import claimant

Scheme = Literal["openai", "mlcommons", "dsa"]

_FIELDS: Mapping[Scheme, str] = {"openai": "openai", "mlcommons": "llama_guard", "dsa": "dsa"}
MLCOMMONS_KEYS = tuple(f"S{number}" for number in range(1, 14))
"""Hazard codes of the MLCommons taxonomy in Llama Guard's numbering, S13 (elections) included."""


def key_of(category: str, scheme: Scheme) -> str | None:
    """Return the scheme's key for a category, that of its nearest ancestor where it has none; None for a custom one."""
    node: str | None = category
    while node:
        known = taxonomy.categories().get(node)
        if known is not None:
            key: str | None = getattr(known, _FIELDS[scheme])
            return key
        node = node.rpartition(".")[0] or None
    return None


def keys(scheme: Scheme) -> tuple[str, ...]:
    """Return every key of a scheme; for the DSA those that some category maps to."""
    if scheme == "openai":
        return taxonomy.OPENAI_KEYS
    if scheme == "mlcommons":
        return MLCOMMONS_KEYS
    return tuple(dict.fromkeys(c.dsa for c in taxonomy.categories().values() if c.dsa))


def unmapped(scheme: Scheme) -> tuple[str, ...]:
    """Return the keys that no category of ours answers: they stay unanswered, which is not the same as safe."""
    have = {key_of(category, scheme) for category in taxonomy.categories()}
    return tuple(key for key in keys(scheme) if key not in have)


def project(scores: Mapping[str, float | None], scheme: Scheme) -> dict[str, float | None]:
    """Return the highest score per key; None for a key that nothing speaks of or that no stage judged."""
    found: dict[str, float | None] = dict.fromkeys(keys(scheme))
    for category, score in scores.items():
        key = key_of(category, scheme)
        if key in found and score is not None:
            found[key] = max(score, found[key] or 0.0)
    return found


def view_rules(base: Mapping[str, Rule], scheme: Scheme) -> dict[str, Rule]:
    """Return one rule per category whose key differs from the rule above it, with the words of `base`.

    Rules of `base` that have no key in the scheme are left out; a lock stays on.
    """
    made: dict[str, Rule] = {}
    for category, known in taxonomy.categories().items():
        found = claimant(category, base)
        above = base[found] if found else None
        key = key_of(category, scheme)
        if known.pack is not None or key is None or above is None or above.state == "off":
            continue
        if category in base:
            made[category] = base[category]
        elif key != _key_above(category, made, scheme):
            made[category] = _part(above, category, known.name)
    return made


def _key_above(category: str, made: Mapping[str, Rule], scheme: Scheme) -> str | None:
    parent = claimant(category.rpartition(".")[0], made)
    return key_of(parent, scheme) if parent else None


def _part(above: Rule, category: str, name: str) -> Rule:
    definition = above.subcategories.get(category, f"{name}, as part of: {above.definition}")
    return Rule(
        category=category,
        state=above.state,
        name=name,
        core_value=above.core_value,
        definition=definition,
        severity=above.severity,
        locked=above.locked,
    )
