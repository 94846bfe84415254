"""Block, unblock and extend: what each does to the effective policy, what is refused, how it is taken back."""

import pytest

from guard.errors import InvalidPolicy, RuleLocked
from guard.types import Exemplar
from policies import names, personalize
from policies.compose import Layer, compose, merge_layers
from policies.edits import History
from policies.load import load_policy, parse_policy
from policies.patch import Patch
from policies.personalize import By

BY = By(author="ann", at="2026-01-01T00:00:00+00:00", note="asked for by the community")
CRASH = Exemplar(rule="", violates=True, text="a car hits a wall", rationale="a crash", sha256="a" * 64)
DEFAULT = load_policy("default")


@pytest.fixture
def empty():
    return History(name="ann")


def block(history, name, below=DEFAULT, **extra):
    return personalize.block(history, name, below=below, by=BY, **extra)


def unblock(history, name, below=DEFAULT):
    return personalize.unblock(history, name, below=below, by=BY)


def extend(history, name, below=DEFAULT, **extra):
    return personalize.extend(history, name, below=below, by=BY, **extra)


@pytest.mark.parametrize("name", ["accidents.road", "Road accident", "road accident", "ROAD  ACCIDENT"])
def test_a_builtin_category_is_blocked_by_id_or_name_with_the_library_words(empty, name):
    outcome = block(empty, name)
    rule = outcome.policy.rules["accidents.road"]
    assert rule.state == "block"
    assert "vehicle" in rule.definition
    assert outcome.changed == ("accidents.road",)
    assert outcome.policy.hash != DEFAULT.hash


@pytest.mark.parametrize("extra", [{"definition": "Running over roofs."}, {"examples": [CRASH]}])
def test_one_definition_or_one_example_is_enough_for_a_new_category(empty, extra):
    rule = block(empty, "Roof running", **extra).policy.rules["custom.roof_running"]
    assert (rule.state, rule.name) == ("block", "Roof running")
    assert rule.definition or rule.exemplars[0].rule == "custom.roof_running"


def test_a_new_name_alone_is_refused_with_the_name_it_resembles(empty):
    with pytest.raises(InvalidPolicy, match=r"Did you mean 'violence.fighting'\?.*definition or at least one example"):
        block(empty, "figthing")
    with pytest.raises(InvalidPolicy, match=r"no category 'violence.figthing'. Did you mean 'violence.fighting'"):
        block(empty, "violence.figthing", definition="x")


def test_a_new_name_close_to_a_known_one_is_made_and_said_to_be_new(empty):
    outcome = block(empty, "Fightings", definition="Fights of birds.")
    assert outcome.changed == ("custom.fightings",)
    assert "not 'violence.fighting'" in outcome.notes[0]


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "bell \x07", "half \ud800"])
def test_a_name_that_cannot_be_kept_is_refused(empty, name):
    with pytest.raises(InvalidPolicy):
        block(empty, name, definition="x")


def test_names_of_one_slug_are_told_apart(empty):
    first = block(empty, "C", definition="x")
    second = block(first.history, "C++", definition="y")
    third = block(second.history, "С", definition="a Cyrillic letter that looks like C")
    assert len(third.history.patches()) == 3
    assert names.resolve("c++", third.policy.rules).category == second.changed[0]


def test_unblock_switches_off_one_subcategory_and_nothing_else(empty):
    outcome = unblock(empty, "fighting")
    assert outcome.policy.rules["violence.fighting"].state == "off"
    assert outcome.policy.rules["violence"] == DEFAULT.rules["violence"]
    assert outcome.composed.decided_by("violence.fighting") == "ann"


def test_unblock_of_a_root_says_which_rules_below_it_stay(empty):
    outcome = unblock(empty, "sexual")
    assert outcome.policy.rules["sexual"].state == "off"
    assert outcome.policy.rules["sexual.minors"].state == "block"
    assert "sexual.minors" in outcome.notes[0]


def test_unblock_of_a_locked_rule_names_the_lock(empty):
    with pytest.raises(RuleLocked, match=r"'sexual\.minors' is locked by 'default'") as caught:
        unblock(empty, "sexual.minors")
    assert "default" in caught.value.hint


def test_a_rule_below_a_locked_one_cannot_be_slipped_in_looser(empty):
    below = parse_policy("name: p\nversion: 1\nrules: {violence: {state: block, locked: true}}")
    with pytest.raises(InvalidPolicy, match=r"'violence' \(which covers 'violence.fighting'\) is locked by 'p'"):
        unblock(empty, "violence.fighting", below)
    with pytest.raises(InvalidPolicy, match="locked"):
        block(empty, "violence.fighting", below, state="flag")
    stricter = block(empty, "violence.fighting", below, definition="Even a slap.")
    assert stricter.policy.rules["violence.fighting"].locked
    user = History(name="user")
    with pytest.raises(InvalidPolicy, match="locked"):  # nor by way of the stricter rule
        unblock(user, "violence.fighting", stricter.composed)


def test_a_locked_rule_is_not_loosened_by_way_of_a_rule_that_it_follows():
    slip = {
        "custom.n": Patch(category="custom.n", state="off"),
        "violence.weapon": Patch(category="violence.weapon", extends="custom.n", definition="x"),
    }
    platform = parse_policy("name: p\nversion: 1\nrules: {violence: {state: block, locked: true}}")
    with pytest.raises(RuleLocked, match=r"follows 'custom\.n', to 'off'.*'violence' \(which covers"):
        compose(platform, [Layer(name="user", patches=slip)])
    locks = Layer(name="p", patches={"violence": Patch(category="violence", state="block", locked=True)})
    with pytest.raises(RuleLocked):
        merge_layers(locks, Layer(name="user", patches=slip))
    following = parse_policy(
        "name: p\nversion: 1\nrules: {violence: {state: block, locked: true}, custom.a: {state: block}, "
        "violence.weapon: {extends: custom.a}}"
    )
    milder = Layer(name="user", patches={"custom.a": Patch(category="custom.a", state="flag")})
    with pytest.raises(RuleLocked, match=r"to 'flag'"):
        compose(following, [milder])
    alike = {"violence.weapon": Patch(category="violence.weapon", extends="violence", definition="x")}
    assert compose(platform, [Layer(name="user", patches=alike)]).policy.rules["violence.weapon"].state == "block"


def test_unblock_of_something_unknown_is_refused_with_a_guess(empty):
    with pytest.raises(InvalidPolicy, match="'harassment'"):
        unblock(empty, "harasment")


def test_unblocking_what_is_off_changes_nothing(empty):
    outcome = unblock(empty, "accidents.road")
    assert (outcome.changed, outcome.history) == ((), empty)


def test_block_of_what_is_blocked_keeps_adding_examples(empty):
    first = block(empty, "parkour", definition="x")
    second = block(first.history, "parkour", examples=[CRASH])
    rule = second.policy.rules["custom.parkour"]
    assert rule.definition == "x"
    assert rule.exemplars[0].text == CRASH.text
    assert block(second.history, "parkour").changed == ()


def test_block_as_flag_and_back(empty):
    flagged = block(empty, "violence", state="flag")
    assert flagged.policy.rules["violence"].state == "flag"
    again = block(flagged.history, "violence")
    assert again.policy.hash == DEFAULT.hash
    with pytest.raises(InvalidPolicy, match="unblock"):
        block(empty, "violence", state="off")


def test_extend_fire_to_smoke_gives_smoke_a_rule_that_follows(empty):
    below = load_policy("screen")
    outcome = extend(empty, "illegal.fire", below, variants=["illegal.fire.smoke"])
    smoke = outcome.policy.rules["illegal.fire.smoke"]
    assert (smoke.state, smoke.extends) == ("block", "illegal.fire")
    assert outcome.policy.rules["illegal.fire"] == below.rules["illegal.fire"]
    off = unblock(outcome.history, "illegal.fire", below)
    assert off.policy.rules["illegal.fire.smoke"].state == "off"  # follows the rule that it widens
    assert "widens illegal.fire" in outcome.composed.why("illegal.fire.smoke")


def test_extend_by_words_keeps_the_words_as_name_and_definition(empty):
    outcome = extend(empty, "Fire and arson", load_policy("screen"), variants=["smouldering rubbish", "embers"])
    assert outcome.changed == ("custom.smouldering_rubbish", "custom.embers")
    rule = outcome.policy.rules["custom.embers"]
    assert rule.name == "embers"
    assert "Fire and arson" in rule.definition


def test_extend_by_an_example_alone(empty):
    outcome = extend(empty, "violence", examples=[CRASH])
    rule = outcome.policy.rules["custom.violence_extended"]
    assert (rule.extends, rule.state) == ("violence", "block")
    again = extend(outcome.history, "violence", examples=[Exemplar(rule="", violates=True, text="another")])
    assert len(again.policy.rules["custom.violence_extended"].exemplars) == 2


def test_extend_of_a_subcategory_without_a_rule_widens_the_rule_above(empty):
    outcome = extend(empty, "violence.fighting", variants=["bum rush"])
    assert outcome.policy.rules["custom.bum_rush"].extends == "violence"


def test_extend_of_a_locked_rule_is_allowed_since_it_only_adds(empty):
    outcome = extend(empty, "sexual.minors", definition="Sexualised dolls of children.")
    assert outcome.policy.rules["custom.sexual_minors_extended"].state == "block"


@pytest.mark.parametrize(
    ("name", "extra", "said"),
    [
        ("accidents.road", {"variants": ["x"]}, "off, so there is nothing to extend"),
        ("violence", {}, "give a variant"),
        ("violence", {"variants": ["a", "b"], "definition": "x"}, "one variant at a time"),
    ],
)
def test_extend_is_refused(empty, name, extra, said):
    with pytest.raises(InvalidPolicy, match=said):
        extend(empty, name, **extra)


def test_extend_leaves_a_rule_of_its_own_alone_and_says_so(empty):
    outcome = extend(empty, "violence", variants=["illegal"])
    assert outcome.changed == ()
    assert "illegal already has a rule" in outcome.notes[0]


def test_an_extension_whose_rule_has_gone_flags_instead_of_vanishing(empty):
    outcome = extend(empty, "illegal.fire", load_policy("screen"), variants=["embers"])
    moved = compose(load_policy("flashing"), [outcome.history.layer()]).policy
    assert moved.rules["custom.embers"].state == "flag"


def test_an_edit_says_who_when_and_why(empty):
    edit = block(empty, "parkour", definition="x").history.edits[0]
    assert (edit.number, edit.action, edit.author, edit.note) == (1, "block", "ann", BY.note)
    assert edit.at == BY.at
    with pytest.raises(InvalidPolicy):
        personalize.block(empty, "parkour", below=DEFAULT, by=By(author=" "), definition="x")


def test_revert_takes_back_any_edit_that_nothing_built_upon(empty):
    one = block(empty, "parkour", definition="x")
    two = unblock(one.history, "violence")
    three = personalize.revert(two.history, 1, below=DEFAULT, by=BY)
    assert "custom.parkour" not in three.policy.rules
    assert three.policy.rules["violence"].state == "off"
    assert three.history.edits[-1].reverts == 1
    four = personalize.revert(three.history, 3, below=DEFAULT, by=BY)  # a revert can be reverted
    assert four.policy.rules["custom.parkour"].state == "block"


def test_revert_of_an_edit_that_a_later_one_built_upon_names_the_later_one(empty):
    one = block(empty, "parkour", definition="x")
    two = block(one.history, "parkour", examples=[CRASH])
    with pytest.raises(InvalidPolicy, match=r"Edit 2 changed 'custom\.parkour' after edit 1; revert 2 first"):
        personalize.revert(two.history, 1, below=DEFAULT, by=BY)
    with pytest.raises(InvalidPolicy, match="edits 1 to 2; got 3"):
        personalize.revert(two.history, 3, below=DEFAULT, by=BY)


def test_a_negative_example_can_be_added_unless_the_rule_is_locked(empty):
    harmless = Exemplar(rule="", violates=False, text="a hug", rationale="nobody is hurt")
    outcome = personalize.add_examples(empty, "violence", [harmless], below=DEFAULT, by=BY)
    assert outcome.policy.rules["violence"].exemplars[-1].rationale == "nobody is hurt"
    with pytest.raises(InvalidPolicy, match="does not violate"):
        personalize.add_examples(empty, "sexual.minors", [harmless], below=DEFAULT, by=BY)
    added = personalize.add_examples(empty, "sexual.minors", [CRASH], below=DEFAULT, by=BY)
    assert len(added.policy.rules["sexual.minors"].exemplars) == 1


def test_a_lock_holds_against_the_layer_above_and_not_against_its_own(empty):
    locked = personalize.lock(empty, "violence", below=DEFAULT, by=BY)
    assert unblock(locked.history, "violence").policy.rules["violence"].state == "off"
    with pytest.raises(InvalidPolicy, match="locked by 'ann'"):
        unblock(History(name="bob"), "violence", locked.composed)


def test_a_judge_that_reads_words_is_told_what_is_exempt(empty):
    """A VLM that is told of violence alone would still find a fight to be violent."""
    policy = unblock(empty, "fighting").policy
    told = {rule.category: rule for rule in policy.told()}
    assert "violence.fighting" not in told
    added = set(told["violence"].allowed) - set(DEFAULT.rules["violence"].allowed)
    assert added == {"Whatever falls under Fighting: Two or more people hit, kick or wrestle each other in earnest."}
    assert "violence.fighting" not in told["violence"].subcategories
    assert told["sexual"] == policy.rules["sexual"]
    assert DEFAULT.told() == DEFAULT.active()


def test_the_last_part_of_an_id_will_do_unless_the_author_defines_the_word(empty):
    below = load_policy("screen")
    assert extend(empty, "illegal.fire", below, variants=["smoke"]).changed == ("illegal.fire.smoke",)
    own = extend(empty, "illegal.fire", below, variants=["smoke"], definition="Smoke of a barbecue.")
    assert own.changed == ("custom.smoke",)
    assert block(empty, "Fall", definition="Scenes of autumn.").changed == ("custom.fall",)
    assert unblock(empty, "robbery").changed == ("illegal.robbery",)
    with pytest.raises(InvalidPolicy, match=r"Did you mean 'accidents\.fall'"):
        block(empty, "Fall")
