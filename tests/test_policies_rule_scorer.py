"""Examples of a policy's rules, scored, and taken by the router: from one command to a route, without training."""

import dataclasses

import numpy as np
import pytest
from builders import coverage, scores

from fast_path.router import Config as RouterConfig
from fast_path.router import build as build_router
from guard.types import Exemplar, RouteReason
from policies import commands, few_shot
from policies.commands import Target
from policies.exemplar_store import ExemplarStore
from policies.personalize import By
from policies.rule_scorer import fit_rules

WIDTH, ENCODER = 16, "encoder-1"
BY = By(author="ann")


def clips(rng, count, shift=0.0):
    made = rng.normal(size=(count, WIDTH)).astype(np.float32)
    made[:, 0] += shift
    return made


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
    for exemplar, vector in zip(examples, clips(np.random.default_rng(1), 8, 6.0), strict=True):
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
    looks_like = fitted.score(clips(np.random.default_rng(2), 1, 9.0)[0])
    assert looks_like.of("custom.crash_on_a_track") > 0.9
    assert route(policy, looks_like).reason is RouteReason.CONFIDENT_VIOLATION
    opposite = fitted.score(clips(np.random.default_rng(2), 1, -6.0)[0])
    assert route(policy, opposite).reason is RouteReason.CONFIDENT_CLEAR
    doubtful = fitted.score(clips(np.random.default_rng(3), 1, 2.0)[0])
    assert route(policy, doubtful).path == "slow"


def test_other_rules_get_the_findings_they_had(setup, background):
    policy, _ = setup
    fitted = scorer(setup, background)
    without = dataclasses.replace(policy, rules={c: r for c, r in policy.rules.items() if not c.startswith("custom.")})
    for vector in clips(np.random.default_rng(4), 10, 3.0):
        before = {f.category: f for f in route(without, None).findings}
        after = {f.category: f for f in route(policy, fitted.score(vector)).findings}
        assert all(after[category] == finding for category, finding in before.items())


def test_embeddings_of_another_encoder_are_left_out(setup, background):
    empty = scorer(setup, background, encoder="another")
    assert empty.models == {}
    found = empty.score(clips(np.random.default_rng(5), 1)[0])
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
    video = clips(np.random.default_rng(6), 1, 3.0)[0]
    assert np.array_equal(once.score(video).probability, twice.score(video).probability)


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
