"""Texts through the public API: the same decisions as for videos, and nothing that a text can do about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from builders import judgement
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from guard.api import Guard
from guard.config import Settings
from guard.errors import PolicyNotFound
from guard.texts import TextGuard, TextStages
from guard.verdict_json import schema, to_dict
from policies import personalize
from policies.edits import History
from policies.load import load_policy

SPAM = "WINNER! Claim your prize of 900 pounds now, call 09061701461 to collect"
FINE = "What a lovely day we had at the park with the children"
UNREAD = "Погода сегодня хорошая, мы идём гулять"


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard.load(Settings(detectors=("flash",), workers=1)) as loaded:
        yield loaded


def test_harm_is_blocked_what_is_fine_allowed_and_what_was_not_read_reviewed(guard: Guard) -> None:
    assert guard.check_text(SPAM, "spam").decision == "block"
    assert guard.check_text(FINE, "spam").decision == "allow"
    unread = guard.check_text(UNREAD, "spam")
    assert unread.decision == "review"
    assert "no configured stage can judge" in unread.rationale


def test_without_a_policy_the_one_for_texts_decides_and_a_policy_given_stays(guard: Guard) -> None:
    assert guard.policy.name == "screen"
    assert guard.check_text(SPAM).policy.name == "screen-text"
    assert guard.check_text(FINE).decision == "allow"
    with Guard.load(Settings(detectors=("flash",), workers=1, policy="flashing")) as given_one:
        verdict = given_one.check_text(FINE)
    assert verdict.policy.name == "flashing"
    assert verdict.decision == "review", "no stage judges flashing in a text, so it is not clear of it"


def test_a_verdict_on_a_text_has_the_form_and_provenance_of_every_verdict(guard: Guard) -> None:
    verdict = guard.check_text(SPAM, load_policy("spam"), name="title of 7")
    plain = to_dict(verdict)
    Draft202012Validator(schema()).validate(json.loads(json.dumps(plain)))
    assert verdict.source == "title of 7"
    assert verdict.sha256 is not None
    assert verdict.versions["detector:text_ngrams"]
    assert verdict.versions["calibration:text_ngrams"]
    assert verdict.policy.hash == load_policy("spam").hash


def test_a_text_that_was_made_an_example_is_known_again_in_disguise_and_no_other(guard: Guard) -> None:
    from policies import commands
    from policies.personalize import By

    below = load_policy("spam")
    examples = [commands.example("Buy grey market ferrets"), commands.example("Our ferret shop", violates=False)]
    edited = personalize.block(
        History(name="u"), "Ferret trade", below=below, by=By(author="ann"), examples=examples
    ).policy
    assert guard.check_text("buy  GREY mark3t fеrrets", edited).decision == "block"
    for other in ("Buy grey market parrots", "Our ferret shop", ""):
        verdict = guard.check_text(other, edited)
        assert verdict.categories["custom.ferret_trade"].score is None
        assert verdict.decision == "review"
    spam = personalize.block(
        History(name="u"), "spam", below=below, by=By(author="ann"), examples=[commands.example(FINE)]
    )
    assert guard.check_text(FINE, spam.policy).decision == "block", "whoever owns the rule decides, not the classifier"
    assert guard.check_text(FINE, below).decision == "allow"
    both = [commands.example(FINE), commands.example(FINE, violates=False)]
    torn = personalize.block(History(name="u"), "spam", below=below, by=By(author="ann"), examples=both)
    assert guard.check_text(FINE, torn.policy).decision == "allow", "an example of both is proof of neither"


def test_a_batch_gives_what_its_texts_give_alone(guard: Guard) -> None:
    def core(verdicts):
        return [(v.decision, v.sha256, v.categories) for v in verdicts]

    texts = [SPAM, FINE, UNREAD, ""]
    assert core(guard.check_texts(texts, "spam")) == core([guard.check_text(t, "spam") for t in texts])
    assert guard.check_texts([], "spam") == []


def test_the_wrong_type_and_the_wrong_policy_are_the_callers_faults(guard: Guard) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        guard.check_text(b"bytes", "spam")  # type: ignore[arg-type]
    with pytest.raises(PolicyNotFound, match="spam"):
        guard.check_text(FINE, "spamm")


@given(st.text(max_size=200))
def test_any_text_gets_a_verdict(text: str) -> None:
    verdict = _screener_only().check([text], load_policy("spam"))[0]
    assert verdict.decision in {"allow", "review", "block", "undecided"}
    json.dumps(to_dict(verdict), allow_nan=False).encode()


_CACHE: list[TextGuard] = []


def _screener_only() -> TextGuard:
    if not _CACHE:
        from fast_path.text import classifier, screen

        _CACHE.append(TextGuard(TextStages(screener=screen.build(classifier.Config()))))
    return _CACHE[0]


def test_threads_share_one_classifier(guard: Guard) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: guard.check_text(text, "spam").decision, [SPAM, FINE] * 20))
    assert found == ["block", "allow"] * 20


def test_a_text_far_too_long_is_not_allowed_on_its_beginning(guard: Guard) -> None:
    verdict = guard.check_text("a lovely day at the park. " * 4000, "spam")
    assert verdict.decision == "undecided"
    assert verdict.error is not None
    assert verdict.error.code == "too_long"


class Scripted:
    """A judge that answers as told: fault injection only."""

    name = "scripted"

    def __init__(self, answer):
        self.answer, self.asked, self.closed = answer, [], False

    async def judge(self, cases):
        self.asked += cases
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer == "hangs":
            await asyncio.sleep(60)
        return [self.answer] * len(cases)

    async def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("answer", "decision", "code"),
    [
        (judgement({"spam": "no"}), "allow", None),
        (judgement({"spam": "yes"}), "block", None),
        (judgement({"spam": "unsure"}), "review", None),
        (judgement({}, status="generation_error", error_code="vlm_unavailable"), "review", "vlm_unavailable"),
        (RuntimeError("broken"), "review", "vlm_unavailable"),
        ("hangs", "review", "vlm_unavailable"),
    ],
)
def test_the_slow_path_settles_what_the_screen_left_open_and_fails_closed(answer, decision, code) -> None:
    judge = Scripted(answer)
    stages = replace(_screener_only().stages, judge=judge, judge_deadline_seconds=0.2)
    texts = TextGuard(stages)
    verdict = texts.check([UNREAD], load_policy("spam"))[0]
    texts.close()
    assert verdict.decision == decision
    assert (verdict.error.code if verdict.error else None) == code
    assert verdict.degraded == (code is not None)
    assert judge.closed
    assert len(judge.asked) == 1


def test_a_settled_text_costs_no_question() -> None:
    judge = Scripted(judgement({"spam": "no"}))
    texts = TextGuard(replace(_screener_only().stages, judge=judge))
    assert [v.decision for v in texts.check([SPAM, FINE], load_policy("spam"))] == ["block", "allow"]
    texts.close()
    assert judge.asked == []


def test_a_text_that_breaks_the_choice_of_examples_costs_itself_only() -> None:
    def fragile(text, policy):
        if text == UNREAD:
            raise RuntimeError("no examples")
        return policy

    judge = Scripted(judgement({"spam": "no"}))
    texts = TextGuard(replace(_screener_only().stages, judge=judge, demonstrate=fragile))
    found = texts.check([SPAM, UNREAD, UNREAD + "!"], load_policy("spam"))
    texts.close()
    assert [v.decision for v in found] == ["block", "review", "allow"]
    assert found[1].error is not None
    assert found[1].error.code == "vlm_unavailable"


def test_a_text_that_breaks_the_screen_costs_itself_only() -> None:
    real = _screener_only().stages.screener

    class Fragile:
        def evidence(self, texts, policy, *, source="text"):
            if "boom" in texts:
                raise RuntimeError("boom")
            return real.evidence(texts, policy, source=source)

    found = TextGuard(TextStages(screener=Fragile())).check([SPAM, "boom", FINE], load_policy("spam"))
    assert [v.decision for v in found] == ["block", "undecided", "allow"]
    assert found[1].error is not None
    assert found[1].error.code == "detector_failed"
