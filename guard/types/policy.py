"""What counts as violating: rules, examples, policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from guard.types.scores import Thresholds

RuleState: TypeAlias = Literal["off", "flag", "block"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One worked example for a rule: shown to the VLM, and compared with by few-shot detectors."""

    rule: str
    violates: bool
    text: str = ""
    """What the example is, in words (caption, title or the text itself)."""
    rationale: str = ""
    source: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a policy says of one category."""

    category: str
    state: RuleState
    name: str = ""
    definition: str = ""
    blocked: tuple[str, ...] = ()
    """Lines that say what violates the rule."""
    allowed: tuple[str, ...] = ()
    """Lines that say what does not, though it may look like it."""
    thresholds: Thresholds | None = None
    """Overrides the calibrated ones for this rule."""
    exemplars: tuple[Exemplar, ...] = ()
    locked: bool = False
    """A lower layer (community, user) cannot loosen it."""
    core_value: str = ""
    """What the rule protects, in one line."""
    severity: tuple[str, ...] = ()
    """What mild, serious and extreme violations look like: levels 1, 2, 3 in order; empty where it is not said."""
    subcategories: Mapping[str, str] = field(default_factory=dict)
    """Category id below this rule to one line of what it means: words for prompts and open-vocabulary scorers."""
    extends: str = ""
    """Category of the rule that this one widens; it was made by an extension and follows that rule's state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What counts as violating, for whom. Made by `policies`, passed to everything else as a value."""

    name: str
    version: str
    hash: str
    """SHA-256 over the canonical content: two policies with one hash decide alike."""
    rules: Mapping[str, Rule]
    """Category id to rule. A category that is absent is off."""
    description: str = ""

    def active(self) -> tuple[Rule, ...]:
        """Return the rules that are not off, in their order."""
        return tuple(rule for rule in self.rules.values() if rule.state != "off")

    def told(self) -> tuple[Rule, ...]:
        """Return the active rules as a judge that reads words must be told them.

        What is switched off below a rule is one of its allowed lines. Under `violence: block` and `violence.fighting:
        off` a judge that is told of violence alone would still find a fight to be violent.
        """
        return tuple(self._told(rule) for rule in self.active())

    def _told(self, rule: Rule) -> Rule:
        exempt = {r.category: r for r in self.rules.values() if r.state == "off" and self._above(r) == rule.category}
        lines = (f"Whatever falls under {r.name or r.category}: {r.definition}".rstrip(": ") for r in exempt.values())
        kept = {category: line for category, line in rule.subcategories.items() if category not in exempt}
        return replace(rule, allowed=(*rule.allowed, *lines), subcategories=kept) if exempt else rule

    def _above(self, rule: Rule) -> str | None:
        """Return the nearest category above the rule's own that has a rule."""
        node = rule.category.rpartition(".")[0]
        while node and node not in self.rules:
            node = node.rpartition(".")[0]
        return node or None
