"""What every policy of the library promises. A new YAML file in the folder is tested without touching this one."""

import re

import pytest

from guard import taxonomy
from policies.compose import Layer, compose
from policies.diff import diff
from policies.lint import Configured, lint
from policies.load import dump_policy, library, load_policy, parse_policy
from policies.patch import Patch

EVERYTHING = Configured(covered=tuple(taxonomy.categories()), open_vocabulary=True, few_shot=True, slow=True)

pytestmark = pytest.mark.parametrize("name", library())


def test_it_loads_under_its_file_name_with_a_description_and_a_version(name):
    policy = load_policy(name)
    assert policy.name == name
    assert re.fullmatch(r"\d+\.\d+\.\d+", policy.version)
    assert len(policy.description) > 30
    assert re.fullmatch(r"[0-9a-f]{64}", policy.hash)


def test_it_is_the_same_on_every_load_and_after_being_written(name):
    policy = load_policy(name)
    assert parse_policy(dump_policy(policy)) == policy
    assert load_policy(name).hash == policy.hash


def test_every_rule_is_known_on_and_said_in_words(name):
    for category, rule in load_policy(name).rules.items():
        assert taxonomy.is_known(category)
        assert rule.category == category
        assert rule.state in {"flag", "block"}
        assert rule.name
        assert len(rule.definition) > 20
        assert rule.core_value


def test_lint_finds_nothing_where_every_stage_is_there(name):
    assert lint(load_policy(name), EVERYTHING) == ()


def test_it_composes_with_every_other_policy(name):
    base = load_policy(name)
    for other in library():
        patches = {c: Patch(category=c, state="block") for c in load_policy(other).rules}
        composed = compose(base, [Layer(name=other, patches=patches)]).policy
        assert set(composed.rules) == set(base.rules) | set(patches)
        assert all(composed.rules[c].state == "block" for c in patches)


def test_nothing_in_it_is_blocked_and_allowed_at_once(name):
    for rule in load_policy(name).rules.values():
        assert not set(rule.blocked) & set(rule.allowed)


def test_its_text_fits_a_prompt(name):
    """A VLM with 16k tokens of context must have room for frames: 1 token is about 4 characters of English."""
    policy = load_policy(name)
    characters = sum(len(r.definition) + sum(map(len, r.blocked + r.allowed)) for r in policy.active())
    assert characters / 4 < 4000


def test_no_two_policies_decide_alike(name):
    mine = load_policy(name)
    others = [load_policy(other) for other in library() if other != name]
    assert all(other.hash != mine.hash and diff(mine, other) for other in others)
    assert diff(mine, mine) == ()
