from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InfeasibleTarget
from guard.types import Judgement, RuleCheck
from slow_path.calibration import Answered, answered, fit, upper_bound


def draw(rng: np.random.Generator, count: int) -> list[Answered]:
    """Labels that are right as often as they say."""
    said = rng.uniform(0.5, 1.0, size=count)
    return [Answered(confidence=float(p), right=bool(rng.random() < p)) for p in said]


@given(st.integers(1, 400), st.integers(0, 400), st.floats(0.01, 0.5))
def test_the_bound_is_the_rate_at_which_so_few_errors_have_chance_delta(total: int, errors: int, delta: float) -> None:
    errors = min(errors, total)
    bound = upper_bound(errors, total, delta)
    assert errors / total <= bound <= 1
    if errors == 0:
        assert bound == pytest.approx(1 - delta ** (1 / total), abs=1e-9)


def test_the_promise_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    broken = found = 0
    for _ in range(150):
        try:
            floor = fit(draw(rng, 600), alpha=0.1, delta=0.1).floor
        except InfeasibleTarget:
            continue
        found += 1
        # Confidence is uniform between 0.5 and 1, so labels above the floor are right with chance (floor + 1) / 2.
        broken += (1 - floor) / 2 > 0.1
    assert found > 100
    assert broken / found <= 0.1 + 0.05


def test_more_labels_allow_a_lower_floor() -> None:
    rng = np.random.default_rng(1)
    labels = draw(rng, 6000)
    assert fit(labels, alpha=0.1).floor <= fit(labels[:600], alpha=0.1).floor


def test_a_model_that_is_often_wrong_has_no_floor() -> None:
    wrong = [Answered(confidence=0.995, right=i % 2 == 0) for i in range(200)]
    with pytest.raises(InfeasibleTarget, match="strictest floor has the bound"):
        fit(wrong)
    with pytest.raises(InfeasibleTarget, match="3 labels are too few"):
        fit([Answered(confidence=1.0, right=True)] * 3)


def test_only_labels_that_could_settle_a_rule_count() -> None:
    checks = (
        RuleCheck(rule="a", violated="yes", confidence=0.9),
        RuleCheck(rule="b", violated="yes", confidence=0.8),
        RuleCheck(rule="c", violated="unsure", confidence=0.9),
        RuleCheck(rule="d", violated="no"),
    )
    made = Judgement(status="ok", engine="e", checks=checks)
    failed = Judgement(status="parse_error", engine="e", checks=checks, error_code="vlm_invalid_json")
    found = answered([(made, frozenset({"a"})), (failed, frozenset())])
    assert found == [Answered(confidence=0.9, right=True), Answered(confidence=0.8, right=False)]
