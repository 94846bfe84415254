"""Whatever a model writes, the parser neither raises nor finds anything that was not said."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from slow_path.answer import Question, parse, schema
from slow_path.engine import Generation
from slow_path.engines.scripted import generation

TIMES = (0.0, 0.4, 1.25, 2.5)
RULES = ("violence", "illegal.fire", "custom.x")
QUESTION = Question(rules=RULES, times_seconds=TIMES, duration_seconds=3.0)
VALIDATOR = jsonschema.Draft202012Validator(schema(QUESTION))

text = st.text(max_size=40)
plain = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F, exclude_characters='"\\'), max_size=40).filter(
    lambda t: all(not 0x7F <= ord(c) <= 0x9F for c in t)
)
written = st.sampled_from([str(t) for t in TIMES])
"""Times as the schema asks for them; the parser takes numbers as well."""
time = st.sampled_from(TIMES) | written


@st.composite
def right_answers(
    draw: st.DrawFn, text: st.SearchStrategy[str] = text, time: st.SearchStrategy[float | str] = time
) -> dict[str, Any]:
    labels = {rule: draw(st.sampled_from(["yes", "no", "unsure"])) for rule in RULES}
    violated = [rule for rule in RULES if labels[rule] == "yes"]
    span = sorted(draw(st.tuples(time, time)), key=float)
    least = {rule: 1 if rule in violated else 0 for rule in RULES}
    return {
        "observations": [
            {"start_seconds": a, "end_seconds": b, "text": draw(text)}
            for a, b in draw(st.lists(st.tuples(time, time).map(lambda pair: sorted(pair, key=float)), max_size=3))
        ],
        "checks": {
            rule: {
                "evidence_seconds": draw(st.lists(time, min_size=least[rule], max_size=4)),
                "why": draw(text),
                "violated": labels[rule],
            }
            for rule in draw(st.permutations(RULES))
        },
        "counter_evidence": draw(st.lists(text, max_size=2)),
        "categories": violated,
        "severity": draw(st.integers(1, 3)) if violated else 0,
        "span": {"start_seconds": span[0], "end_seconds": span[1]} if violated else None,
        "reason": draw(text),
    }


@given(right_answers(), st.floats(0.34, 0.999))
@settings(max_examples=150, deadline=None)
def test_a_right_answer_comes_back_as_it_was_said(answer: dict[str, Any], p: float) -> None:
    judgement = parse(generation(json.dumps(answer), p=p), QUESTION, engine="e", prompt_hash="")
    assert judgement.status == "ok"
    assert {c.rule: c.violated for c in judgement.checks} == {r: c["violated"] for r, c in answer["checks"].items()}
    assert set(judgement.categories) == set(answer["categories"])
    assert all(c.confidence is not None and 0 < c.confidence <= 1 for c in judgement.checks)


@given(right_answers(plain, written))
@settings(max_examples=80, deadline=None)
def test_a_right_answer_in_plain_signs_fits_the_schema(answer: dict[str, Any]) -> None:
    VALIDATOR.validate(answer)


@given(right_answers(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_answer_is_never_read_as_another_verdict(answer: dict[str, Any], data: st.DataObject) -> None:
    whole = json.dumps(answer)
    cut = data.draw(st.integers(0, len(whole) - 1))
    insert = data.draw(st.sampled_from(["", "x", '"', "}", ",", "null", "}}"]))
    judgement = parse(
        Generation(text=whole[:cut] + insert + whole[cut + 1 :], finish_reason="stop", model="m"),
        QUESTION,
        engine="e",
        prompt_hash="",
    )
    if judgement.status == "ok":  # the damage fell inside a text or a number
        assert {c.rule for c in judgement.checks} == set(RULES)
        assert set(judgement.categories) == {c.rule for c in judgement.checks if c.violated == "yes"}
    else:
        assert judgement.checks == ()
        assert judgement.error_code


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | st.sampled_from(RULES), inner, max_size=4),
    )
    | text
)
@settings(max_examples=150, deadline=None)
def test_anything_else_is_a_typed_failure(value: Any) -> None:
    made = Generation(text=json.dumps(value), finish_reason="stop", model="m")
    judgement = parse(made, QUESTION, engine="e", prompt_hash="")
    assert judgement.status != "ok"
    assert judgement.error_code
