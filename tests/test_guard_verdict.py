"""The decision rules, one by one and then by property: nothing unjudged is ever allowed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders import coverage, judgement, policy, scores, video
from hypothesis import given
from hypothesis import strategies as st

from fast_path import router
from guard.errors import VlmUnusable, error_for_code
from guard.slow_outcome import slow_error
from guard.types import Coverage, ErrorInfo, Float32Array, Judgement, Policy, Rule, Scores, Thresholds, Verdict
from guard.verdict import TIMELINE_MOMENTS, Evidence, decide, failed, timeline_of
from slow_path.failures import FailureCode

FIGHT = "violence.fighting"
FIRE = "illegal.fire"
BLOCK_FIGHT = policy(Rule(category=FIGHT, state="block"))
ROUTER = router.build(router.Config())


def evidence(
    fight: float | None = 0.02,
    *,
    rules: Policy = BLOCK_FIGHT,
    scored: Sequence[Scores] | None = None,
    seen: Coverage | None = None,
    answer: Judgement | None = None,
    **changes: object,
) -> Evidence:
    """One screened video, routed by the real router."""
    found = scored if scored is not None else ([] if fight is None else [scores({FIGHT: fight})])
    cover = seen or coverage()
    way = ROUTER.route(found, rules, cover)
    base = Evidence(video=video(), policy=rules, scores=found, route=way, coverage=cover, judgement=answer)
    return replace(base, **changes)


def test_clear_scores_are_allowed_with_the_highest_named() -> None:
    verdict = decide(evidence(0.02))
    assert verdict.decision == "allow"
    assert "Fighting 0.02" in verdict.rationale
    assert verdict.error is None


def test_a_sure_violation_blocks_or_asks_a_person_as_the_rule_says() -> None:
    assert decide(evidence(0.97)).decision == "block"
    flagging = policy(Rule(category=FIGHT, state="flag"))
    verdict = decide(evidence(0.97, rules=flagging))
    assert verdict.decision == "review"
    assert verdict.categories[FIGHT].flagged


def test_uncertain_without_slow_path_is_review_and_says_so() -> None:
    verdict = decide(evidence(0.5))
    assert verdict.decision == "review"
    assert "slow_path_unavailable" in verdict.rationale
    assert not verdict.categories[FIGHT].flagged


def test_a_rule_nobody_scored_is_review_never_allow() -> None:
    verdict = decide(evidence(None))
    assert verdict.decision == "review"
    assert verdict.categories[FIGHT].score is None
    assert "no configured stage can judge" in verdict.rationale


def test_silence_of_a_narrow_detector_does_not_clear_a_broad_rule() -> None:
    broad = policy(Rule(category="violence", state="block"))
    assert decide(evidence(0.01, rules=broad)).decision == "review"
    assert decide(evidence(0.99, rules=broad)).decision == "block"


def test_slow_path_clears_and_raises_uncertain_scores() -> None:
    assert decide(evidence(0.5, answer=judgement({FIGHT: "no"}))).decision == "allow"
    assert decide(evidence(0.5, answer=judgement({FIGHT: "yes"}))).decision == "block"
    assert decide(evidence(0.5, answer=judgement({FIGHT: "unsure"}))).decision == "review"


def test_slow_path_without_confidence_settles_nothing() -> None:
    assert decide(evidence(0.5, answer=judgement({FIGHT: "no"}, confidence=0.6))).decision == "review"


def test_one_pass_cannot_clear_a_high_score_and_two_can() -> None:
    once = judgement({FIGHT: "no"})
    assert decide(evidence(0.95, answer=once)).decision == "block"
    assert decide(evidence(0.95, answer=replace(once, passes=2))).decision == "allow"


@pytest.mark.parametrize("status", ["partial", "parse_error", "generation_error", "video_error"])
def test_an_unusable_answer_never_clears(status: str) -> None:
    answer = judgement({FIGHT: "no"}, status=status, error_code=status)
    down = ErrorInfo(code=status, message="no usable answer")
    verdict = decide(evidence(0.5, answer=answer, slow_error=down))
    assert verdict.decision == "review"
    assert verdict.degraded
    assert verdict.error == down


def test_a_broken_off_decode_is_undecided_unless_a_violation_was_seen() -> None:
    broken = coverage(complete=False, problem="truncated", decoded_seconds=3.0)
    verdict = decide(evidence(0.02, seen=broken))
    assert verdict.decision == "undecided"
    assert verdict.error is not None
    assert verdict.error.code == "truncated"
    assert decide(evidence(0.97, seen=broken)).decision == "block"
    down = ErrorInfo(code="vlm_unavailable", message="down")
    verdict = decide(evidence(0.02, seen=broken, slow_error=down))
    assert (verdict.decision, verdict.error and verdict.error.code) == ("undecided", "truncated")


def test_the_slow_path_cannot_clear_what_neither_stage_saw() -> None:
    verdict = decide(evidence(0.02, seen=coverage(largest_gap_seconds=60.0), answer=judgement({FIGHT: "no"})))
    assert verdict.decision == "review"
    assert verdict.rationale


def test_a_slow_path_that_failed_never_ends_as_allow() -> None:
    down = ErrorInfo(code="vlm_unavailable", message="down")
    assert decide(evidence(0.02, slow_error=down)).decision == "review"


def test_a_failed_detector_is_undecided_even_where_the_rest_is_clear() -> None:
    broken = ErrorInfo(code="detector_failed", message="boom")
    assert decide(evidence(0.02, errors=(broken,))).decision == "undecided"


THREE = policy(
    Rule(category="sexual", state="block"),
    Rule(category=FIRE, state="flag"),
    Rule(category=FIGHT, state="block"),
)


def test_the_violated_rule_comes_first_and_the_unjudged_ones_share_a_sentence() -> None:
    found = decide(evidence(rules=THREE, scored=[scores({FIRE: 0.95, FIGHT: 0.97})])).rationale
    assert found.startswith("Fighting: score 0.97 at 0.0 s is at or above 0.90. Fire and arson: score 0.95")
    assert found.endswith("Not judged, since the decision stands without: Sexual content."), found
    open_ = decide(evidence(rules=THREE, scored=[scores({FIRE: 0.3, FIGHT: 0.4})])).rationale
    assert "Not judged, since no configured stage can judge: Sexual content." in open_
    assert open_.index("Fighting: score 0.40") < open_.index("Fire and arson: score 0.30") < open_.index("Sexual")


def test_open_rules_with_low_scores_share_a_sentence_and_none_is_left_out() -> None:
    broad = policy(Rule(category="violence", state="block"), Rule(category="illegal", state="block"))
    found = decide(evidence(rules=broad, scored=[scores({FIRE: 0.04, FIGHT: 0.01})])).rationale
    assert found.startswith("Scored low, which alone does not clear it here: Illegal and regulated activities 0.04, ")
    assert found.count("Scored low") == 1
    unseen = decide(evidence(0.02, seen=coverage(largest_gap_seconds=60.0))).rationale
    assert unseen.startswith("Scored low, but too little of the video was seen: Fighting 0.02.")
    blocked = decide(evidence(rules=broad, scored=[scores({FIRE: 0.95, FIGHT: 0.4})])).rationale
    assert "since the decision stands without: Threats, violence and harm." in blocked
    assert "0.40" not in blocked


def test_what_the_slow_path_did_is_said_as_it_happened() -> None:
    none = decide(evidence(rules=THREE, scored=[scores({FIRE: 0.01, FIGHT: 0.02})]))
    assert (none.slow_path, none.decision) == ("not_configured", "review")
    assert "no configured stage can judge: Sexual" in none.rationale
    assert "slow_path_unavailable" in none.rationale
    gone = slow_error(judgement({}, status="generation_error", error_code="vlm_unavailable"))
    case = evidence(rules=THREE, scored=[scores({FIRE: 0.01, FIGHT: 0.02})], slow_error=gone)
    down = decide(case)
    assert (down.slow_path, down.degraded) == ("failed", True)
    assert "only the slow path could and it failed: Sexual" in down.rationale
    assert "could not be reached, or its server failed. (vlm_unavailable)" in down.rationale
    assert "no configured stage" not in down.rationale
    assert "slow_path_unavailable" not in down.rationale
    unsure = decide(replace(case, slow_error=None, judgement=judgement({"sexual": "unsure"})))
    assert (unsure.slow_path, unsure.decision) == ("answered", "review")
    assert "which was not sure of: Sexual" in unsure.rationale
    assert decide(evidence(0.02)).slow_path == "not_needed"


@pytest.mark.parametrize("code", [None, *FailureCode])
def test_every_failure_of_the_slow_path_has_words_of_its_own_kind(code: FailureCode | None) -> None:
    status = "parse_error" if code is None else "generation_error"
    error = slow_error(judgement({}, status=status, error_code=code and code.value))
    assert error is not None
    assert error.code == (code.value if code else "parse_error")
    reached = error_for_code(error.code) is VlmUnusable and error.code != "vlm_no_frames"
    assert ("answered" in error.message or "answer" in error.message) == (reached or error.code == "vlm_timeout")
    assert error.hint


def test_policy_without_active_rules_says_so() -> None:
    verdict = decide(evidence(0.99, rules=policy(Rule(category=FIGHT, state="off"))))
    assert verdict.decision == "allow"
    assert "no active rule" in verdict.rationale


def test_thresholds_of_the_rule_win() -> None:
    own = policy(Rule(category=FIGHT, state="block", thresholds=Thresholds(clear_below=0.3, block_at=0.6)))
    assert decide(evidence(0.25, rules=own)).decision == "allow"
    assert decide(evidence(0.65, rules=own)).decision == "block"


def test_an_unblocked_child_does_not_violate_its_parent() -> None:
    """A boxing channel unblocks fighting: a sure fight is then no violation of the rule on violence."""
    rules = policy(Rule(category="violence", state="block"), Rule(category=FIGHT, state="off"))
    verdict = decide(evidence(0.99, rules=rules))
    assert verdict.decision == "review"
    assert verdict.categories["violence"].score is None


def test_a_violation_always_has_a_segment() -> None:
    """The video score may be above every moment's score, as with a soft maximum; the peak is still shown."""
    high = scores({FIGHT: 0.95}, per_moment=np.array([[0.1], [0.6], [0.2], [0.1], [0.1]], np.float32))
    verdict = decide(evidence(scored=[high]))
    assert [s.peak_seconds for s in verdict.segments] == [2.0]


def test_undecided_without_error_cannot_be_made() -> None:
    good = decide(evidence())
    with pytest.raises(ValueError, match="error must be set on an undecided verdict"):
        replace(good, decision="undecided")


def test_failed_keeps_hash_policy_and_code() -> None:
    verdict = failed(source="x", sha256=None, policy=BLOCK_FIGHT, error=ErrorInfo(code="too_large", message="9 > 8"))
    assert (verdict.decision, verdict.policy.name) == ("undecided", "test")
    assert "9 > 8" in verdict.rationale


def test_timeline_keeps_every_peak_when_thinned() -> None:
    rng = np.random.default_rng(3)
    line = (rng.random((5000, 1)) * 0.5).astype(np.float32)
    line[4321] = 0.99
    long = scores({FIGHT: 0.99}, moment_seconds=np.arange(5000, dtype=np.float64), per_moment=line)
    found = timeline_of([long])
    assert found is not None
    assert len(found.moment_seconds) == TIMELINE_MOMENTS
    assert max(found.scores[FIGHT]) == pytest.approx(0.99, abs=1e-4)
    assert list(found.moment_seconds) == sorted(found.moment_seconds)


def test_a_timeline_shows_the_higher_of_two_detectors_and_no_peak_is_lost() -> None:
    many = scores(
        {FIGHT: 0.2}, detector="a", moment_seconds=np.array([0.0, 1.0, 9.0]), per_moment=column(0.1, 0.2, 0.1)
    )
    few = scores({FIGHT: 0.9}, detector="b", moment_seconds=np.array([2.0, 4.0]), per_moment=column(0.05, 0.9))
    for order in ([many, few], [few, many]):
        found = timeline_of(order)
        assert found is not None
        assert found.scores[FIGHT] == (0.1, 0.9, 0.9), "the peak at 4 s is nearest to none of the three"


@given(st.data())
def test_a_timeline_never_hides_a_peak(data: st.DataObject) -> None:
    made = []
    for name in "ab":
        times = np.array(sorted(data.draw(st.sets(st.integers(0, 99), min_size=1, max_size=9))), np.float64)
        line = column(*(data.draw(st.floats(0, 1, width=32)) for _ in times))
        made.append(scores({FIGHT: 0.5}, detector=name, moment_seconds=times, per_moment=line))
    found = timeline_of(made)
    assert found is not None
    assert max(found.scores[FIGHT]) == pytest.approx(max(float(s.per_moment.max()) for s in made), abs=1e-4)


def column(*values: float) -> Float32Array:
    return np.array(values, np.float32)[:, None]


probability = st.floats(0, 1, width=32)
answers = st.sampled_from(["yes", "no", "unsure"])


@st.composite
def situations(draw: st.DrawFn) -> Evidence:
    states = st.sampled_from(["off", "flag", "block"])
    rules = policy(Rule(category=FIGHT, state=draw(states)), Rule(category=FIRE, state=draw(states)))
    covered = draw(st.sets(st.sampled_from([FIGHT, FIRE])))
    answer = None
    if draw(st.booleans()):
        checked = draw(st.dictionaries(st.sampled_from([FIGHT, FIRE]), answers))
        answer = judgement(checked, confidence=draw(st.floats(0, 1)), passes=draw(st.integers(1, 3)))
    return evidence(
        rules=rules,
        scored=[scores({c: draw(probability)}) for c in sorted(covered)],
        seen=coverage(complete=draw(st.booleans()), largest_gap_seconds=draw(st.sampled_from([1.0, 60.0]))),
        answer=answer,
    )


def cleared(case: Evidence, rule: Rule) -> bool:
    """The slow oracle of "judged and found clear": a low score of its own category, or a sure no of the slow path."""
    values = [s.of(rule.category) for s in case.scores if s.of(rule.category) is not None]
    seen = case.coverage.largest_gap_seconds <= 10
    low = seen and bool(values) and max(v for v in values if v is not None) < 0.1
    checks = case.judgement.checks if case.judgement else ()
    sure_no = any(
        c.rule == rule.category and c.violated == "no" and (c.confidence is None or c.confidence >= 0.7) for c in checks
    )
    return low or (seen and sure_no)


@given(situations())
def test_allow_means_every_active_rule_was_cleared_over_a_complete_video(case: Evidence) -> None:
    verdict: Verdict = decide(case)
    if verdict.decision == "allow":
        assert all(cleared(case, rule) for rule in case.policy.active())
        assert case.coverage.complete
        assert not any(c.flagged for c in verdict.categories.values())


@given(situations(), probability)
def test_a_higher_score_never_softens_the_decision(case: Evidence, lower: float) -> None:
    order = {"allow": 0, "review": 1, "undecided": 1, "block": 2}
    if not case.scores:
        return
    original = case.scores[0]
    reduced = replace(original, probability=np.minimum(original.probability, np.float32(lower)))
    softer = decide(
        evidence(rules=case.policy, scored=[reduced, *case.scores[1:]], seen=case.coverage, answer=case.judgement)
    )
    assert order[softer.decision] <= order[decide(case).decision]


@given(situations())
def test_every_rule_that_is_not_clear_is_named(case: Evidence) -> None:
    verdict = decide(case)
    for category, found in verdict.categories.items():
        if found.flagged or (found.stage == "none" and verdict.decision != "allow"):
            name = {FIGHT: "Fighting", FIRE: "Fire and arson"}[category]
            assert name in verdict.rationale, (category, verdict.rationale)


@pytest.mark.parametrize(
    ("problem", "word"),
    [("truncated", "encrypted"), ("undecodable", "encrypted"), ("too_many_streams", "each picture")],
)
def test_the_hint_of_an_incomplete_decode_fits_its_problem(problem: str, word: str) -> None:
    error = decide(evidence(0.02, seen=coverage(complete=False, problem=problem))).error
    assert error is not None
    assert word in (error.hint or "")
