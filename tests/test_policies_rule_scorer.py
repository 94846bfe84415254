"""Examples of a policy's rules, scored, and taken by the router: from one command to a route, without training."""

import dataclasses

import numpy as np
import pytest
from builders import coverage, scores

from fast_path.router import Config as RouterConfig
from fast_path.router import build as build_router
from guard.types import Exemplar, Finding, RouteReason, Rule, Thresholds
from policies import commands, few_shot
from policies.commands import Target
from policies.exemplar_store import ExemplarStore
from policies.personalize import By
from policies.rule_scorer import _held, fit_rules, may_clear

WIDTH, MOMENTS, ENCODER = 32, 8, "encoder-1"
SECONDS = np.arange(MOMENTS, dtype=np.float64)
BY = By(author="ann")


def moments(rng, shift=0.0, count=MOMENTS):
    """A video: the look of the clip, and what moves from one moment to the next. The first axis carries the rule."""
    made = rng.normal(size=WIDTH) + 0.5 * rng.normal(size=(count, WIDTH))
    made[:, 0] += shift
    return made.astype(np.float32)


def clips(rng, count, shift=0.0):
    return np.stack([few_shot.pool(moments(rng, shift)) for _ in range(count)])


@pytest.fixture(scope="module")
def background():
    return few_shot.fit_background(clips(np.random.default_rng(0), 300))


@pytest.fixture
def setup(tmp_path):
    """A layer that blocks crashes by eight examples, with their embeddings stored."""
    target = Target(below="screen", store=tmp_path / "policies.sqlite3")
    examples = [Exemplar(rule="", violates=True, sha256=f"{i:064x}", source=f"{i}.mp4") for i in range(8)]
    commands.unblock("accidents.road", target, BY)
    outcome = commands.block("Crash on a track", target, BY, examples=examples)
    store = ExemplarStore(target.store)
    for exemplar, vector in zip(examples, clips(np.random.default_rng(1), 8, 9.0), strict=True):
        store.save_embedding(exemplar, ENCODER, vector)
    return outcome.policy, store


def scorer(setup, background, **changes):
    policy, store = setup
    demonstrations = store.demonstrations(policy, ENCODER)
    return fit_rules(policy, demonstrations, background, **({"encoder": ENCODER} | changes))


def route(policy, found):
    screen = scores({"violence.fighting": 0.01, "illegal.fire": 0.01}, moments=0)
    given = [screen, found] if found is not None else [screen]
    return build_router(RouterConfig()).route(given, policy, coverage())


def test_a_rule_with_examples_is_judged_and_one_without_is_not(setup, background):
    policy, _ = setup
    fitted = scorer(setup, background)
    assert tuple(fitted.models) == ("custom.crash_on_a_track",)
    assert route(policy, None).reason is RouteReason.UNCOVERED_RULE
    looks_like = fitted.score(moments(np.random.default_rng(2), 9.0), SECONDS)
    assert looks_like.of("custom.crash_on_a_track") > 0.9
    assert route(policy, looks_like).reason is RouteReason.CONFIDENT_VIOLATION
    opposite = fitted.score(moments(np.random.default_rng(2), -6.0), SECONDS)
    assert route(policy, opposite).reason is RouteReason.CONFIDENT_CLEAR
    doubtful = fitted.score(moments(np.random.default_rng(4), 3.0), SECONDS)
    assert route(policy, doubtful).path == "slow"


def test_other_rules_get_the_findings_they_had(setup, background):
    policy, _ = setup
    fitted = scorer(setup, background)
    without = dataclasses.replace(policy, rules={c: r for c, r in policy.rules.items() if not c.startswith("custom.")})
    rng = np.random.default_rng(4)
    for video in (moments(rng, 3.0) for _ in range(10)):
        before = {f.category: f for f in route(without, None).findings}
        after = {f.category: f for f in route(policy, fitted.score(video, SECONDS)).findings}
        assert all(after[category] == finding for category, finding in before.items())


def test_embeddings_of_another_encoder_are_left_out(setup, background):
    empty = scorer(setup, background, encoder="another")
    assert empty.models == {}
    found = empty.score(moments(np.random.default_rng(5)), SECONDS)
    assert found.categories == ()
    assert route(setup[0], found).reason is RouteReason.UNCOVERED_RULE


def test_a_category_with_a_trained_detector_is_left_to_it(setup, background):
    assert scorer(setup, background, covered=("custom.crash_on_a_track",)).models == {}


def test_the_same_clip_given_twice_counts_once(setup, background):
    policy, store = setup
    demonstrations = store.demonstrations(policy, ENCODER)
    once = fit_rules(policy, demonstrations, background, encoder=ENCODER)
    twice = fit_rules(policy, demonstrations * 2, background, encoder=ENCODER)
    assert twice.models["custom.crash_on_a_track"].examples == 8
    video = moments(np.random.default_rng(6), 3.0)
    assert np.array_equal(once.score(video, SECONDS).probability, twice.score(video, SECONDS).probability)


def test_trouble_in_a_long_video_is_found_and_placed(setup, background):
    fitted = scorer(setup, background)
    rng = np.random.default_rng(7)
    long = moments(rng, -4.0, count=120)
    long[48:56, 0] += 13.0  # one window of fifteen
    found = fitted.score(long, np.arange(120, dtype=np.float64) * 2)
    (column,) = found.per_moment.T
    assert set(np.flatnonzero(column == column.max())) == set(range(48, 56))
    assert np.delete(column, range(48, 56)).max() < 0.2
    assert found.of("custom.crash_on_a_track") >= 0.5
    without = fitted.score(moments(rng, -4.0, count=120), np.arange(120, dtype=np.float64) * 2)
    assert without.of("custom.crash_on_a_track") < 0.1
    assert found.per_moment.shape == (120, 1)


def test_a_score_crosses_a_threshold_only_where_its_whole_interval_does(setup, background):
    policy, store = setup
    few = tuple(d for d in store.demonstrations(policy, ENCODER) if d.exemplar.rule.startswith("custom."))[:1]
    fitted = fit_rules(policy, few, background, encoder=ENCODER)
    (model,) = fitted.models.values()
    rng = np.random.default_rng(8)
    for shift in np.linspace(-6, 14, 41):
        video = moments(rng, shift)
        held = fitted.score(video, SECONDS).of("custom.crash_on_a_track")
        (whole, _) = model.score_windows(few_shot.pool_windows(video))
        assert (held < 0.1) == (whole.high[0] < 0.1)
        assert (held >= 0.9) == (whole.low[0] >= 0.9)
        assert held == pytest.approx(float(np.clip(whole.probability[0], 0.1, 0.9)), abs=1e-3) or held < 0.1


def test_a_rule_without_a_band_between_its_thresholds_is_decided_by_the_probability():
    one = np.array([0.6], np.float32)
    scored = few_shot.Scored(probability=one, low=one - 0.3, high=one + 0.2, deviations=one)
    for clear, block, expected in [
        (0.5, 0.5, 0.6),
        (0.7, 0.7, 0.6),
        (0.1, 0.9, 0.6),
        (0.65, 0.9, 0.65),
        (0.0, 1.0, 0.6),
    ]:
        held = _held(scored, Thresholds(clear_below=clear, block_at=block))[0]
        assert held == pytest.approx(expected, abs=1e-6)
    certain = few_shot.Scored(probability=one, low=one, high=one, deviations=one)
    assert _held(certain, Thresholds(clear_below=0.0, block_at=0.0))[0] >= 0.0


def test_the_fingerprint_tells_examples_backgrounds_and_settings_apart(setup, background):
    policy, store = setup
    demonstrations = store.demonstrations(policy, ENCODER)
    other = few_shot.fit_background(clips(np.random.default_rng(9), 300))
    found = {
        scorer(setup, background).fingerprint,
        scorer(setup, other).fingerprint,
        scorer(setup, background, config=few_shot.Config(base_rate=0.3)).fingerprint,
        fit_rules(policy, demonstrations[1:], background, encoder=ENCODER).fingerprint,
    }
    assert len(found) == 4
    assert scorer(setup, background).fingerprint in found


def rule(**words):
    return Rule(category="custom.x", state="block", **words)


@pytest.mark.parametrize(
    ("words", "alone", "beside_a_slow_path"),
    [
        ({}, True, True),
        ({"definition": "Casinos, betting or slot machines."}, True, False),
        ({"definition": "x", "blocked": ("Betting.",)}, False, False),
        ({"subcategories": {"custom.x.y": "Slot machines."}}, False, False),
        ({"locked": True}, False, False),
    ],
)
def test_silence_of_examples_clears_only_what_they_are_all_of(words, alone, beside_a_slow_path):
    assert may_clear(rule(**words), slow=False) is alone
    assert may_clear(rule(**words), slow=True) is beside_a_slow_path


def test_examples_added_to_a_broad_rule_raise_it_and_never_loosen_it(background, tmp_path):
    """Clips of one kind of violence must not wave the other kinds past the slow path."""
    target = Target(below="default", store=tmp_path / "policies.sqlite3")
    examples = [Exemplar(rule="", violates=True, sha256=f"{i:064x}", source=f"{i}.mp4") for i in range(8)]
    policy = commands.add_examples("violence", examples, target, BY).policy
    store = ExemplarStore(target.store)
    for exemplar, vector in zip(examples, clips(np.random.default_rng(1), 8, 9.0), strict=True):
        store.save_embedding(exemplar, ENCODER, vector)
    fitted = fit_rules(policy, store.demonstrations(policy, ENCODER), background, encoder=ENCODER)
    unlike = fitted.score(moments(np.random.default_rng(2), -6.0), SECONDS)
    (whole, _) = fitted.models["violence"].score_windows(few_shot.pool_windows(moments(np.random.default_rng(2), -6.0)))
    assert whole.high[0] < 0.1, "the examples alone would clear it"
    assert unlike.of("violence") >= np.float32(0.1)
    assert (unlike.per_moment >= np.float32(0.1)).all()
    findings = {f.category: f.finding for f in route(policy, unlike).findings}
    assert findings["violence"] is Finding.UNCERTAIN
    assert fitted.score(moments(np.random.default_rng(2), 9.0), SECONDS).of("violence") > 0.9
