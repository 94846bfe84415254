"""Words that a policy adds to a category: the shipped weights never saw them, so their silence clears nothing."""

import pytest
from builders import coverage, policy, scores

from fast_path.router import Config, build
from guard.api import Guard
from guard.config import load_settings
from guard.types import Finding, Rule, Thresholds
from policies import personalize
from policies.edits import History
from policies.lint import Configured, lint
from policies.load import library, load_policy, parse_policy
from policies.personalize import By
from policies.wording import added, widened
from serve.policy_judging import configured

FIGHTING = load_policy("screen").rules["violence.fighting"]
PLAY = "Pillow fights."
REWORDED = policy(Rule(category="violence.fighting", state="block", definition=FIGHTING.definition, blocked=(PLAY,)))


@pytest.mark.parametrize("name", library())
def test_the_library_says_what_the_library_says(name):
    assert widened(load_policy(name)) == frozenset()


def test_what_covers_more_is_named_and_what_does_not_is_left_out():
    assert added(REWORDED.rules["violence.fighting"]) == (PLAY,)
    milder = Rule(category="violence.fighting", state="block", name="Brawls", allowed=("Boxing.",))
    assert added(milder) == ()
    assert added(Rule(category="violence.fighting", state="block", definition=f" {FIGHTING.definition}\n")) == ()


@pytest.mark.parametrize(
    ("detector", "score", "finding"),
    [("tiny", 0.0, Finding.UNCOVERED), ("tiny", 0.99, Finding.VIOLATION), ("probe", 0.0, Finding.CLEAR)],
)
def test_shipped_weights_raise_a_reworded_rule_and_do_not_clear_it(detector, score, finding):
    router = build(Config(widened=widened))
    route = router.route([scores({"violence.fighting": score}, detector=detector)], REWORDED, coverage())
    assert [one.finding for one in route.findings] == [finding]
    assert route.path == ("slow" if finding is Finding.UNCOVERED else "fast")


def test_words_on_screen_clear_nothing_however_lenient_the_thresholds():
    lenient = Thresholds(clear_below=0.5, block_at=0.9)
    given = policy(Rule(category="extremism.hate", state="block", thresholds=lenient))
    route = build(Config()).route([scores({"extremism.hate": 0.1}, detector="screen_text")], given, coverage())
    assert [one.finding for one in route.findings] == [Finding.UNCOVERED]


def test_a_harmless_text_is_cleared_of_spam_and_not_of_what_a_policy_adds_to_it():
    history = History(name="ann")
    spam = load_policy("spam")
    wider = personalize.block(history, "spam", definition="Any link to a shop.", below=spam, by=By(author="ann")).policy
    with Guard.load(policy=spam) as guard:
        text = "see you at dinner tonight, mum is cooking"
        assert guard.check_text(text, spam).decision == "allow"
        verdict = guard.check_text(text, wider)
    assert verdict.decision == "review"
    assert "does not clear it here" in verdict.rationale


def test_lint_says_so():
    found = {f.code: f for f in lint(REWORDED, Configured(covered=("violence.fighting",)))}
    assert found["widened"].level == "warning"
    assert PLAY in found["widened"].message
    assert "extend" in found["widened"].message
    assert found["unjudgeable"].level == "error"
    with_slow = {f.code for f in lint(REWORDED, Configured(covered=("violence.fighting",), slow=True))}
    assert "widened" in with_slow
    assert "unjudgeable" not in with_slow
    own = Configured(covered=("violence.fighting",), covered_by_own=("violence.fighting",))
    assert {f.code for f in lint(REWORDED, own)} == set()
    text = parse_policy("name: t\nversion: 1\nrules: {toxicity: {state: block, definition: Rude to a cat.}}")
    assert "text_only" not in {f.code for f in lint(text, Configured(covered_in_text=("toxicity",)))}


def test_what_an_installation_covers_is_parted_by_whose_words_it_was_taught():
    found = configured(load_settings(detectors=("tiny", "flash")))
    assert "violence.fighting" in found.covered
    assert "violence.fighting" not in found.covered_by_own
    assert set(found.covered_by_own) == {"flashing.general", "flashing.red"}
