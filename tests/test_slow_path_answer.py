from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from guard.types import Judgement
from slow_path.answer import AnswerLimits, Question, parse, schema
from slow_path.engine import Generation
from slow_path.engines.scripted import generation

QUESTION = Question(rules=("violence", "illegal.fire"), times_seconds=(0.0, 1.5, 3.0), duration_seconds=4.0)


def answer(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "observations": [{"start_seconds": "0.0", "end_seconds": "1.5", "text": "two men fight"}],
        "checks": {
            "violence": {"evidence_seconds": ["1.5", "0.0"], "why": "blows", "violated": "yes"},
            "illegal.fire": {"evidence_seconds": [], "why": "no flames", "violated": "no"},
        },
        "counter_evidence": ["may be staged"],
        "categories": ["violence"],
        "severity": 2,
        "span": {"start_seconds": "0.0", "end_seconds": "1.5"},
        "reason": "The video shows a fight.",
    }
    return made | changes


def read(content: dict[str, Any] | str, **kwargs: Any) -> Judgement:
    text = content if isinstance(content, str) else json.dumps(content)
    made = generation(text, **kwargs)
    return parse(made, QUESTION, engine="e", prompt_hash="h")


def check(violated: str, times: tuple[float, ...] = (0.0,)) -> dict[str, Any]:
    return {"evidence_seconds": list(times), "why": "w", "violated": violated}


def test_reads_a_right_answer() -> None:
    judgement = read(answer(), p=0.9)
    assert judgement.status == "ok"
    assert judgement.error_code is None
    assert judgement.categories == ("violence",)
    assert judgement.severity == 2
    assert judgement.span_seconds == (0.0, 1.5)
    assert [c.rule for c in judgement.checks] == ["violence", "illegal.fire"]
    assert judgement.checks[0].evidence_seconds == (0.0, 1.5), "sorted"
    # p = 0.9 for the label, 0.1 for its rival, and `unsure`, which was not listed, at most what is left: nothing.
    assert judgement.confidence == pytest.approx(0.9, abs=1e-6)


def test_times_are_text_in_the_form_and_numbers_are_read_as_well() -> None:
    assert '"enum": ["0.0", "1.5", "3.0"]' in json.dumps(schema(QUESTION)), "as printed beside the frames"
    numbers = {"start_seconds": 0, "end_seconds": 1.5}
    assert read(answer(span=numbers)).span_seconds == read(answer()).span_seconds == (0.0, 1.5)
    for wrong in ("1,5", "0x1", "1e0", " 1.5", "-1.5", "", "nan", True, None):
        broken = answer(span={"start_seconds": "0.0", "end_seconds": wrong})
        assert read(broken).error_code == "vlm_invalid_schema", wrong


def test_text_may_be_of_any_script_but_not_what_grammars_get_wrong() -> None:
    pattern = schema(QUESTION)["properties"]["reason"]["pattern"]
    for text in ("Grüße", "墻", "नमस्ते", "ไทย", "한국어", "עברית"):
        assert re.fullmatch(pattern, text), text
    for text in ("\u0800", '"', "\\", "\n", "\u200b", "\u202e", "\ue000"):
        assert not re.fullmatch(pattern, text), repr(text)


def test_the_answer_form_fits_its_own_schema() -> None:
    jsonschema.Draft202012Validator(schema(QUESTION)).validate(answer())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"severity": 4}, "vlm_invalid_schema"),
        ({"severity": True}, "vlm_invalid_schema"),
        ({"extra": 1}, "vlm_invalid_schema"),
        ({"categories": ["spam"]}, "vlm_invalid_schema"),
        ({"observations": [{"start_seconds": 0.0, "end_seconds": 9.0, "text": "x"}]}, "vlm_invalid_schema"),
        ({"observations": [{"start_seconds": -1.0, "end_seconds": 1.0, "text": "x"}]}, "vlm_invalid_schema"),
        ({"reason": "x" * 201}, "vlm_invalid_schema"),
        ({"counter_evidence": ["a", "b", "c"]}, "vlm_invalid_schema"),
        ({"checks": {"violence": check("no"), "spam": check("no")}}, "vlm_invalid_schema"),
        ({"checks": {"violence": check("maybe"), "illegal.fire": check("no")}}, "vlm_invalid_schema"),
        ({"categories": []}, "vlm_inconsistent"),
        ({"categories": ["violence", "violence"]}, "vlm_inconsistent"),
        ({"categories": ["illegal.fire"]}, "vlm_inconsistent"),
        ({"severity": 0}, "vlm_inconsistent"),
        ({"span": None}, "vlm_inconsistent"),
        ({"span": {"start_seconds": 3.0, "end_seconds": 0.0}}, "vlm_inconsistent"),
        ({"checks": {"violence": check("yes", ()), "illegal.fire": check("no")}}, "vlm_inconsistent"),
    ],
)
def test_never_reads_a_wrong_answer_as_an_answer(change: dict[str, Any], code: str) -> None:
    judgement = read(answer(**change))
    assert (judgement.status, judgement.error_code) == ("parse_error", code)
    assert judgement.checks == ()


def test_a_missing_rule_is_partial() -> None:
    judgement = read(answer(checks={"violence": check("yes")}))
    assert (judgement.status, judgement.error_code) == ("partial", "vlm_incomplete")
    assert judgement.checks == ()


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        '{"observations": [',
        json.dumps(answer()).replace('"1.5"', "NaN"),
        json.dumps(answer()).replace('"severity": 2', '"severity": 2, "severity": 0'),
        json.dumps(answer()) + " and so it is safe",
        "[" * 100_000,
    ],
)
def test_text_that_is_not_one_json_object_is_a_parse_error(text: str) -> None:
    judgement = read(text)
    assert (judgement.status, judgement.error_code) == ("parse_error", "vlm_invalid_json")


def test_one_markdown_fence_is_forgiven() -> None:
    assert read(f"```json\n{json.dumps(answer())}\n```").status == "ok"


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (Generation(text=json.dumps(answer()), finish_reason="length", model="m"), "vlm_truncated"),
        (Generation(text=json.dumps(answer()), finish_reason="refusal", model="m"), "vlm_refused"),
        (Generation(text=" \n", finish_reason="stop", model="m"), "vlm_empty"),
    ],
)
def test_an_unfinished_answer_is_a_generation_error_even_if_it_reads_well(made: Generation, code: str) -> None:
    judgement = parse(made, QUESTION, engine="e", prompt_hash="")
    assert (judgement.status, judgement.error_code) == ("generation_error", code)


def test_without_log_probabilities_the_confidence_is_unknown() -> None:
    made = Generation(text=json.dumps(answer()), finish_reason="stop", model="m")
    judgement = parse(made, QUESTION, engine="e", prompt_hash="")
    assert judgement.status == "ok"
    assert judgement.confidence is None
    assert [c.confidence for c in judgement.checks] == [None, None]


def test_a_question_must_name_its_rules_once() -> None:
    with pytest.raises(ValueError, match="unique"):
        Question(rules=("a", "a"), times_seconds=(0.0,), duration_seconds=1.0)
    with pytest.raises(ValueError, match="increasing"):
        Question(rules=("a",), times_seconds=(1.0, 1.0), duration_seconds=1.0)


@pytest.mark.parametrize("text", ["a\tb", "a\x1cb", 'a"b', "a\\b", "\u202egp", "a\u200bb", "x" * 161])
def test_decoding_admits_no_sign_that_breaks_json_or_hides_text(text: str) -> None:
    bad = answer(counter_evidence=[text])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema(QUESTION)).validate(bad)
    jsonschema.Draft202012Validator(schema(QUESTION)).validate(answer(counter_evidence=["Grüße, 墻 50 %: it's {ok}"]))


def test_every_list_and_text_of_the_schema_is_bounded() -> None:
    def unbounded(part: Any) -> list[Any]:
        if not isinstance(part, dict):
            return []
        here = [part] if part.get("type") == "array" and "maxItems" not in part else []
        here += [part] if part.get("type") == "string" and not re.search(r"\{0,\d+\}\$$", part["pattern"]) else []
        return here + [found for value in part.values() for found in unbounded(value)]

    assert unbounded(schema(QUESTION)) == []
    assert schema(Question(rules=("a",), times_seconds=(0.0,), duration_seconds=1, limits=AnswerLimits(evidence=1)))
