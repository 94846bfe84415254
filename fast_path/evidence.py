"""Which score columns speak for which policy rule, and what they say.

A column scores one category. For a rule on category X it is evidence in one of two ways:

* it can *violate* the rule: X itself, or anything below X that no more specific rule of the policy claims (a high
  `violence.fighting` violates a rule on `violence`, unless the policy has a rule of its own for fighting);
* it can *clear* the rule: X itself only. A low `violence.fighting` says nothing of shootings, so it does not clear
  `violence`; a low `illegal.fire` does not clear `illegal.fire.smoke` either, because a detector of flames need not
  know smoke. Where silence does carry over, that is declared (`cleared_by`): `flashing` is general plus red flashes by
  definition. A declared column from outside X can clear the rule, and never violates it.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guard.taxonomy import covers
from guard.types import DEFAULT_THRESHOLDS, Finding, Policy, Rule, RuleFinding, Scores, Thresholds

CLEARED_BY: Mapping[str, tuple[str, ...]] = {"flashing": ("flashing.general", "flashing.red")}
"""Rule category to the columns that together exhaust it: all of them low clears the rule."""

RAISES_ONLY = frozenset({"screen_text"})
"""Detectors whose silence clears nothing: a video without an insult on its screen may speak one."""

SHIPPED = frozenset({"tiny", "text_ngrams"})
"""Detectors whose weights come with the package: they know what the library calls a category, and no word that a policy
adds to it."""

_STRICTNESS = {"off": 0, "flag": 1, "block": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The score of one detector for one category."""

    category: str
    probability: float
    """In [0, 1], of the whole video."""
    peak: float
    """In [0, 1]: the highest score of any moment; `probability` where the detector gives no moments."""
    detector: str
    calibrated: bool
    """Whether a calibration made the probability. Thresholds that were fitted to one detector's probabilities say
    nothing of another's raw scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEvidence:
    """What is known of one active rule before the slow path."""

    rule: Rule
    finding: Finding
    confidence: float
    """In [0, 1]; at least 0.5 where the finding is clear or violation, at most 0.5 otherwise. See `certainty`."""
    thresholds: Thresholds
    """Those of the column that decided."""
    violating: tuple[Column, ...] = ()
    """The columns that could violate the rule, whatever they say."""

    def summary(self) -> RuleFinding:
        """Return the finding as the value that routes carry."""
        return RuleFinding(
            category=self.rule.category,
            finding=self.finding,
            score=max((column.probability for column in self.violating), default=None),
            confidence=self.confidence,
            columns=tuple(dict.fromkeys(column.category for column in self.violating)),
        )


def columns(scores: Sequence[Scores]) -> tuple[Column, ...]:
    """Flatten the scores of all detectors into columns, in an order that does not depend on the detectors' order."""
    found = [
        Column(
            category=category,
            probability=float(result.probability[index]),
            peak=float(result.per_moment[:, index].max(initial=result.probability[index])),
            detector=result.detector,
            calibrated=result.calibration is not None,
        )
        for result in scores
        for index, category in enumerate(result.categories)
    ]
    return tuple(sorted(found, key=lambda c: (c.category, c.detector, c.probability, c.peak, c.calibrated)))


def certainty(probability: float, thresholds: Thresholds) -> float:
    """How far a probability is from being undecided, relative to its thresholds.

    Piecewise linear: 0 in the middle of the uncertain band, 0.5 at either threshold, 1 at probability 0 and 1. With
    thresholds 0.1 and 0.9, 0.04 gives 0.5 + 0.5 * 0.06 / 0.1 = 0.8, and 0.3 gives 0.5 * 0.2 / 0.4 = 0.25.
    """
    clear, block = thresholds.clear_below, thresholds.block_at
    if probability < clear:
        return 0.5 + 0.5 * (clear - probability) / clear
    if probability >= block:
        return 1.0 if block >= 1.0 else 0.5 + 0.5 * (probability - block) / (1.0 - block)
    middle, half = (clear + block) / 2, (block - clear) / 2
    return min(0.5, 0.5 * abs(probability - middle) / half)


def state(probability: float, thresholds: Thresholds) -> Finding:
    """Clear, violation or uncertain, of one probability."""
    if probability < thresholds.clear_below:
        return Finding.CLEAR
    return Finding.VIOLATION if probability >= thresholds.block_at else Finding.UNCERTAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Weigher:
    """Weighs the columns of one video against the rules of one policy."""

    policy: Policy
    found: tuple[Column, ...]
    calibrated: Mapping[str, Thresholds]
    cleared_by: Mapping[str, tuple[str, ...]]
    detector_margin: float
    """Two detectors on one category that are further apart than this, on different sides, disagree."""
    moment_margin: float
    """A moment this far above a clear video score disagrees with it."""
    widened: frozenset[str] = frozenset()
    """Rules whose words say more than the shipped weights were trained on."""
    shipped: frozenset[str] = SHIPPED
    """Detectors that run the shipped weights."""

    def weigh(self, rule: Rule) -> RuleEvidence:
        """Return what the columns say of `rule`."""
        speaking = [column for column in self.found if self._violates(column, rule) or self._clears(column, rule)]
        contradicted = {c.category for c in speaking if self._contradicted(rule, c.category)}
        sure = [c for c in speaking if c.category not in contradicted and self._surely_violates(c, rule)]
        if sure:
            top = max(sure, key=lambda column: self._certainty(rule, column))
            return self._result(rule, Finding.VIOLATION, self._certainty(rule, top), top)
        if contradicted:
            return self._result(rule, Finding.DISAGREEMENT, 0.0, None)
        if not self._covered(rule, speaking):
            return self._result(rule, Finding.UNCOVERED, 0.0, None)
        unclear = [column for column in speaking if self._state(rule, column) is not Finding.CLEAR]
        if unclear:
            worst = min(unclear, key=lambda column: self._uncertainty(rule, column))
            return self._result(rule, Finding.UNCERTAIN, self._uncertainty(rule, worst), worst)
        if any(self._hot_moment(rule, column) for column in speaking):
            return self._result(rule, Finding.DISAGREEMENT, 0.0, None)
        least = min(speaking, key=lambda column: self._certainty(rule, column), default=None)
        confidence = 1.0 if least is None else self._certainty(rule, least)
        return self._result(rule, Finding.CLEAR, confidence, least)

    def _violates(self, column: Column, rule: Rule) -> bool:
        """Whether a high score can violate the rule: its own category, or one below that no other rule claims."""
        return covers(rule.category, column.category) and self._claimant(column.category) == rule.category

    def _clears(self, column: Column, rule: Rule) -> bool:
        """Whether a low score is part of what clears the rule."""
        return column.category == rule.category or column.category in self._needed(rule)

    def _needed(self, rule: Rule) -> tuple[str, ...]:
        """Return the declared columns whose silence clears the rule, less those of more specific rules."""
        declared = self.cleared_by.get(rule.category, ())
        below = [category for category in declared if covers(rule.category, category)]
        answered = {category for category in below if self._claimant(category) != rule.category}
        return tuple(category for category in declared if category not in answered)

    def _claimant(self, category: str) -> str | None:
        """Return the most specific category with a rule (off ones included) that `category` falls under."""
        node: str | None = category
        while node and node not in self.policy.rules:
            node = node.rpartition(".")[0] or None
        return node

    def _covered(self, rule: Rule, speaking: Sequence[Column]) -> bool:
        """Whether silence of the columns can clear the rule."""
        have = {column.category for column in speaking if self._knows(column, rule)}
        declared = rule.category in self.cleared_by
        return rule.category in have or (declared and have.issuperset(self._needed(rule)))

    def _knows(self, column: Column, rule: Rule) -> bool:
        """Whether silence of the column's detector says anything of all that the rule says."""
        beyond = rule.category in self.widened and column.detector in self.shipped
        return column.detector not in RAISES_ONLY and not beyond

    def _surely_violates(self, column: Column, rule: Rule) -> bool:
        high = self._state(rule, column) is Finding.VIOLATION
        own = column.category == rule.category
        return high and self._violates(column, rule) and not (own and self._excused(rule))

    def _excused(self, rule: Rule) -> bool:
        """Whether a high score may come from something below that the policy treats more mildly than `rule`.

        With `violence: block` and `violence.fighting: off`, a high `violence` score in a boxing match is no sure
        violation. It is one again where the milder category was scored, and is clear.
        """
        return any(
            not self._scored_clear(other)
            for other in self.policy.rules.values()
            if other.category != rule.category
            and covers(rule.category, other.category)
            and _STRICTNESS[other.state] < _STRICTNESS[rule.state]
        )

    def _scored_clear(self, rule: Rule) -> bool:
        own = [column for column in self.found if column.category == rule.category]
        return bool(own) and all(state(c.probability, self._thresholds(rule, c)) is Finding.CLEAR for c in own)

    def _contradicted(self, rule: Rule, category: str) -> bool:
        same = [column for column in self.found if column.category == category]
        findings = {self._state(rule, column) for column in same}
        values = [column.probability for column in same]
        return len(findings) > 1 and max(values) - min(values) > self.detector_margin

    def _hot_moment(self, rule: Rule, column: Column) -> bool:
        """Whether some moment of a clear video would by itself violate the rule, or stands far above the whole."""
        high = column.peak >= self._thresholds(rule, column).block_at
        return high or column.peak - column.probability > self.moment_margin

    def _thresholds(self, rule: Rule, column: Column) -> Thresholds:
        fitted = self.calibrated.get(column.category) if column.calibrated else None
        return rule.thresholds or fitted or DEFAULT_THRESHOLDS

    def _state(self, rule: Rule, column: Column) -> Finding:
        return state(column.probability, self._thresholds(rule, column))

    def _certainty(self, rule: Rule, column: Column) -> float:
        return certainty(column.probability, self._thresholds(rule, column))

    def _uncertainty(self, rule: Rule, column: Column) -> float:
        """Certainty of a column that could not settle the rule: 0 for a high score that may not violate it."""
        return self._certainty(rule, column) if self._state(rule, column) is Finding.UNCERTAIN else 0.0

    def _result(self, rule: Rule, finding: Finding, confidence: float, by: Column | None) -> RuleEvidence:
        used = self._thresholds(rule, by) if by else rule.thresholds or self.calibrated.get(rule.category)
        return RuleEvidence(
            rule=rule,
            finding=finding,
            confidence=confidence,
            thresholds=used or DEFAULT_THRESHOLDS,
            violating=tuple(column for column in self.found if self._violates(column, rule)),
        )
