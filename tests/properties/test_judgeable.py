"""Lint and router must agree on what nobody can judge: a rule that lint passes in silence must not go unjudged."""

from builders import coverage, policy, scores
from hypothesis import given
from hypothesis import strategies as st

from fast_path.router import Config, build
from guard.types import Exemplar, Finding, Rule
from policies.lint import Configured, lint, unjudgeable
from policies.wording import widened

CATEGORIES = (
    "violence", "violence.fighting", "violence.weapon", "illegal.fire", "illegal.fire.smoke",
    "flashing", "flashing.general", "flashing.red", "custom.parkour",
)  # fmt: skip

rules = st.dictionaries(st.sampled_from(CATEGORIES), st.sampled_from(["off", "flag", "block"]), min_size=1)
covered = st.lists(st.sampled_from(CATEGORIES), unique=True, max_size=6)


@given(rules, covered, covered, st.sets(st.sampled_from(CATEGORIES)))
def test_lint_names_exactly_the_rules_that_silence_of_every_detector_leaves_open(states, columns, own, reworded):
    given_policy = policy(
        *(Rule(category=c, state=s, definition="x" if c in reworded else "") for c, s in states.items())
    )
    silent = [scores(dict.fromkeys(columns, 0.0), detector="tiny"), scores(dict.fromkeys(own, 0.0), detector="probe")]
    silent.append(scores(dict.fromkeys(CATEGORIES, 0.0), detector="screen_text"))
    route = build(Config(widened=widened)).route(silent, given_policy, coverage())
    uncovered = {f.category for f in route.findings if f.finding is Finding.UNCOVERED}
    configured = Configured(covered=(*columns, *own), covered_by_own=tuple(own))
    assert set(unjudgeable(given_policy, configured)) == uncovered


@given(rules, covered, st.booleans(), st.booleans(), st.sets(st.sampled_from(CATEGORIES)))
def test_every_stage_that_is_added_can_only_take_rules_off_the_list(states, columns, slow, few_shot, shown):
    example = Exemplar(rule="", violates=True, source="a.mp4", sha256="0" * 64)
    given_policy = policy(
        *(Rule(category=c, state=s, exemplars=(example,) if c in shown else ()) for c, s in states.items())
    )
    less = set(unjudgeable(given_policy, Configured(covered=tuple(columns))))
    more = set(unjudgeable(given_policy, Configured(covered=tuple(columns), few_shot=few_shot, slow=slow)))
    assert more <= less
    assert less - more == (less if slow else less & shown if few_shot else set())
    errors = {f.category for f in lint(given_policy, Configured(covered=tuple(columns))) if f.code == "unjudgeable"}
    assert errors == less
