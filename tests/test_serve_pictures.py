"""Which frames of a clip are kept for a person, and of what none is."""

from __future__ import annotations

import pytest
from review_cases import FIGHT, verdict

from guard.types import CategoryScore, Judgement, RuleCheck
from serve.pictures import moments

MINORS = "sexual.minors"


def test_the_peak_of_what_stands_out_is_kept() -> None:
    assert moments(verdict({FIGHT: 0.62})) == [(4.0, FIGHT)]


@pytest.mark.parametrize(("score", "kept"), [(0.05, True), (0.3, False), (0.95, False)])
def test_no_frame_is_kept_of_what_may_show_minors_though_nothing_is_flagged(score: float, kept: bool) -> None:
    # 0.3 lies between the bounds 0.1 and 0.9: not flagged, no segment, and yet why a person is asked
    found = verdict({FIGHT: 0.62, MINORS: score})
    only = tuple(segment for segment in found.segments if segment.category == FIGHT)
    unmarked = verdict({FIGHT: 0.62, MINORS: score}, segments=only)
    assert bool(moments(unmarked)) is kept


@pytest.mark.parametrize(("violated", "kept"), [("no", True), ("unsure", False), ("yes", False)])
def test_no_frame_is_kept_where_the_slow_path_is_not_sure_about_minors(violated: str, kept: bool) -> None:
    check = RuleCheck(rule=MINORS, violated=violated, why="It may be a child.")  # type: ignore[arg-type]
    judgement = Judgement(status="ok", engine="test-vlm", checks=(check,), confidence=0.5, reason="It may be.")
    assert bool(moments(verdict({FIGHT: 0.62}, judgement=judgement))) is kept


def test_a_score_without_bounds_of_its_own_is_open_from_a_tenth() -> None:
    found = verdict({FIGHT: 0.62})
    open_one = CategoryScore(score=0.2, flagged=False, threshold=None, stage="slow")
    assert moments(verdict({FIGHT: 0.62}, categories={**found.categories, MINORS: open_one})) == []
