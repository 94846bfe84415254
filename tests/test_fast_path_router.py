"""Routing: which columns speak for which rule, and what the router makes of them."""

import numpy as np
import pytest

from fast_path.evidence import certainty
from fast_path.router import Config, build
from guard.errors import InvalidConfig
from guard.types import Coverage, Policy, Route, RouteReason, Rule, Scores, Thresholds


def scores(detector="tiny", moments=None, calibration=None, **probability):
    names = tuple(name.replace("__", ".") for name in probability)
    per_moment = np.array(moments if moments is not None else np.zeros((0, len(names))), np.float32)
    return Scores(
        categories=names,
        probability=np.array(list(probability.values()), np.float32),
        moment_seconds=np.arange(len(per_moment), dtype=np.float64),
        per_moment=per_moment.reshape(len(per_moment), len(names)),
        detector=detector,
        fingerprint="f",
        calibration=calibration,
    )


def policy(thresholds=None, **states):
    rules = {}
    for key, state in states.items():
        name = key.replace("__", ".")
        rules[name] = Rule(category=name, state=state, thresholds=(thresholds or {}).get(name))
    return Policy(name="p", version="1", hash="h", rules=rules)


def coverage(gap=1.0, complete=True, frames=8):
    return Coverage(
        frames_scored=frames, frames_decoded=frames, largest_gap_seconds=gap, full_decode=True, decoded_seconds=8.0,
        declared_seconds=8.0, complete=complete, sampler="bursts", seed=0,
    )  # fmt: skip


def route(given, rules, seen=None, **settings) -> Route:
    return build(Config(**settings)).route(given, rules, seen or coverage())


CLEAR, VIOLATION = RouteReason.CONFIDENT_CLEAR, RouteReason.CONFIDENT_VIOLATION
UNCERTAIN, UNCOVERED = RouteReason.UNCERTAIN, RouteReason.UNCOVERED_RULE


@pytest.mark.parametrize(
    ("probability", "path", "reason"),
    [
        (0.0, "fast", CLEAR),
        (0.0999, "fast", CLEAR),
        (0.1, "slow", UNCERTAIN),  # clear_below is exclusive
        (0.5, "slow", UNCERTAIN),
        (0.8999, "slow", UNCERTAIN),
        (0.9001, "fast", VIOLATION),
        (1.0, "fast", VIOLATION),
    ],
)
def test_default_thresholds_split_scores_in_three(probability, path, reason):
    found = route([scores(violence=probability)], policy(violence="block"))
    assert (found.path, found.reason) == (path, reason)
    assert found.uncertain == (("violence",) if path == "slow" else ())
    assert found.thresholds["violence"] == Thresholds(clear_below=0.1, block_at=0.9)


def test_nothing_active_is_settled():
    found = route([], policy(violence="off"))
    assert (found.path, found.reason, found.confidence) == ("fast", RouteReason.NO_ACTIVE_RULES, 1.0)


def test_rule_thresholds_come_before_calibrated_before_default():
    calibrated = {"violence": Thresholds(clear_below=0.3, block_at=0.6)}
    own = {"violence": Thresholds(clear_below=0.05, block_at=0.99)}
    given = [scores(calibration="c", violence=0.2, sexual=0.2)]
    assert route(given, policy(violence="block"), thresholds=calibrated).reason is CLEAR
    assert route(given, policy(own, violence="block"), thresholds=calibrated).reason is UNCERTAIN
    assert route(given, policy(sexual="block"), thresholds=calibrated).reason is UNCERTAIN


def test_thresholds_fitted_to_one_detector_do_not_judge_raw_scores_of_another():
    fitted = {"illegal.fire": Thresholds(clear_below=0.2, block_at=0.28)}
    own = scores(calibration="c", illegal__fire=0.05)
    both = [own, scores("words", illegal__fire=0.4)]
    assert route(both, policy(illegal__fire="block"), thresholds=fitted).reason is UNCERTAIN  # and not a block at 0.28
    alone = [scores("words", illegal__fire=0.15)]
    assert route(alone, policy(illegal__fire="block"), thresholds=fitted).reason is UNCERTAIN  # and not clear below 0.2
    assert route([own], policy(illegal__fire="block"), thresholds=fitted).reason is CLEAR


def test_a_low_specific_score_does_not_clear_the_broad_rule():
    found = route([scores(violence__fighting=0.0)], policy(violence="block"))
    assert (found.path, found.reason, found.confidence) == ("slow", UNCOVERED, 0.0)


def test_a_high_specific_score_violates_the_broad_rule():
    found = route([scores(violence__fighting=0.97)], policy(violence="block"))
    assert (found.path, found.reason) == ("fast", VIOLATION)


def test_a_broad_score_says_nothing_of_a_specific_rule():
    for high in (0.0, 1.0):
        found = route([scores(illegal__fire=high)], policy(illegal__fire__smoke="block"))
        assert (found.path, found.reason) == ("slow", UNCOVERED)


def test_declared_silence_clears_and_never_violates():
    declared = {"illegal.fire.smoke": ("illegal.fire",)}
    low = route([scores(illegal__fire=0.01)], policy(illegal__fire__smoke="block"), cleared_by=declared)
    high = route([scores(illegal__fire=0.99)], policy(illegal__fire__smoke="block"), cleared_by=declared)
    assert (low.path, low.reason) == ("fast", CLEAR)
    assert (high.path, high.reason) == ("slow", UNCERTAIN)


def test_flashing_is_cleared_by_both_kinds_together():
    both = scores(flashing__general=0.0, flashing__red=0.0)
    assert route([both], policy(flashing="block")).reason is CLEAR
    assert route([scores(flashing__general=0.0)], policy(flashing="block")).reason is UNCOVERED
    one = scores(flashing__general=0.0, flashing__red=1.0)
    assert route([one], policy(flashing="block")).reason is VIOLATION


def test_the_more_specific_rule_answers_for_its_category():
    given = [scores(violence=0.02, violence__fighting=0.98)]
    off = policy(violence="block", violence__fighting="off")
    assert route(given, off).reason is CLEAR
    assert route(given, policy(violence="block")).reason is VIOLATION


def test_a_permitted_kind_may_explain_a_high_broad_score():
    boxing = policy(violence="block", violence__fighting="off")
    explained = route([scores(violence=0.98, violence__fighting=0.97)], boxing)
    assert (explained.path, explained.reason) == ("slow", UNCERTAIN)
    unknown = route([scores(violence=0.98)], boxing)
    assert (unknown.path, unknown.reason) == ("slow", UNCERTAIN)
    not_explained = route([scores(violence=0.98, violence__fighting=0.01)], boxing)
    assert (not_explained.path, not_explained.reason) == ("fast", VIOLATION)


def test_a_blocking_violation_settles_the_video_and_still_lists_the_rest():
    given = [scores(violence=0.97, sexual=0.5)]
    found = route(given, policy(violence="block", sexual="block", spam="block"))
    assert (found.path, found.reason) == ("fast", VIOLATION)
    assert found.uncertain == ("sexual", "spam")


def test_a_flag_violation_does_not_hide_an_unsettled_rule():
    given = [scores(violence=0.97, sexual=0.5)]
    assert route(given, policy(violence="flag", sexual="block")).path == "slow"
    settled = route([scores(violence=0.97, sexual=0.01)], policy(violence="flag", sexual="block"))
    assert (settled.path, settled.reason) == ("fast", VIOLATION)


@pytest.mark.parametrize("seen", [coverage(gap=10.1), coverage(complete=False), coverage(frames=0)])
def test_silence_on_an_unseen_video_is_no_silence(seen):
    found = route([scores(violence=0.0)], policy(violence="block"), seen)
    assert (found.path, found.reason, found.confidence) == ("slow", RouteReason.POOR_COVERAGE, 0.0)
    assert found.uncertain == ("violence",)
    high = route([scores(violence=0.97)], policy(violence="block"), seen)
    assert (high.path, high.reason) == ("fast", VIOLATION)


def test_detectors_that_contradict_each_other_escalate():
    pair = [scores("a", violence=0.02), scores("b", violence=0.95)]
    found = route(pair, policy(violence="block"))
    assert (found.path, found.reason, found.confidence) == ("slow", RouteReason.DISAGREEMENT, 0.0)
    near = [scores("a", violence=0.5), scores("b", violence=0.95)]
    assert route(near, policy(violence="block")).reason is VIOLATION
    elsewhere = [*pair, scores("c", violence__shooting=0.96)]
    assert route(elsewhere, policy(violence="block")).reason is VIOLATION


def test_a_single_hot_moment_in_a_clear_video_escalates():
    hot = [scores(moments=[[0.01], [0.95], [0.02]], violence=0.03)]
    found = route(hot, policy(violence="block"))
    assert (found.path, found.reason) == ("slow", RouteReason.DISAGREEMENT)
    mild = [scores(moments=[[0.01], [0.5], [0.02]], violence=0.03)]
    assert route(mild, policy(violence="block")).reason is CLEAR


def test_a_moment_that_reaches_block_at_is_never_averaged_away():
    fitted = {"violence": Thresholds(clear_below=0.1, block_at=0.6)}
    hot = [scores(calibration="c", moments=[[0.01], [0.65], [0.02]], violence=0.03)]
    found = route(hot, policy(violence="block"), thresholds=fitted)
    assert (found.path, found.reason) == ("slow", RouteReason.DISAGREEMENT)  # 0.62 above: under the plain margin of 0.8
    mild = [scores(calibration="c", moments=[[0.01], [0.55], [0.02]], violence=0.03)]
    assert route(mild, policy(violence="block"), thresholds=fitted).reason is CLEAR


def test_the_most_telling_reason_is_given():
    given = [scores(violence=0.5)]
    assert route(given, policy(violence="block", spam="flag")).reason is UNCOVERED
    poor = route(given, policy(violence="block", spam="flag"), coverage(gap=60.0))
    assert poor.reason is RouteReason.POOR_COVERAGE


@pytest.mark.parametrize(
    ("probability", "expected"), [(0.0, 1.0), (0.04, 0.8), (0.1, 0.5), (0.3, 0.25), (0.5, 0.0), (0.9, 0.5), (1.0, 1.0)]
)
def test_certainty_has_the_documented_values(probability, expected):
    assert certainty(probability, Thresholds(clear_below=0.1, block_at=0.9)) == pytest.approx(expected)


def test_never_clear_and_never_block_are_possible_thresholds():
    never = {"violence": Thresholds(clear_below=0.0, block_at=1.0 + 1e-10)}
    for value in (0.0, 0.5, 1.0):
        found = route([scores(calibration="c", violence=value)], policy(violence="block"), thresholds=never)
        assert (found.path, found.reason) == ("slow", UNCERTAIN)
        assert 0.0 <= found.confidence <= 0.5


@pytest.mark.parametrize("bad", [{"detector_margin": 0.0}, {"moment_margin": 1.5}, {"max_gap_seconds": float("nan")}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(InvalidConfig, match=next(iter(bad))):
        build(Config(**bad))
