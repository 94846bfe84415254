"""Which of a policy's examples a model is shown beside one input: those that suit it, in the order of their use."""

from __future__ import annotations

from dataclasses import replace

from guard.types import Policy, Rule
from policies.exemplars import DEFAULT_STRATEGY, Demonstration, Query, Strategy, retrieve

COUNT, BUDGET_TOKENS = 8, 600
"""Demonstrations of one rule at most, and the tokens that they may take together."""


def for_text(text: str, policy: Policy, *, strategy: Strategy = DEFAULT_STRATEGY, count: int = COUNT) -> Policy:
    """Return the policy with the examples of each rule that suit `text`, the most useful first, and no others.

    Prompts take examples from the front; examples that are clips without words cannot be told and are left out. The
    policy's hash stays: it is still the same policy that decides.
    """
    rules = {category: _chosen(text, rule, strategy, count) for category, rule in policy.rules.items()}
    return replace(policy, rules=rules)


def _chosen(text: str, rule: Rule, strategy: Strategy, count: int) -> Rule:
    pool = [Demonstration(exemplar=e) for e in rule.exemplars if e.text or e.rationale]
    if not pool:
        return rule
    found = retrieve(Query(text=text), pool, strategy=strategy, count=count, budget_tokens=BUDGET_TOKENS)
    return replace(rule, exemplars=tuple(d.exemplar for d in reversed(found.demonstrations)))
