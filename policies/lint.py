"""What is wrong with a policy although it is valid, above all: rules that nobody can judge.

A custom category that is accepted and then never looked at is the most frequent complaint about guards. Here such a
rule is named at lint time; in the verdict it shows as "no configured stage can judge this rule" and leads to review.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from guard import taxonomy
from guard.types import Policy, Rule
from policies.patch import claimant
from policies.rule_scorer import may_clear
from policies.wording import added

Level = Literal["error", "warning", "note"]
Judge = Literal["fast", "open-vocabulary", "few-shot", "slow"]

FEW_SHOT_LEAST = 1
"""Violating examples from which a few-shot scorer says anything; see `policies.few_shot` for how unsure it is then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """The stages that an installation has."""

    covered: Collection[str] = ()
    """Category ids that its detectors were trained on, without those that only raise a rule (words on screen)."""
    covered_by_own: Collection[str] = ()
    """Those of `covered` that do not hang on the shipped weights: taught by labels of your own, or measured."""
    covered_in_text: Collection[str] = ()
    """Category ids that its text classifier was trained on."""
    open_vocabulary: bool = False
    """An encoder scores frames against the words of a rule."""
    few_shot: bool = False
    """An encoder is there whose embeddings are compared with examples."""
    by_examples: Collection[str] | None = None
    """The categories whose examples were embedded and are compared with; None where nobody tried."""
    slow: bool = False
    """A VLM answers."""
    cleared_by: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"flashing": ("flashing.general", "flashing.red")}
    )
    """Rules whose category is exhausted by the columns named: see `fast_path.evidence`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to know about a policy."""

    level: Level
    code: str
    """Stable name of the check."""
    category: str
    message: str


def judges(rule: Rule, configured: Configured, rules: Mapping[str, Rule] | None = None) -> tuple[Judge, ...]:
    """Return the configured stages that can settle `rule` either way, the cheapest first; empty if there is none.

    A detector of one subcategory can raise the rule but its silence clears nothing, so it does not count as a judge.
    With `rules`, those of the whole policy, parts of a category that have rules of their own are left to these.
    """
    found: list[Judge] = []
    exhausted = configured.cleared_by.get(rule.category)
    if exhausted is not None and rules is not None:
        exhausted = tuple(c for c in exhausted if claimant(c, rules) == rule.category)
    covered = set(configured.covered_by_own if added(rule) else configured.covered)
    if rule.category in covered or (exhausted is not None and set(exhausted) <= covered):
        found.append("fast")
    if configured.open_vocabulary and words(rule):
        found.append("open-vocabulary")
    if configured.few_shot and _shown(rule, configured) and may_clear(rule, slow=configured.slow):
        found.append("few-shot")
    if configured.slow:
        found.append("slow")
    return tuple(found)


def judged_in_text(rule: Rule, configured: Configured) -> bool:
    """Whether some configured stage can settle `rule` either way in a text."""
    return (rule.category in configured.covered_in_text and not added(rule)) or configured.slow


def _shown(rule: Rule, configured: Configured) -> bool:
    """Whether clips or images show the rule to an encoder; a text is no picture."""
    if configured.by_examples is not None:
        return rule.category in configured.by_examples
    return sum(e.violates and bool(e.sha256 or e.source) for e in rule.exemplars) >= FEW_SHOT_LEAST


def words(rule: Rule) -> str:
    """Return the words that an open-vocabulary scorer has of a rule; empty where there are none."""
    known = taxonomy.categories().get(rule.category)
    return rule.name or rule.definition or (known.name if known else "")


def lint(policy: Policy, configured: Configured | None = None) -> tuple[Finding, ...]:
    """Return what is wrong or noteworthy, errors first.

    Args:
        policy: the effective policy.
        configured: the stages there are; None checks only what does not depend on them.
    """
    found = [finding for rule in policy.rules.values() for finding in _rule(rule, policy)]
    if configured is not None:
        found += [finding for rule in policy.active() for finding in _judged(rule, policy, configured)]
    if not policy.active():
        found.append(
            _finding("error", "no_active_rules", "", "no rule is active: every video would be allowed unseen.")
        )
    order: list[Level] = ["error", "warning", "note"]
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def unjudgeable(policy: Policy, configured: Configured) -> tuple[str, ...]:
    """Return the active categories that no configured stage can judge: they route every video to review."""
    return tuple(rule.category for rule in policy.active() if not judges(rule, configured, policy.rules))


def _judged(rule: Rule, policy: Policy, configured: Configured) -> Iterator[Finding]:
    yield from _widened(rule, configured)
    if judges(rule, configured, policy.rules):
        return
    if judged_in_text(rule, configured):
        message = (
            "only texts are judged for it; every video goes to review. Use it for texts alone, or add a slow path."
        )
        yield _finding("warning", "text_only", rule.category, message)
        return
    partial = sorted(c for c in configured.covered if claimant(c, policy.rules) == rule.category)
    seen = [f"Detectors see a part of it ({', '.join(partial)})"] * bool(partial)
    seen += ["Its examples show a part of it"] * (configured.few_shot and _shown(rule, configured))
    part = f" {' and '.join(seen)}; their silence does not clear the rest." if seen else ""
    yield _finding(
        "error",
        "unjudgeable",
        rule.category,
        f"no configured stage can judge it, so every video goes to review.{part} {_remedy(rule, configured)}",
    )


def _widened(rule: Rule, configured: Configured) -> Iterator[Finding]:
    trained = {*configured.covered, *configured.covered_in_text} - set(configured.covered_by_own)
    beyond = added(rule)
    if rule.category in trained and beyond:
        yield _finding(
            "warning",
            "widened",
            rule.category,
            f"the classifier was not trained on {beyond[0][:80]!r}{_and_more(beyond)}, so its silence does not clear "
            "the rule. To keep what it clears, take the words back and use `guard policy extend`, which adds a rule "
            "beside this one.",
        )


def _and_more(lines: tuple[str, ...]) -> str:
    return f" and {len(lines) - 1} more" if len(lines) > 1 else ""


def _remedy(rule: Rule, configured: Configured) -> str:
    ways = ["configure a slow path (--slow URL)"]
    if configured.few_shot:
        ways.append("give it by examples alone (--example)")
    if not configured.open_vocabulary:
        ways.append("configure an open-vocabulary encoder")
    return f"Either {', or '.join(ways)}, or switch the rule off."


def _rule(rule: Rule, policy: Policy) -> Iterator[Finding]:
    custom = rule.category.startswith(f"{taxonomy.CUSTOM_ROOT}.")
    if rule.state == "off":
        held = claimant(rule.category.rpartition(".")[0], policy.rules)
        if held is not None and policy.rules[held].state != "off":
            yield _finding("note", "exempted", rule.category, f"it is exempt from {held!r}, which is on.")
        return
    if not rule.definition:
        level: Level = "warning" if custom and not rule.exemplars else "note"
        yield _finding(level, "no_definition", rule.category, "it has no definition; a VLM judges by its name alone.")
    if rule.extends and rule.extends not in policy.rules:
        message = f"it widens {rule.extends!r}, which is not in the policy; it stands alone at {rule.state!r}."
        yield _finding("warning", "extends_nothing", rule.category, message)
    both = sorted({line.casefold() for line in rule.blocked} & {line.casefold() for line in rule.allowed})
    if both:
        yield _finding("error", "contradiction", rule.category, f"the same line is blocked and allowed: {both[0]!r}.")
    yield from _thresholds(rule)
    yield from _exemplars(rule)


def _thresholds(rule: Rule) -> Iterator[Finding]:
    limits = rule.thresholds
    if limits is None:
        return
    if limits.block_at > 0.999:
        yield _finding("warning", "never_blocks", rule.category, f"block_at {limits.block_at} is never reached alone.")
    if limits.clear_below >= 0.5:
        message = f"clear_below {limits.clear_below} accepts as safe what is more likely a violation than not."
        yield _finding("warning", "clears_likely_violations", rule.category, message)


def _exemplars(rule: Rule) -> Iterator[Finding]:
    labels: dict[str, set[bool]] = {}
    for exemplar in rule.exemplars:
        key = exemplar.sha256 or exemplar.text or exemplar.source
        labels.setdefault(key, set()).add(exemplar.violates)
    for key, seen in labels.items():
        if len(seen) > 1:
            message = f"the example {key[:60]!r} is there both as a violation and as none."
            yield _finding("error", "contradicting_examples", rule.category, message)


def _finding(level: Level, code: str, category: str, message: str) -> Finding:
    return Finding(level=level, code=code, category=category, message=f"{category}: {message}" if category else message)
