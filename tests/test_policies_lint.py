"""Lint and diff: rules that nobody can judge, contradictions, and which way two policies differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.types import Exemplar, Rule, Thresholds
from policies import personalize
from policies.canonical import make_policy
from policies.diff import diff
from policies.edits import History
from policies.lint import Configured, judges, lint, unjudgeable
from policies.load import library, load_policy

EMBEDDED = ("violence.fighting", "illegal.fire", "accidents.road", "flashing.general", "flashing.red")


def policy(*rules):
    return make_policy(name="test", version="1", rules={rule.category: rule for rule in rules})


def rule(category="custom.x", **changes):
    return Rule(**({"category": category, "state": "block", "name": "X", "definition": "What it is."} | changes))


def codes(found):
    return [(f.level, f.code, f.category) for f in found]


def test_the_screen_policy_needs_nothing_but_the_embedded_classifier():
    assert lint(load_policy("screen"), Configured(covered=EMBEDDED)) == ()


def test_without_a_slow_path_every_root_of_the_default_policy_is_named():
    default = load_policy("default")
    found = lint(default, Configured(covered=EMBEDDED))
    assert {f.category for f in found if f.code == "unjudgeable"} == set(default.rules)
    violence = next(f for f in found if f.category == "violence")
    assert "violence.fighting" in violence.message  # a part is seen
    assert "--slow" in violence.message
    assert lint(default, Configured(covered=EMBEDDED, slow=True)) == ()


def test_a_blocked_new_category_is_unjudgeable_until_some_stage_is_there():
    example = Exemplar(rule="", violates=True, source="crash.mp4", sha256="0" * 64)
    by = personalize.By(author="ann")
    made = personalize.block(History(name="ann"), "parkour", below=load_policy("screen"), by=by, examples=[example])
    for configured, judged in [
        (Configured(covered=EMBEDDED), False),
        (Configured(covered=EMBEDDED, few_shot=True), True),
        (Configured(covered=EMBEDDED, open_vocabulary=True), True),
        (Configured(covered=EMBEDDED, slow=True), True),
    ]:
        assert (unjudgeable(made.policy, configured) == ()) is judged


def test_a_few_shot_stage_needs_an_example_that_violates():
    few_shot = Configured(few_shot=True)
    assert judges(rule(), few_shot) == ()
    for violates, shown, found in [(False, {"source": "a.mp4"}, ()), (True, {"text": "a"}, ())]:
        given = rule(exemplars=(Exemplar(rule="custom.x", violates=violates, **shown),))
        assert judges(given, few_shot) == found
    clip = rule(exemplars=(Exemplar(rule="custom.x", violates=True, source="a.mp4"),))
    assert judges(clip, few_shot) == ("few-shot",)
    assert judges(clip, Configured(few_shot=True, by_examples=("custom.y",))) == (), "its clip could not be embedded"
    (found,) = lint(policy(rule()), few_shot)
    assert "--example" in found.message


def test_a_rule_that_only_texts_are_judged_for_is_told_apart():
    text_only = Configured(covered=("violence.fighting",), covered_in_text=("spam",))
    (found,) = lint(load_policy("spam"), text_only)
    assert (found.level, found.code, found.category) == ("warning", "text_only", "spam")
    (found,) = lint(load_policy("spam"), Configured(covered=("violence.fighting",)))
    assert (found.level, found.code) == ("error", "unjudgeable")


def test_flashing_is_judged_by_its_two_parts_together():
    flashing = rule("flashing", definition="")
    assert judges(flashing, Configured(covered=("flashing.general",))) == ()
    assert judges(flashing, Configured(covered=("flashing.general", "flashing.red"))) == ("fast",)


def test_a_rule_that_is_off_needs_no_judge():
    found = lint(policy(rule("violence"), rule("violence.fighting", state="off")), Configured(slow=True))
    assert codes(found) == [("note", "exempted", "violence.fighting")]


def test_a_policy_without_active_rules_is_an_error():
    assert codes(lint(policy(rule(state="off")))) == [("error", "no_active_rules", "")]


@pytest.mark.parametrize(
    ("bad", "code", "level"),
    [
        (rule(definition=""), "no_definition", "warning"),
        (rule("violence", definition=""), "no_definition", "note"),
        (rule(extends="illegal.fire"), "extends_nothing", "warning"),
        (rule(blocked=("A hug.",), allowed=("a hug.",)), "contradiction", "error"),
        (rule(thresholds=Thresholds(clear_below=0.1, block_at=1.0)), "never_blocks", "warning"),
        (rule(thresholds=Thresholds(clear_below=0.6, block_at=0.9)), "clears_likely_violations", "warning"),
        (
            rule(exemplars=tuple(Exemplar(rule="custom.x", violates=v, text="same") for v in (True, False))),
            "contradicting_examples",
            "error",
        ),
    ],
)
def test_what_is_valid_but_wrong_is_named(bad, code, level):
    assert codes(lint(policy(bad))) == [(level, code, bad.category)]


def lines(before, after):
    return [str(difference) for difference in diff(before, after)]


def test_diff_says_which_way():
    before = policy(rule("violence", blocked=("a",), thresholds=Thresholds(clear_below=0.1, block_at=0.9)))
    after = policy(
        rule("violence", state="flag", blocked=("a", "b"), thresholds=Thresholds(clear_below=0.1, block_at=0.8)),
    )
    said = "\n".join(lines(before, after))
    assert "violence state: block -> flag (looser)" in said
    assert "violence blocked: ['a'] -> ['a', 'b'] (stricter)" in said
    assert "(stricter)" in said.split("violence thresholds")[1]
    assert lines(after, before)[0] == "violence state: flag -> block (stricter)"


def test_diff_of_an_exemption_and_of_a_rule_that_went():
    whole, part = policy(rule("violence")), policy(rule("violence"), rule("violence.fighting", state="off"))
    assert "violence.fighting state: block -> off (looser)" in lines(whole, part)
    redundant = policy(rule("violence"), rule("violence.fighting"))
    assert not any("state" in line for line in lines(whole, redundant))
    assert "violence.fighting rule: under violence -> its own" in lines(whole, redundant)


rules = st.builds(
    rule,
    category=st.sampled_from(["violence", "violence.fighting", "custom.x"]),
    state=st.sampled_from(["off", "flag", "block"]),
    definition=st.sampled_from(["", "a", "b"]),
    blocked=st.sampled_from([(), ("a",), ("a", "b"), ("b", "a")]),
    locked=st.booleans(),
    exemplars=st.permutations([Exemplar(rule="custom.x", violates=True, text=t) for t in "ab"]).map(tuple),
)
small = st.lists(rules, max_size=3, unique_by=lambda r: r.category).map(lambda found: policy(*found))


@given(small, small)
def test_policies_differ_exactly_where_their_hashes_do(a, b):
    assert (diff(a, b) == ()) == (a.hash == b.hash)


def test_every_policy_of_the_library_can_be_compared_with_every_other():
    for one in library():
        for other in library():
            assert (diff(load_policy(one), load_policy(other)) == ()) == (one == other)


def test_errors_come_first():
    found = lint(policy(rule("violence", definition=""), rule(blocked=("a",), allowed=("a",))))
    assert [f.level for f in found] == ["error", "note"]


def test_a_part_that_is_exempt_is_not_said_to_be_seen():
    found = lint(policy(rule("violence"), rule("violence.fighting", state="off")), Configured(covered=EMBEDDED))
    assert "see a part" not in next(f.message for f in found if f.code == "unjudgeable")


def test_examples_are_no_judge_of_a_rule_that_says_more_than_they_show():
    example = Exemplar(rule="violence", violates=True, source="a.mp4", sha256="0" * 64)
    broad = rule("violence", definition="Any harm.", blocked=("Shootings.",), exemplars=(example,))
    (found,) = [f for f in lint(policy(broad), Configured(few_shot=True)) if f.code == "unjudgeable"]
    assert "Its examples show a part of it; their silence does not clear the rest." in found.message
    assert judges(broad, Configured(few_shot=True, slow=True)) == ("slow",)
