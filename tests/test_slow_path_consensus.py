from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.types import Judgement, RuleCheck, Violated
from slow_path.answer import failed
from slow_path.consensus import below_floor_unsure, merge
from slow_path.failures import FailureCode


def judged(labels: Sequence[Violated], confidence: float | None = 0.9, **changes: object) -> Judgement:
    checks = tuple(
        RuleCheck(rule=f"r{i}", violated=label, evidence_seconds=(float(i),), why=label, confidence=confidence)
        for i, label in enumerate(labels)
    )
    violated = tuple(c.rule for c in checks if c.violated == "yes")
    return Judgement(
        status="ok", engine="e", checks=checks, categories=violated, severity=2 if violated else 0, reason="r",
        prompt_tokens=10, completion_tokens=5, **changes,  # type: ignore[arg-type]
    )  # fmt: skip


labels = st.lists(st.sampled_from(["yes", "no", "unsure"]), min_size=2, max_size=2)


def test_agreeing_passes_are_counted() -> None:
    merged = merge([judged(["no", "yes"]), judged(["no", "yes"]), judged(["yes", "yes"])])
    assert [c.violated for c in merged.checks] == ["no", "yes"]
    assert merged.passes == 2, "the least agreement over the rules"
    assert merged.categories == ("r1",)
    assert merged.prompt_tokens == 30


def test_a_tie_is_unsure() -> None:
    merged = merge([judged(["no"]), judged(["yes"])])
    assert merged.checks[0].violated == "unsure"
    assert merged.categories == ()
    assert merged.severity == 0
    assert merged.reason == "Several looks at the video did not agree."


def test_confidence_is_lowered_by_dissent() -> None:
    merged = merge([judged(["yes"], 0.9), judged(["yes"], 0.8), judged(["no"], 0.7)])
    assert merged.checks[0].confidence == pytest.approx((0.9 + 0.8 + 0.3) / 3)
    abstained = merge([judged(["yes"], 0.9), judged(["yes"], 0.8), judged(["unsure"], 0.9)])
    assert abstained.checks[0].confidence == pytest.approx(0.85)
    assert merge([judged(["yes"], None), judged(["yes"], 0.8)]).confidence is None


def test_failed_passes_have_no_vote_but_cost() -> None:
    broken = failed(FailureCode.TRUNCATED, engine="e")
    merged = merge([broken, judged(["no"]), broken])
    assert merged.status == "ok"
    assert merged.passes == 1, "one pass alone clears nothing that the screen found"
    assert merge([broken]).error_code == "vlm_truncated"


def test_a_label_below_the_floor_settles_nothing() -> None:
    weak = below_floor_unsure(judged(["yes", "no"], 0.6), 0.7)
    assert [c.violated for c in weak.checks] == ["unsure", "unsure"]
    assert (weak.categories, weak.severity) == ((), 0)
    assert below_floor_unsure(judged(["yes"], 0.8), 0.7).categories == ("r0",)
    assert below_floor_unsure(judged(["yes"], None), 0.7).categories == ("r0",)


def test_the_span_holds_those_of_all_passes_that_found_the_violation() -> None:
    found = [judged(["yes"], span_seconds=(2.0, 3.0)), judged(["yes"], span_seconds=(1.5, 2.5)), judged(["no"])]
    assert merge(found).span_seconds == (1.5, 3.0)
    assert merge([found[0], judged(["no"]), judged(["no"])]).span_seconds is None
    assert below_floor_unsure(judged(["yes"], 0.6, span_seconds=(2.0, 3.0)), 0.7).span_seconds is None


def test_nothing_to_merge_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        merge([])


@given(st.lists(labels, min_size=1, max_size=5))
def test_a_settled_label_has_a_strict_majority(votes: list[list[Violated]]) -> None:
    merged = merge([judged(vote) for vote in votes])
    for i, check in enumerate(merged.checks):
        share = sum(vote[i] == check.violated for vote in votes) / len(votes)
        assert check.violated == "unsure" or share > 0.5
        assert check.violated == "unsure" or merged.passes <= share * len(votes)


@given(st.lists(labels, min_size=1, max_size=5), st.randoms())
def test_the_order_of_the_passes_changes_no_label(votes: list[list[Violated]], random: object) -> None:
    shuffled = list(votes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = merge([judged(v) for v in votes]), merge([judged(v) for v in shuffled])
    assert [c.violated for c in first.checks] == [c.violated for c in second.checks]
    assert first.passes == second.passes
