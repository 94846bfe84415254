"""An example is known again, for the rule that it belongs to and for no other."""

import numpy as np
from builders import coverage, policy, scores

from fast_path.router import Config, build
from guard.known import known_rules, settled
from guard.types import Exemplar, Finding, Rule

ONE, TWO = "1" * 64, "2" * 64


def rule(category, *examples, state="block"):
    made = tuple(Exemplar(rule=category, violates=v, sha256=sha, source="x") for sha, v in examples)
    return Rule(category=category, state=state, exemplars=made)


def test_only_active_rules_that_were_shown_the_content_and_nothing_against_it_know_it():
    given = policy(
        rule("violence", (ONE, True)),
        rule("illegal.fire", (ONE, True), state="off"),
        rule("custom.disputed", (ONE, True), (ONE, False)),
        rule("custom.fine", (ONE, False)),
        rule("custom.other", (TWO, True)),
    )
    assert known_rules(ONE, given) == ("violence",)
    assert known_rules("3" * 64, given) == ()


def test_what_is_known_is_certain_and_other_scores_stay_as_they_are():
    before = scores({"violence": 0.01, "illegal.fire": 0.3})
    assert settled([before], ()) == (before,)
    (rest, known) = settled([before], ("violence",))
    assert (known.of("violence"), known.detector) == (1.0, "known_example")
    assert rest.categories == ("illegal.fire",)
    assert rest.of("illegal.fire") == before.of("illegal.fire")
    assert np.array_equal(rest.per_moment, before.per_moment[:, 1:])
    given = policy(rule("violence", (ONE, True)), rule("illegal.fire"))
    findings = {f.category: f.finding for f in build(Config()).route((rest, known), given, coverage()).findings}
    assert findings == {"violence": Finding.VIOLATION, "illegal.fire": Finding.UNCERTAIN}
