"""The form of an answer: the JSON schema that decoding must follow, and the strict reading of what came back.

Reasoning comes before conclusions, since a model writes from left to right: observations, then per rule evidence, why
and label, then the final verdict. Each rule is a *key*, so that an answer can neither skip one nor invent one; each
time is one of the times that were shown. What a schema cannot say is checked here: the final verdict must follow from
the checks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from guard.types import Judgement, JudgementStatus, Observation, RuleCheck, Violated, require
from slow_path.confidence import label_confidences
from slow_path.engine import Generation
from slow_path.failures import FailureCode

LABELS: tuple[Violated, ...] = ("yes", "no", "unsure")
TIME_SLACK_SECONDS = 0.05
"""Half of the last digit shown: an answer that says 2.0 for the end of a video of 1.96 s means its end."""


_PLAIN = r"[ !#-\[\]-~\u00a0-\u07ff\u0801-\u200a\u2010-\u2027\u202f-\u205f\u2070-\ud7ff\uf900-\ufffd]"
"""One sign of a text: no quote, backslash, control, zero-width or direction-changing one, none for private use.

A pattern and not `maxLength`: under `maxLength` the grammar that xgrammar 0.2.8 makes lets raw tabs and other control
characters into a string, which is then no JSON (seen with a random model behind vLLM 0.32). And U+0800 is left out,
since with a range that holds it that grammar takes byte sequences for a sign that are no UTF-8 (E0 80 80).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLimits:
    """How much an answer may hold. Every string and list is bounded, so the longest answer is known beforehand."""

    observations: int = 6
    evidence: int = 4
    counter_evidence: int = 2
    text_chars: int = 160
    """Longest observation, `why` and piece of counter-evidence."""
    reason_chars: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked, as far as an answer is held against it."""

    rules: tuple[str, ...]
    """Rule ids in the order in which the answer gives them."""
    times_seconds: tuple[float, ...]
    """Times of the frames shown, as printed in the prompt: increasing, two decimals."""
    duration_seconds: float
    limits: AnswerLimits = AnswerLimits()

    def __post_init__(self) -> None:
        require(len(self.rules) > 0 and len(set(self.rules)) == len(self.rules), "rules", "unique ids", self.rules)
        increasing = all(a < b for a, b in zip(self.times_seconds, self.times_seconds[1:], strict=False))
        require(len(self.times_seconds) > 0 and increasing, "times_seconds", "increasing", self.times_seconds)


def schema(question: Question) -> dict[str, Any]:
    """Return the JSON schema (2020-12) for structured decoding of an answer to `question`."""
    limits = question.limits
    # As text: xgrammar 0.2.8 makes the number 0.3 of an enumeration 0.29999999999999999, which models then must write.
    time = {"enum": [str(t) for t in question.times_seconds]}
    text = _text(limits.text_chars)
    span = _object({"start_seconds": time, "end_seconds": time})
    check = _object(
        {"evidence_seconds": _array(time, limits.evidence), "why": text, "violated": {"enum": list(LABELS)}}
    )
    observation = _object({"start_seconds": time, "end_seconds": time, "text": text})
    return _object(
        {
            "observations": _array(observation, limits.observations),
            "checks": _object(dict.fromkeys(question.rules, check)),
            "counter_evidence": _array(text, limits.counter_evidence),
            "categories": _array({"enum": list(question.rules)}, len(question.rules)),
            "severity": {"enum": [0, 1, 2, 3]},
            "span": {"anyOf": [{"type": "null"}, span]},
            "reason": _text(limits.reason_chars),
        }
    )


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{_PLAIN}{{0,{most}}}$"}


def _array(items: Mapping[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": dict(items), "maxItems": most}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_PLAIN_NUMBER = re.compile(r"\d{1,7}(\.\d{1,6})?")


def _number(given: Any) -> Any:
    return float(given) if isinstance(given, str) and _PLAIN_NUMBER.fullmatch(given) else given


Seconds = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False, ge=0)]
"""A time as the schema has it, `"1.5"`, or as a number, which a model without a grammar may write."""


class _Observation(_Strict):
    start_seconds: Seconds
    end_seconds: Seconds
    text: str


class _Check(_Strict):
    evidence_seconds: list[Seconds]
    why: str
    violated: Violated


class _Span(_Strict):
    start_seconds: Seconds
    end_seconds: Seconds


class _Answer(_Strict):
    observations: list[_Observation]
    checks: dict[str, _Check]
    counter_evidence: list[str]
    categories: list[str]
    severity: Annotated[int, Field(ge=0, le=3)]
    span: _Span | None
    reason: str


class _Fault(Exception):  # noqa: N818 - control flow of this module only
    def __init__(self, code: FailureCode, status: JudgementStatus = "parse_error") -> None:
        super().__init__(code)
        self.code = code
        self.status = status


def parse(generation: Generation, question: Question, *, engine: str, prompt_hash: str) -> Judgement:
    """Read an answer. Whatever is wrong with it becomes a status and a code, never a finding.

    Returns:
        A judgement with status `ok`; `partial` where asked rules are missing; `generation_error` for a truncated,
        empty or refused one; `parse_error` for everything else that is not exactly an answer to `question`.
    """
    try:
        _require_finished(generation)
        answer = _read(generation.text)
        _check_form(answer, question)
        _check_consistency(answer)
        checks = _rule_checks(answer, generation, question)
    except _Fault as fault:
        return failed(fault.code, engine=engine, prompt_hash=prompt_hash, status=fault.status, generation=generation)
    sure = [check.confidence for check in checks if check.confidence is not None]
    return Judgement(
        status="ok",
        engine=engine,
        observations=tuple(
            Observation(start_seconds=o.start_seconds, end_seconds=o.end_seconds, text=o.text)
            for o in answer.observations
        ),
        checks=checks,
        counter_evidence=tuple(answer.counter_evidence),
        categories=tuple(rule for rule in question.rules if rule in answer.categories),
        severity=answer.severity,
        span_seconds=(answer.span.start_seconds, answer.span.end_seconds) if answer.span else None,
        confidence=min(sure) if len(sure) == len(checks) else None,
        reason=answer.reason,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        prompt_hash=prompt_hash,
    )


def failed(
    code: FailureCode,
    *,
    engine: str,
    prompt_hash: str = "",
    status: JudgementStatus = "generation_error",
    generation: Generation | None = None,
) -> Judgement:
    """Return the typed absence of an answer."""
    return Judgement(
        status=status,
        engine=engine,
        prompt_hash=prompt_hash,
        error_code=code.value,
        prompt_tokens=generation.prompt_tokens if generation else 0,
        completion_tokens=generation.completion_tokens if generation else 0,
    )


def _require_finished(generation: Generation) -> None:
    if generation.finish_reason == "refusal":
        raise _Fault(FailureCode.REFUSED, "generation_error")
    if generation.finish_reason == "length":
        raise _Fault(FailureCode.TRUNCATED, "generation_error")
    if not generation.text.strip():
        raise _Fault(FailureCode.EMPTY, "generation_error")


def _read(text: str) -> _Answer:
    try:
        plain = json.loads(_unfenced(text), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _Fault(FailureCode.INVALID_JSON) from error
    try:
        return _Answer.model_validate(plain)
    except ValidationError as error:
        raise _Fault(FailureCode.INVALID_SCHEMA) from error


def _unfenced(text: str) -> str:
    """Take off one Markdown fence around the whole answer: servers without structured decoding let models add it."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and "\n" in body:
        return body[body.index("\n") : -3]
    return body


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    # A doubled key would let one answer say both `yes` and `no`; plain `json` keeps the last one silently.
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("doubled key")
    return made


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_form(answer: _Answer, question: Question) -> None:
    asked = set(question.rules)
    if not set(answer.checks) <= asked or not set(answer.categories) <= asked:
        raise _Fault(FailureCode.INVALID_SCHEMA)
    limits = question.limits
    too_many = (
        len(answer.observations) > limits.observations
        or len(answer.counter_evidence) > limits.counter_evidence
        or any(len(check.evidence_seconds) > limits.evidence for check in answer.checks.values())
    )
    texts = [*answer.counter_evidence, *(o.text for o in answer.observations), *(c.why for c in answer.checks.values())]
    too_long = any(len(text) > limits.text_chars for text in texts) or len(answer.reason) > limits.reason_chars
    latest = max(question.duration_seconds, question.times_seconds[-1]) + TIME_SLACK_SECONDS
    if too_many or too_long or any(not (math.isfinite(t) and 0 <= t <= latest) for t in _times(answer)):
        raise _Fault(FailureCode.INVALID_SCHEMA)
    if set(answer.checks) != asked:
        raise _Fault(FailureCode.INCOMPLETE, "partial")


def _times(answer: _Answer) -> list[float]:
    ends = [t for span in _spans(answer) for t in span]
    return ends + [t for check in answer.checks.values() for t in check.evidence_seconds]


def _spans(answer: _Answer) -> list[tuple[float, float]]:
    spans = [(o.start_seconds, o.end_seconds) for o in answer.observations]
    return spans + ([(answer.span.start_seconds, answer.span.end_seconds)] if answer.span else [])


def _check_consistency(answer: _Answer) -> None:
    """Hold the final verdict against the checks that it must follow from."""
    violated = {rule for rule, check in answer.checks.items() if check.violated == "yes"}
    ordered = all(start <= end for start, end in _spans(answer))
    follows = (
        set(answer.categories) == violated
        and len(answer.categories) == len(violated)
        and (answer.severity > 0) == bool(violated)
        and (answer.span is not None) == bool(violated)
        and all(answer.checks[rule].evidence_seconds for rule in violated)
    )
    if not (ordered and follows):
        raise _Fault(FailureCode.INCONSISTENT)


def _rule_checks(answer: _Answer, generation: Generation, question: Question) -> tuple[RuleCheck, ...]:
    given = label_confidences(generation.tokens, [check.violated for check in answer.checks.values()])
    confidence = dict(zip(answer.checks, given, strict=True))
    return tuple(
        RuleCheck(
            rule=rule,
            violated=answer.checks[rule].violated,
            evidence_seconds=tuple(sorted(set(answer.checks[rule].evidence_seconds))),
            why=answer.checks[rule].why,
            confidence=confidence[rule],
        )
        for rule in question.rules
    )
