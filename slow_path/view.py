"""What one pass over one video looks at: the rules in question, the frames shown, and the requests made of them.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guard.interfaces import Case
from guard.taxonomy import covers
from guard.types import DEFAULT_THRESHOLDS, Finding, Policy, Rule, Scores
from slow_path import prompt
from slow_path.answer import AnswerLimits, Question, schema
from slow_path.engine import MAX_TOP_LOGPROBS, Part, Request
from slow_path.prompt import PromptOptions, Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look at one video."""

    policy: Policy
    question: Question
    frames: tuple[Shown, ...]
    scores: tuple[Scores, ...]
    seed: int
    options: PromptOptions

    def reasoning(self, *, max_tokens: int, temperature: float) -> Request:
        """Return the request for a full answer."""
        return Request(
            system=self._system(),
            parts=self._parts(prompt.reasoning_task(self.question, self.options)),
            max_tokens=max_tokens,
            schema=schema(self.question),
            temperature=temperature,
            seed=self.seed,
            top_logprobs=MAX_TOP_LOGPROBS,
        )

    def scoring(self, rule: str) -> Request:
        """Return the one-token request for `rule`; all of one view share everything but their last line."""
        return Request(
            system=self._system(),
            parts=self._parts(prompt.scoring_task(rule)),
            max_tokens=1,
            seed=self.seed,
            top_logprobs=MAX_TOP_LOGPROBS,
        )

    def _system(self) -> str:
        return prompt.system_text(self.policy, seed=self.seed, options=self.options)

    def _parts(self, task: str) -> tuple[Part, ...]:
        return prompt.user_parts(self.frames, self.scores, self.question.rules, task, self.options)


def asked_rules(case: Case) -> tuple[Rule, ...]:
    """Return the rules that the slow path must settle: the uncertain ones and those that the screen found violated.

    Where the router named none (a poor sample, or detectors that disagree), all active rules are asked.
    """
    active = case.policy.active()
    if not case.route.uncertain:
        return active
    return tuple(r for r in active if r.category in case.route.uncertain or is_high(r, case))


def is_high(rule: Rule, case: Case) -> bool:
    """Whether the screen found `rule` violated: only two agreeing passes clear that."""
    found = any(f.category == rule.category and f.finding is Finding.VIOLATION for f in case.route.findings)
    thresholds = case.route.thresholds.get(rule.category) or rule.thresholds or DEFAULT_THRESHOLDS
    score = max((s.of(c) or 0.0 for s in case.scores for c in s.categories if covers(rule.category, c)), default=0.0)
    return found or score >= thresholds.block_at


def question_for(
    case: Case, rules: Sequence[Rule], shown: Sequence[Shown], *, seed: int, limits: AnswerLimits
) -> Question:
    """Return what is asked of the frames `shown`, the rules in the order that `seed` fixes."""
    media = case.media
    known = media.decoded_duration_seconds or media.declared_duration_seconds or 0.0
    return Question(
        rules=tuple(rule.category for rule in prompt.ordered(rules, seed)),
        times_seconds=tuple(frame.seconds for frame in shown),
        duration_seconds=max(known, shown[-1].seconds),
        limits=limits,
    )
