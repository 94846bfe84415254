"""What every benchmark is finished with: its policy, one blocking rule for each category that its columns accept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from eval.files import Collector
from eval.types import DEFAULT_POLICY, About, Benchmark, Column
from guard import taxonomy
from guard.types import Policy, Rule
from policies.canonical import make_policy
from policies.load import library, library_words, load_policy


def policy_of(columns: Sequence[Column], *, name: str) -> Policy:
    """Return the policy; the words of each rule are those of the library."""
    categories = dict.fromkeys(category for column in columns for category in column.accepts)
    rules = {category: rule_of(category) for category in categories}
    return make_policy(name=name, version="1", rules=rules, description="What this benchmark asks, and nothing more.")


def rule_of(category: str) -> Rule:
    """Return a blocking rule on `category`, in the words of the first policy of the library that has one."""
    found = next(_rules(category), None)
    if found is not None:
        return found
    words = library_words(category)
    known = taxonomy.categories().get(category)
    return Rule(
        category=category,
        state="block",
        name=words.get("name") or (known.name if known else category),
        definition=words.get("definition", ""),
    )


def _rules(category: str) -> Iterator[Rule]:
    for name in ("default", *library()):
        rule = load_policy(name).rules.get(category)
        if rule is not None and rule.definition:
            yield replace(rule, state="block", thresholds=None, extends="", locked=False)


def finish(
    found: Collector,
    about: About,
    columns: Sequence[Column],
    *,
    data_hash: str,
    policies: Mapping[str, Policy] | None = None,
    protocols: tuple[str, ...] = (),
    subsets: Mapping[str, frozenset[str]] | None = None,
    notes: Sequence[str] = (),
) -> Benchmark:
    """Return the benchmark of what was collected; without `policies` there is one, made of the columns."""
    if found.duplicates:
        notes = (*notes, f"{found.duplicates} entries name a sample that an earlier one named; the first counts.")
    return Benchmark(
        name=found.benchmark,
        about=about,
        columns=tuple(columns),
        items=tuple(found.items),
        missing=tuple(found.missing),
        expected=found.expected,
        policies=policies or {DEFAULT_POLICY: policy_of(columns, name=found.benchmark)},
        protocols=protocols,
        subsets=subsets or {},
        notes=tuple(notes),
        data_hash=data_hash,
    )
