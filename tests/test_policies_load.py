"""Reading policies: the library, files, what is refused and how it is said, the content hash, writing back."""

import random
import re

import pytest
import yaml

from guard import taxonomy
from guard.errors import InvalidPolicy, PolicyNotFound
from policies import yamlfile
from policies.load import dump_policy, library, library_words, load_policy, parse_policy

HEAD = "name: house\nversion: 1\n"


def refused(text: str) -> str:
    with pytest.raises(InvalidPolicy) as caught:
        parse_policy(text, where="house.yaml")
    assert caught.value.hint
    return caught.value.message


def test_the_default_policy_has_the_six_roots_and_their_subcategories():
    policy = load_policy("default")
    roots = [c for c in policy.rules if "." not in c]
    assert roots == [c.id for c in taxonomy.categories().values() if c.parent is None and c.pack is None]
    for root in roots:
        rule = policy.rules[root]
        below = {c.id for c in taxonomy.categories().values() if c.id.startswith(f"{root}.")}
        assert set(rule.subcategories) == below
        assert rule.state == "block"
        assert rule.thresholds is None
        assert len(rule.severity) == 3
        assert rule.core_value
    assert policy.rules["sexual.minors"].locked


def test_the_screen_policy_holds_what_the_embedded_classifier_covers_and_says_what_it_does_not():
    import json
    from pathlib import Path

    policy = load_policy("screen")
    config = json.loads((Path(__file__).parents[1] / "fast_path/weights/tiny/config.json").read_text())
    assert set(policy.rules) == set(config["head"]["categories"])
    for unjudged in ("sexual", "harassment", "deception", "hate", "self-harm", "text"):
        assert unjudged in policy.description
    assert "NOT" in policy.description


def test_a_name_that_is_not_there_is_answered_with_what_is():
    with pytest.raises(PolicyNotFound, match=r"'defualt'.*library, which has: accidents, .*Did you mean 'default'\?"):
        load_policy("defualt")
    with pytest.raises(PolicyNotFound, match="Did you mean 'screen'"):
        load_policy("policies/scren.yaml")


def test_a_folder_is_no_policy(tmp_path):
    with pytest.raises(PolicyNotFound, match="not a regular file"):
        load_policy(tmp_path)


def test_a_file_wins_by_its_path_and_the_library_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "default").write_text(HEAD + "rules: {custom.x: {state: flag, name: X}}\n")
    monkeypatch.chdir(tmp_path)
    assert len(load_policy("default").rules) == 7
    assert list(load_policy("./default").rules) == ["custom.x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: {violence: {state: blok}}", r"line 3: 'rules.violence.state' is 'blok'.*, 'flag' or .*'block'\?"),
        ("rules:\n  violence:\n    state: off\n    alowed: [x]", r"line 6: there is no key 'alowed'.*mean 'allowed'\?"),
        ("rules:\n  violence.figthing: {state: off}", r"line 4: .*'violence.figthing'.*mean 'violence.fighting'\?"),
        ("rules:\n  crime.fighting: {state: off}", r"line 4: .*roots are sexual, .*mean 'violence.fighting'\?"),
        ("rules:\n  violence:\n    state: off\n    subcategories: {sexual.minors: x}", r"line 6: .*not below"),
        ("rules: {custom.Big: {state: off}}", r"custom.<name>, with a-z, 0-9 and _"),
        ("rules: {violence: {definition: x}}", r"'violence' has no state; it must be one of off, flag, block"),
        ("rules: {violence: {state: off, thresholds: {clear_below: .9, block_at: .5}}}", r"not be below clear_below"),
        ("rules: {violence: {state: off, thresholds: {clear_below: 0, block_at: .nan}}}", r"block_at' is '\.nan'"),
        ("rules: {violence: {state: off, thresholds: {clear_below: -1, block_at: 1e999}}}", r"clear_below' is '-1'"),
        ("rules: {violence: {state: off, severity: [a]}}", r"severity'"),
        ("rules: {violence: {state: off, exemplars: [{violates: true}]}}", r"text, a source or a sha256"),
        ("rules: {violence: {state: off, exemplars: [{text: a}]}}", r"violates' is missing"),
        ("rules: {violence: {state: off, extends: vilence}}", r"'vilence'"),
        ('rules: {violence: {state: off, name: "a\\e[31m"}}', r"U\+001B cannot stand in a policy"),
        ("rules: {violence: {state: off}}\nrules: {}", r"line 4: the key 'rules' appears twice"),
        ("base: defualt", r"no base 'defualt'.*mean 'default'\?"),
        ("view: openai", r"needs a 'base'"),
        ("base: default\nview: opneai", r"'view' is 'opneai'.*mean 'openai'\?"),
        ("schema: 2", r"'schema' is"),
        ("base: default\nrules: {sexual.minors: {state: flag}}", r"'sexual.minors' is locked by 'default'"),
        ("base: default\nrules: {sexual.minors: {allowed: [x]}}", r"changes allowed of 'sexual.minors'"),
        ("rules: {a: *x}", r"aliases"),
        ("rules: !!python/object:os.system {}", r"tag|mapping|not YAML"),
        ("rules: [", r"line \d+: not YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_with_line_and_alternative(text, said):
    message = refused(HEAD + text)
    assert message.startswith("house.yaml") or "'house.yaml'" in message
    assert re.search(said, message), message


@pytest.mark.parametrize("text", ["", "- a", "just text", "null"])
def test_a_file_that_is_no_mapping_is_refused(text):
    assert "mapping with name, version and rules" in refused(text)


def test_a_misspelt_key_is_named_before_the_one_it_replaces():
    assert "Did you mean 'version'?" in refused("name: a\nverson: 1\n")


def test_bombs_are_refused_quickly():
    layers = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30))
    assert "aliases" in refused(f"a0: &a0 [x]\n{layers}")
    assert "nested deeper" in refused("[" * 500 + "]" * 500)
    assert "more than" in refused("[" + "1," * (yamlfile.MAX_NODES + 1) + "]")
    assert "at most" in refused("a" * (yamlfile.MAX_BYTES + 1))


def test_bytes_that_are_not_text_are_refused():
    with pytest.raises(InvalidPolicy, match="not UTF-8"):
        parse_policy(b"name: \xff\xfe\n")
    assert parse_policy("\ufeff".encode() + HEAD.encode()).name == "house"


def test_yaml_does_not_guess_types():
    policy = parse_policy(
        "name: 007\nversion: 1.10\nrules: {custom.no: {state: off, name: no}, violence: {state: flag}}"
    )
    assert (policy.name, policy.version) == ("007", "1.10")
    assert policy.rules["custom.no"].state == "off"
    assert policy.rules["custom.no"].name == "no"


def test_the_hash_ignores_formatting_and_order_and_sees_content():
    policy = load_policy("default")
    document = yaml.safe_load(dump_policy(policy))
    shuffled = dict(random.Random(0).sample(list(document["rules"].items()), k=len(document["rules"])))
    rewritten = yaml.safe_dump(
        {"rules": shuffled, "name": "other name", "version": "99"}, default_flow_style=True, width=20
    )
    assert parse_policy(rewritten).hash == policy.hash
    for change in (
        "state: flag",
        "definition: other",
        "blocked: [more]",
        "thresholds: {clear_below: .1, block_at: .2}",
    ):
        changed = parse_policy(HEAD + f"base: default\nrules:\n  violence:\n    {change}\n")
        assert changed.hash != policy.hash
    locked = parse_policy(HEAD + "base: default\nrules: {violence: {state: block, locked: true}}")
    assert locked.hash != policy.hash


def test_a_base_gives_the_rules_that_the_file_does_not_mention():
    policy = parse_policy(HEAD + "base: default\nrules:\n  violence:\n    allowed: [Wrestling on stage.]\n")
    default = load_policy("default")
    assert policy.rules["sexual"] == default.rules["sexual"]
    assert policy.rules["violence"].allowed == (*default.rules["violence"].allowed, "Wrestling on stage.")
    assert policy.rules["violence"].blocked == default.rules["violence"].blocked


def test_an_exception_from_a_lock_survives_writing():
    text = (
        HEAD + "rules:\n  violence: {state: block, locked: true}\n  violence.fighting: {state: flag, locked: false}\n"
    )
    policy = parse_policy(text)
    assert not policy.rules["violence.fighting"].locked
    assert parse_policy(dump_policy(policy)) == policy
    implied = parse_policy(text.replace(", locked: false", ""))
    assert implied.rules["violence.fighting"].locked
    assert parse_policy(dump_policy(implied)) == implied


def test_words_for_a_category_come_from_the_library():
    assert library_words("accidents.road")["name"] == "Road accident"
    assert "flames" in library_words("illegal.fire")["definition"]
    assert library_words("custom.nothing") == {}


def test_every_builtin_category_has_words_somewhere_in_the_library():
    assert [c for c in taxonomy.categories() if not library_words(c)] == ["flashing"]


def test_the_library_is_sorted_and_complete():
    expected = {"default", "screen", "minors", "ai-video", "news-education", "firearms", "accidents", "flashing"}
    expected |= {"screen-text", "spam", "toxicity", "negativity", "openai-13", "mlcommons", "dsa"}
    assert set(library()) == expected
    assert list(library()) == sorted(library())
