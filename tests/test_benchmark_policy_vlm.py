"""The benchmark of policy edits: a judge that sees all gets all of it right, one that answers nothing none of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from guard.interfaces import Case
from guard.types import Judgement, Rule, RuleCheck
from slow_path import rendered

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import policy_vlm


def violated(clip: rendered.Clip, rule: Rule) -> bool:
    """The truth, from what the judge is told of the rule."""
    name = rule.category.removeprefix("custom.")
    if name in rendered.COLOURS:
        exempt = {line.split(": ")[-1].removesuffix(" is shown") for line in rule.allowed}
        return any(e.colour == name and f"{e.colour}_{e.shape}" not in exempt for e in clip.events)
    return bool(rendered.evidence(clip, rule.category))


def sees_all(cases: Sequence[Case]) -> list[Judgement]:
    found = []
    for case in cases:
        clip = rendered.draw_clip(int(case.video.sha256, 16))
        labels = {rule.category: violated(clip, rule) for rule in case.policy.told()}
        checks = tuple(RuleCheck(rule=r, violated="yes" if v else "no") for r, v in labels.items())
        bad = tuple(rule for rule, v in labels.items() if v)
        found.append(Judgement(status="ok", engine="oracle", checks=checks, categories=bad))
    return found


def says_safe(cases: Sequence[Case]) -> list[Judgement]:
    return [
        Judgement(
            status="ok",
            engine="safe",
            checks=tuple(RuleCheck(rule=r.category, violated="no") for r in case.policy.active()),
        )
        for case in cases
    ]


def says_nothing(cases: Sequence[Case]) -> list[Judgement]:
    return [Judgement(status="generation_error", engine="none", error_code="vlm_unavailable") for _ in cases]


def values(found: dict, key: str = "right_after") -> dict[str, float]:
    return {kind: row[key]["value"] for kind, row in found["matrix"].items()}


def test_a_judge_that_sees_all_follows_every_edit() -> None:
    found = policy_vlm.measured(sees_all, 8, worded=True)
    assert set(values(found, "right_both").values()) == {1.0}
    assert found["exceptions"]["policy_exception_recall"]["value"] == 1.0
    assert found["exceptions"]["others_stay_unsafe"]["value"] == 1.0
    assert found["consistency"]["rules_permuted"]["value"] == 1.0
    assert found["consistency"]["rules_rephrased"]["value"] == 1.0


def test_a_judge_that_always_says_safe_gets_what_the_report_says_it_gets() -> None:
    found = policy_vlm.measured(says_safe, 6, worded=False)
    assert values(found) == found["always_safe"]
    assert found["exceptions"]["others_stay_unsafe"]["value"] == 0.0
    assert found["consistency"]["rules_rephrased"] is None, "no words were sent, so none were varied"


def test_no_answer_is_wrong_everywhere_and_counted() -> None:
    found = policy_vlm.measured(says_nothing, 4, worded=True)
    # With nothing left to ask there is nothing to get wrong; here a second rule always stays.
    assert set(values(found).values()) == {0.0}
    assert all(row["no_answer"] == 8 for row in found["matrix"].values())
    assert found["consistency"]["rules_permuted"]["value"] == 0.0


def test_the_four_cases_are_what_they_are_called() -> None:
    for kind, expected in {
        "stays unsafe": (True, True),
        "stays safe": (False, False),
        "newly allowed": (True, False),
        "newly blocked": (False, True),
    }.items():
        for pair in policy_vlm.pairs(kind, 10):
            truth = [any(violated(pair.clip, r) for r in p.told()) for p in (pair.before, pair.after)]
            assert tuple(truth) == expected == (pair.unsafe_before, pair.unsafe_after)
            assert pair.before.rules != pair.after.rules


def test_an_endpoint_or_weights_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        policy_vlm.main([])
    assert "give --endpoint URL" in capsys.readouterr().err
