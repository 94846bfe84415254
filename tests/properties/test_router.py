"""Promises of the router that hold for every input."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fast_path.router import Config, build
from guard.taxonomy import covers
from guard.types import DEFAULT_THRESHOLDS, Coverage, Policy, RouteReason, Rule, Scores, Thresholds

CATEGORIES = ("violence", "violence.fighting", "violence.fighting.boxing", "illegal", "illegal.fire", "flashing.red")
SEEN = Coverage(
    frames_scored=8, frames_decoded=8, largest_gap_seconds=1.0, full_decode=True, decoded_seconds=8.0,
    declared_seconds=8.0, complete=True, sampler="bursts", seed=0,
)  # fmt: skip
UNSEEN = Coverage(
    frames_scored=8, frames_decoded=8, largest_gap_seconds=99.0, full_decode=False, decoded_seconds=8.0,
    declared_seconds=100.0, complete=False, sampler="bursts", seed=0, problem="truncated",
)  # fmt: skip
probability = st.floats(0.0, 1.0, width=32)
pairs = st.tuples(probability, probability).map(lambda p: Thresholds(clear_below=min(p), block_at=max(p)))


def as_scores(name, table):
    return Scores(
        categories=tuple(table),
        probability=np.array(list(table.values()), np.float32),
        moment_seconds=np.zeros(0),
        per_moment=np.zeros((0, len(table)), np.float32),
        detector=name,
        fingerprint="f",
    )


tables = st.dictionaries(st.sampled_from(CATEGORIES), probability, max_size=4)
detectors = st.lists(tables, max_size=3).map(lambda found: [as_scores(f"d{i}", t) for i, t in enumerate(found)])


@st.composite
def policies(draw):
    states = draw(st.dictionaries(st.sampled_from(CATEGORIES), st.sampled_from(["off", "flag", "block"]), max_size=4))
    own = {category: draw(st.none() | pairs) for category in states}
    rules = {c: Rule(category=c, state=state, thresholds=own[c]) for c, state in states.items()}
    return Policy(name="p", version="1", hash="h", rules=rules)


ROUTER = build(Config())


@given(detectors, policies(), st.randoms())
def test_order_of_detectors_and_rules_does_not_matter(found, policy, random):
    first = ROUTER.route(found, policy, SEEN)
    shuffled, items = list(found), list(policy.rules.items())
    random.shuffle(shuffled)
    random.shuffle(items)
    second = ROUTER.route(shuffled, Policy(name="p", version="1", hash="h", rules=dict(items)), SEEN)
    assert (first.path, first.reason, first.confidence) == (second.path, second.reason, second.confidence)
    assert set(first.uncertain) == set(second.uncertain)
    assert dict(first.thresholds) == dict(second.thresholds)


@given(detectors, policies())
def test_confidence_and_path_agree(found, policy):
    answer = ROUTER.route(found, policy, SEEN)
    assert 0.0 <= answer.confidence <= 1.0
    assert (answer.confidence >= 0.5) if answer.path == "fast" else (answer.confidence <= 0.5)
    assert set(answer.thresholds) == {rule.category for rule in policy.active()}


@given(detectors, policies())
def test_a_rule_that_nobody_scored_is_never_cleared(found, policy):
    scored = {category for result in found for category in result.categories}
    answer = ROUTER.route(found, policy, SEEN)
    for rule in policy.active():
        if not any(covers(rule.category, category) for category in scored):
            assert rule.category in answer.uncertain
            assert answer.reason is not RouteReason.CONFIDENT_CLEAR


@given(detectors, policies())
def test_a_clear_route_means_every_exact_score_is_below_its_threshold(found, policy):
    answer = ROUTER.route(found, policy, SEEN)
    if answer.reason is RouteReason.CONFIDENT_CLEAR:
        for rule in policy.active():
            limit = (rule.thresholds or DEFAULT_THRESHOLDS).clear_below
            exact = [p for result in found if (p := result.of(rule.category)) is not None]
            assert exact
            assert max(exact) < limit


@given(detectors, policies())
def test_an_unseen_video_is_never_clear(found, policy):
    answer = ROUTER.route(found, policy, UNSEEN)
    assert answer.reason is not RouteReason.CONFIDENT_CLEAR


@given(st.sampled_from(["flag", "block"]), pairs, probability, probability)
def test_one_rule_is_monotone_in_its_score(state, limits, one, other):
    """Raising a score never turns a violation into less, and lowering it never turns a clear rule into more."""
    low, high = min(one, other), max(one, other)
    policy = Policy(
        name="p", version="1", hash="h", rules={"violence": Rule(category="violence", state=state, thresholds=limits)}
    )
    order = [RouteReason.CONFIDENT_CLEAR, RouteReason.UNCERTAIN, RouteReason.CONFIDENT_VIOLATION]
    first = ROUTER.route([as_scores("d", {"violence": low})], policy, SEEN)
    second = ROUTER.route([as_scores("d", {"violence": high})], policy, SEEN)
    assert order.index(first.reason) <= order.index(second.reason)
    if first.reason is second.reason is RouteReason.CONFIDENT_CLEAR:
        assert first.confidence >= second.confidence
    if first.reason is second.reason is RouteReason.CONFIDENT_VIOLATION:
        assert first.confidence <= second.confidence


@given(detectors, policies(), st.sampled_from(CATEGORIES))
def test_one_more_active_rule_never_makes_a_slow_video_clear(found, policy, extra):
    before = ROUTER.route(found, policy, SEEN)
    if extra in policy.rules or before.path == "fast":
        return
    more = {**policy.rules, extra: Rule(category=extra, state="block")}
    after = ROUTER.route(found, Policy(name="p", version="1", hash="h", rules=more), SEEN)
    assert after.reason is not RouteReason.NO_ACTIVE_RULES
    if after.reason is RouteReason.CONFIDENT_CLEAR:  # only by answering for a score that held the broad rule open
        assert any(covers(rule.category, extra) for rule in policy.active())


@given(detectors, policies())
def test_a_sure_blocking_violation_is_settled_whatever_else_is_asked(found, policy):
    sure = as_scores("sure", {"spam": 1.0})
    rules = {**policy.rules, "spam": Rule(category="spam", state="block")}
    answer = ROUTER.route([*found, sure], Policy(name="p", version="1", hash="h", rules=rules), SEEN)
    assert (answer.path, answer.reason) == ("fast", RouteReason.CONFIDENT_VIOLATION)
