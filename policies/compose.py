"""Lay layers over a policy: platform below, then community, then user. Pure.

An upper layer wins field by field; lines, subcategories and examples are added to. What an upper layer may not do is
loosen a rule that a layer below has locked: see `policies.locks`.

Production folds from the bottom up. Two things are promised to be associative. Composing on a composed policy is the
same as composing in one go. And `merge_layers` joins neighbours first: wherever two groupings both succeed they give
one policy (they may differ in what they refuse: to merge, one need not know the rules underneath).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from guard.errors import InvalidPolicy
from guard.types import Policy, Rule
from policies.canonical import make_policy, patch_to_plain, rules_to_plain
from policies.locks import check_follows, check_lock, is_locked
from policies.patch import Patch, claimant, merge, state_of, to_patches, to_rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one author, or one group of them, changes."""

    name: str
    patches: Mapping[str, Patch] = field(default_factory=dict)
    """Category to what the layer says of it."""
    version: str = ""

    def __post_init__(self) -> None:
        for category, patch in self.patches.items():
            if category != patch.category:
                raise ValueError(f"layer {self.name!r}: the patch under {category!r} is of {patch.category!r}")
            if patch.locked and patch.state is None:
                raise InvalidPolicy(f"Layer {self.name!r}: a lock on {category!r} must say the state that it holds.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that one layer said of a rule."""

    layer: str
    says: Mapping[str, object]
    """Field to plain value, as in a policy file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """The effective policy, and who made it so."""

    policy: Policy
    steps: Mapping[str, tuple[Step, ...]]
    """Category to what the layers said of it, from the bottom up."""

    def decided_by(self, category: str, name: str = "state") -> str | None:
        """Return the uppermost layer that set field `name` of the rule, or None where no layer did."""
        return next((step.layer for step in reversed(self.steps.get(category, ())) if name in step.says), None)

    def why(self, category: str) -> str:
        """Return in plain sentences which layer decided what about `category`."""
        rule, policy = self.policy.rules.get(category), self.policy.name
        if rule is None:
            above = claimant(category, self.policy.rules)
            if above is None:
                return f"{category}: no rule of {policy!r} speaks of it, so it is off."
            return f"{category}: no rule of its own; it falls under {above}.\n{self.why(above)}"
        lines = [f"{category}: {rule.state}{', locked' if rule.locked else ''}."]
        lines += [f"  {step.layer}: {_say_all(step.says)}" for step in self.steps.get(category, ())]
        if rule.extends and self.decided_by(category) is None:
            lines.append(f"  It widens {rule.extends} and has its state, which {self._decider(rule.extends)} decided.")
        return "\n".join(lines)

    def _decider(self, category: str) -> str:
        return self.decided_by(category) or "nobody"


Base: TypeAlias = Policy | Composed
"""What layers lie on. A `Composed` also remembers who decided what."""


def compose(base: Base, layers: Sequence[Layer] = ()) -> Composed:
    """Return `base` under `layers`, the lowest first.

    Raises:
        InvalidPolicy: a layer loosens what a layer below it has locked (the message names the rule and who locked it),
            or has a new rule without a state.
    """
    start, steps = _start(base)
    patches = to_patches(start.rules)
    for layer in layers:
        below = dict(patches)
        for category, patch in layer.patches.items():
            check_lock(patch, below, layer.name, lambda c: _locker(steps, c))
            patches[category] = merge(below[category], patch) if category in below else _complete(patch, layer)
        check_follows(patches, below, layer.name, lambda c: _locker(steps, c))
        for category, patch in layer.patches.items():
            steps.setdefault(category, []).append(Step(layer=layer.name, says=patch_to_plain(patch)))
    policy = make_policy(
        name="/".join([start.name, *(layer.name for layer in layers)]),
        version="/".join([start.version, *(layer.version for layer in layers if layer.version)]),
        rules=_resolve(patches),
        description=start.description,
    )
    return Composed(policy=policy, steps=MappingProxyType({c: tuple(s) for c, s in steps.items()}))


def _start(base: Base) -> tuple[Policy, dict[str, list[Step]]]:
    if isinstance(base, Composed):
        return base.policy, {category: list(steps) for category, steps in base.steps.items()}
    said = rules_to_plain(base.rules)
    return base, {category: [Step(layer=base.name, says=says)] for category, says in said.items()}


def merge_layers(lower: Layer, upper: Layer) -> Layer:
    """Return one layer with the effect of `lower` and then `upper`. Raises `InvalidPolicy` as `compose` does."""
    merged = dict(lower.patches)
    for category, patch in upper.patches.items():
        check_lock(patch, lower.patches, upper.name, lambda _: lower.name)
        merged[category] = merge(lower.patches[category], patch) if category in lower.patches else patch
    check_follows(merged, lower.patches, upper.name, lambda _: lower.name)
    names, versions = (lower.name, upper.name), (lower.version, upper.version)
    return Layer(name="/".join(names), patches=merged, version="/".join(v for v in versions if v))


def _locker(steps: Mapping[str, Iterable[Step]], category: str) -> str:
    """Return the lowest layer that locked the rule: its word stands."""
    return next((step.layer for step in steps.get(category, ()) if step.says.get("locked")), "a layer below")


def _complete(patch: Patch, layer: Layer) -> Patch:
    """A rule that nothing below defines must say its state: a forgotten one would otherwise be off in silence."""
    if patch.state is None and not patch.extends:
        raise InvalidPolicy(
            f"{layer.name}: the rule {patch.category!r} has no state; it must be one of off, flag, block."
        )
    return patch


def _resolve(patches: Mapping[str, Patch]) -> dict[str, Rule]:
    return {
        category: to_rule(patch, state=state_of(patch, patches), locked=is_locked(category, patches) is not None)
        for category, patch in patches.items()
    }


def _say_all(says: Mapping[str, object]) -> str:
    return "; ".join(_say(key, value) for key, value in says.items())


def _say(key: str, value: object) -> str:
    if isinstance(value, list):
        shown = "; ".join(str(item) for item in value[:3])
        return f"{key} +{len(value)} ({shown[:160]})"
    return f"{key} {str(value)[:160]}"
