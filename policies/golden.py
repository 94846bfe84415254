"""A golden set: cases whose answer a team has agreed on, run against a policy before it is published.

Which rules a new version breaks is said by name: a case that the old version got right and the new one gets wrong.
Judging is done by a function that is passed in (a whole guard, or anything that gives verdicts), not here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from guard import taxonomy
from guard.errors import InvalidManifest, InvalidPolicy
from guard.types import Decision, Policy, Verdict

MAX_CASES = 100_000


class Case(BaseModel):
    """One line of a golden set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, StringConstraints(min_length=1)]
    """Clip or image, relative to the golden file."""
    labels: tuple[str, ...] | None = None
    """Categories that it violates; empty means none. None where only the decision is agreed on."""
    decision: Decision | None = None
    """The decision that it must get."""
    why: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.labels is None and self.decision is None:
            raise ValueError("a case needs labels, a decision, or both")
        unknown = [label for label in self.labels or () if not taxonomy.is_known(label)]
        if unknown:
            close = taxonomy.suggestion(unknown[0])
            raise ValueError(f"there is no category {unknown[0]!r}" + (f"; did you mean {close!r}?" if close else ""))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the guard said of one case, and whether that is right."""

    path: str
    decision: Decision
    flagged: tuple[str, ...]
    """Rules that it found violated."""
    wrong: tuple[str, ...]
    """Rules answered wrongly; `decision` where the decision differs from the one agreed on."""
    unanswered: bool
    """True where nothing was decided (an error): counted as wrong, and apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A golden set under one policy."""

    policy_hash: str
    answers: tuple[Answer, ...]

    @property
    def right(self) -> int:
        """Number of cases answered as agreed."""
        return sum(not answer.wrong for answer in self.answers)

    @property
    def unanswered(self) -> int:
        """Number of cases that got no answer."""
        return sum(answer.unanswered for answer in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a new policy version does to a golden set."""

    before: Report
    after: Report
    broken: Mapping[str, tuple[str, ...]]
    """Rule to the cases that were right and are wrong now."""
    mended: Mapping[str, tuple[str, ...]]
    """Rule to the cases that were wrong and are right now."""

    @property
    def regresses(self) -> bool:
        """Whether some case that was right is wrong now."""
        return bool(self.broken)

    def summary(self) -> str:
        """Return one line for a log or an edit's note."""
        total = len(self.after.answers)
        parts = [f"{rule}: {len(paths)}" for rule, paths in sorted(self.broken.items())]
        broken = f"; broken: {', '.join(parts)}" if parts else ""
        return f"golden set {self.before.right} -> {self.after.right} of {total} right{broken}"


Judge = Callable[[Sequence[Path], Policy], Sequence[Verdict]]
"""Gives one verdict per path, in order, under a policy."""


def read_golden(file: Path) -> tuple[Case, ...]:
    """Read a golden set, one JSON object a line.

    Raises:
        InvalidManifest: the file cannot be read, is empty, or a line is not a case; the message has the line's number.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"The golden set {str(file)!r} cannot be read: {error}.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered or len(numbered) > MAX_CASES:
        raise InvalidManifest(f"The golden set {str(file)!r} has {len(numbered)} cases; it needs 1 to {MAX_CASES}.")
    return tuple(_case(line, f"{file.name}, line {number}") for number, line in numbered)


def run(cases: Sequence[Case], policy: Policy, judge: Judge, *, root: Path) -> Report:
    """Judge every case under `policy`. A label that the policy has no active rule for is expected to be let through."""
    verdicts = judge([root / case.path for case in cases], policy)
    if len(verdicts) != len(cases):
        raise InvalidPolicy(f"The judge gave {len(verdicts)} verdicts for {len(cases)} golden cases.")
    answers = tuple(_answer(case, verdict, policy) for case, verdict in zip(cases, verdicts, strict=True))
    return Report(policy_hash=policy.hash, answers=answers)


def compare(before: Report, after: Report) -> Comparison:
    """Return which rules the change broke and mended.

    Each report counts by its own policy's rules: where a rule came or went, so did the answer expected of its cases. An
    intended unblock therefore breaks nothing, unless a case names the decision that it must get.
    """
    broken: dict[str, list[str]] = {}
    mended: dict[str, list[str]] = {}
    for old, new in zip(before.answers, after.answers, strict=True):
        for rule in set(new.wrong) - set(old.wrong):
            broken.setdefault(rule, []).append(new.path)
        for rule in set(old.wrong) - set(new.wrong):
            mended.setdefault(rule, []).append(new.path)
    return Comparison(before=before, after=after, broken=_frozen(broken), mended=_frozen(mended))


def check(comparison: Comparison, *, force: bool) -> str:
    """Return the note to keep with the edit, or refuse to publish.

    Raises:
        InvalidPolicy: a rule regresses and `force` is not set; the message names the rules.
    """
    if not comparison.regresses:
        return comparison.summary()
    if not force:
        raise InvalidPolicy(
            f"This version breaks the golden set, so it is not published: {comparison.summary()}.",
            hint="Mend the rule, correct the golden set, or publish with --force, which is kept in the history.",
        )
    return f"FORCED past a regression: {comparison.summary()}"


def _case(line: str, place: str) -> Case:
    try:
        return Case.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "case"
        raise InvalidManifest(f"{place}: {key}: {first['msg'].removeprefix('Value error, ')}.") from error
    except ValueError as error:
        raise InvalidManifest(f"{place}: not JSON: {error}.") from error


def _answer(case: Case, verdict: Verdict, policy: Policy) -> Answer:
    flagged = {category for category, score in verdict.categories.items() if score.flagged}
    wrong: set[str] = set()
    if case.labels is not None:
        expected = {claimed for label in case.labels if (claimed := _active_claimant(label, policy))}
        wrong |= expected ^ flagged
    if case.decision is not None and verdict.decision != case.decision:
        wrong.add("decision")
    unanswered = verdict.decision == "undecided" and case.decision != "undecided"
    if unanswered:
        wrong.add("decision")
    return Answer(
        path=case.path,
        decision=verdict.decision,
        flagged=tuple(sorted(flagged)),
        wrong=tuple(sorted(wrong)),
        unanswered=unanswered,
    )


def _active_claimant(label: str, policy: Policy) -> str | None:
    node = label
    while node and node not in policy.rules:
        node = node.rpartition(".")[0]
    rule = policy.rules.get(node)
    return node if rule is not None and rule.state != "off" else None


def _frozen(found: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {rule: tuple(paths) for rule, paths in sorted(found.items())}


def per_rule(report: Report) -> dict[str, int]:
    """Return the number of cases wrong by rule, the worst first."""
    return dict(Counter(rule for answer in report.answers for rule in answer.wrong).most_common())
