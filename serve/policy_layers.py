"""Several policies of one command line as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from guard.errors import PolicyNotFound
from guard.types import Policy
from policies import commands
from policies.compose import Composed, Layer, compose
from policies.patch import ADDED, REPLACED, Patch, given, to_patches


def composed(names: Sequence[str]) -> Composed:
    """Return the first policy with every further one laid over it, from left to right.

    A policy that is laid over another wins where both speak of a rule, and adds the rules that are new. What a policy
    to its left has locked it cannot loosen; saying the same of a locked rule is no attempt to.

    Raises:
        PolicyNotFound: one of them is nowhere, or none is named.
        InvalidPolicy: one cannot be read, or loosens a locked rule; the message names the rule and who locked it.
    """
    if not names:
        raise PolicyNotFound("No policy is named.")
    result = commands.show(names[0])
    for name in names[1:]:
        policy = commands.show(name).policy
        layer = Layer(name=policy.name, version=policy.version, patches=_news(policy, result.policy))
        about = " ".join(filter(None, (result.policy.description.strip(), policy.description.strip())))
        result = compose(result, [layer])
        result = replace(result, policy=replace(result.policy, description=about))
    return result


def _news(policy: Policy, below: Policy) -> Mapping[str, Patch]:
    """Return what `policy` says that `below` does not say already."""
    known = to_patches(below.rules)
    patches = {c: _news_of(patch, known.get(c)) for c, patch in to_patches(policy.rules).items()}
    return {category: patch for category, patch in patches.items() if category not in known or given(patch)}


def _news_of(patch: Patch, known: Patch | None) -> Patch:
    if known is None:
        return patch
    same: dict[str, Any] = {
        name: "" if name == "extends" else None for name in REPLACED if getattr(patch, name) == getattr(known, name)
    }
    lists: dict[str, Any] = {name: _without(getattr(patch, name), getattr(known, name)) for name in ADDED}
    return replace(patch, **same, **lists)


def _without(said: object, known: object) -> object:
    if isinstance(said, Mapping) and isinstance(known, Mapping):
        return {key: value for key, value in said.items() if known.get(key) != value}
    if isinstance(said, tuple) and isinstance(known, tuple):
        return tuple(item for item in said if item not in known)
    return said
