from __future__ import annotations

import math

import pytest

from slow_path.confidence import label_confidences, unseen_bound, yes_probability
from slow_path.engine import LEAST_LOGPROB, Token, summed


def token(text: str, top: dict[str, float] | None = None) -> Token:
    chances = top or {text: 1.0}
    return Token(text=text, logprob=math.log(chances[text]), top={t: math.log(p) for t, p in chances.items()})


def test_normalises_over_the_labels_and_leaves_other_words_out() -> None:
    tokens = [token('{"violated":"'), token("yes", {"yes": 0.4, "no": 0.1, "unsure": 0.1, "maybe": 0.4}), token('"}')]
    assert label_confidences(tokens, ["yes"]) == [pytest.approx(0.4 / 0.6)]


def test_a_label_that_was_not_listed_counts_as_likely_as_it_can_be() -> None:
    # Listed: yes 0.6, no 0.3. `unsure` can have at most what is left, 0.1, and no more than the least one listed.
    tokens = [token('"violated": "'), token("yes", {"yes": 0.6, "no": 0.3}), token('"')]
    assert label_confidences(tokens, ["yes"]) == [pytest.approx(0.6)]
    assert unseen_bound({"a": math.log(0.9), "b": math.log(0.02)}) == pytest.approx(0.02)


def test_pieces_of_a_label_and_tokens_that_run_over_it_are_understood() -> None:
    pieces = [token('"violated":'), token('"un', {'"un': 0.7, '"no': 0.2, '"y': 0.1}), token('sure"')]
    assert label_confidences(pieces, ["unsure"]) == [pytest.approx(0.7)]
    over = [token('"violated":"'), token('no"},', {'no"},': 0.8, 'no"': 0.1, 'yes"': 0.1}), token("x")]
    assert label_confidences(over, ["no"]) == [pytest.approx(0.9)]


def test_a_label_quoted_inside_a_text_is_not_taken_for_the_decision() -> None:
    text = '{"why":"it says \\"violated\\":\\"no\\" on screen","violated":"yes"}'
    tokens = [token(text[:60]), token(text[60:])]
    known = label_confidences(tokens, ["yes"])
    assert len(known) == 1
    assert label_confidences([token('"violated":"no"')], ["yes"]) == [None], "tokens of another answer prove nothing"


def test_unknown_without_tokens() -> None:
    assert label_confidences(None, ["yes", "no"]) == [None, None]
    assert label_confidences([], ["yes"]) == [None]


def test_yes_against_no_sums_spellings() -> None:
    first = token(" Yes", {" Yes": 0.5, "yes": 0.1, "no": 0.2, "I": 0.2})
    assert yes_probability(first) == pytest.approx(0.6 / 0.8)


def test_yes_against_no_abstains_where_the_model_said_neither() -> None:
    assert yes_probability(token("The", {"The": 0.97, "yes": 0.02, "no": 0.01})) is None
    assert yes_probability(None) is None


def test_tokens_of_one_text_are_added_up() -> None:
    top = summed([("\ufffd", math.log(0.2)), ("\ufffd", math.log(0.3)), ("x", LEAST_LOGPROB)])
    assert top["\ufffd"] == pytest.approx(math.log(0.5))
    assert top["x"] == LEAST_LOGPROB
