"""Layers on disk: stacking, racing writers, killed writers, broken content, and the way into `load_policy`."""

import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from guard.errors import BackendError, InvalidPolicy, LayerChanged, PolicyNotFound, RuleLocked
from guard.types import Exemplar
from policies import personalize
from policies.load import load_policy, parse_policy
from policies.personalize import By
from policies.store import PolicyStore

BY = By(author="ann")


@pytest.fixture
def store(tmp_path):
    return PolicyStore(tmp_path / "state" / "policies.sqlite3")


def block(store, layer, name, **extra):
    return store.update(layer, lambda h, below: personalize.block(h, name, below=below, by=BY, **extra))


def test_an_edit_survives_the_process_that_made_it(store):
    store.create("acme", kind="community")
    example = Exemplar(rule="", violates=True, text="a car hits a wall", rationale="a crash", sha256="a" * 64)
    done = block(store, "acme", "Road accident", examples=[example], definition="Cars that crash.")
    again = PolicyStore(store.path).history("acme")
    assert again == done.history
    rule = PolicyStore(store.path).effective("acme").policy.rules["accidents.road"]
    assert (rule.state, rule.definition) == ("block", "Cars that crash.")
    assert rule.exemplars[0].rationale == "a crash"
    assert again.edits[0].author == "ann"
    assert again.edits[0].at.endswith("+00:00")


def test_layers_stack_and_the_policy_says_so(store):
    store.create("acme", kind="community")
    store.create("alice", kind="user", below="layer:acme")
    block(store, "acme", "parkour", definition="Running over roofs.")
    store.update("alice", lambda h, below: personalize.unblock(h, "parkour", below=below, by=BY))
    composed = store.effective("alice")
    assert composed.policy.name == "default/acme/alice"
    assert composed.policy.version == "1.0.0/1/1"
    assert composed.policy.rules["custom.parkour"].state == "off"
    assert composed.decided_by("custom.parkour") == "alice"
    assert composed.decided_by("custom.parkour", "definition") == "acme"
    assert "acme" in composed.why("custom.parkour")
    assert store.effective("acme").policy.rules["custom.parkour"].state == "block"


def test_a_lock_below_holds_and_is_named(store):
    store.create("acme", kind="community")
    store.create("alice", below="layer:acme")
    store.update("acme", lambda h, below: personalize.lock(h, "violence", below=below, by=BY))
    with pytest.raises(RuleLocked, match=r"'violence'.*locked by 'acme'"):
        store.update("alice", lambda h, below: personalize.unblock(h, "Fighting", below=below, by=BY))
    assert store.history("alice").version == 0


def test_a_lock_that_comes_later_makes_the_upper_layer_fail_loudly(store):
    store.create("acme", kind="community")
    store.create("alice", below="layer:acme")
    store.update("alice", lambda h, below: personalize.unblock(h, "violence", below=below, by=BY))
    store.update("acme", lambda h, below: personalize.lock(h, "violence", below=below, by=BY))
    with pytest.raises(RuleLocked, match="locked by 'acme'"):
        store.effective("alice")


def test_racing_threads_lose_nothing(store):
    store.create("acme")

    def write(number):
        return block(PolicyStore(store.path), "acme", f"thing {number}", definition="x").history.version

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(write, range(24)))
    history = store.history("acme")
    assert sorted(versions) == list(range(1, 25))
    assert [edit.number for edit in history.edits] == list(range(1, 25))
    assert set(history.patches()) == {f"custom.thing_{n}" for n in range(24)}


def test_a_command_line_and_an_api_edit_race_across_processes(store):
    """Both write to one layer as fast as they can; afterwards every edit of both is there, once, and reverts work."""
    store.create("acme")
    code = (
        "import sys; from pathlib import Path\n"
        "from policies.store import PolicyStore; from policies.personalize import By, block\n"
        "store = PolicyStore(Path(sys.argv[1]))\n"
        "for i in range(8):\n"
        "    name = f'{sys.argv[2]} {i}'\n"
        "    store.update('acme', lambda h, b: block(h, name, below=b, by=By(author=sys.argv[2]), definition='x'))\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(store.path), who]) for who in ("api", "cli")]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    history = store.history("acme")
    assert history.version == 16
    assert set(history.patches()) == {f"custom.{who}_{i}" for who in ("api", "cli") for i in range(8)}
    for author in ("api", "cli"):
        assert [e.changes[0].category for e in history.edits if e.author == author] == [
            f"custom.{author}_{i}" for i in range(8)
        ]


def test_two_edits_of_one_rule_race_and_both_examples_stay(store):
    store.create("acme")
    block(store, "acme", "parkour", definition="x")

    def add(number):
        example = Exemplar(rule="", violates=True, text=f"example {number}")
        edit = lambda h, b: personalize.add_examples(h, "parkour", [example], below=b, by=BY)  # noqa: E731
        return PolicyStore(store.path).update("acme", edit)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(12)))
    rule = store.effective("acme").policy.rules["custom.parkour"]
    assert {e.text for e in rule.exemplars} == {f"example {n}" for n in range(12)}


def test_an_edit_on_an_old_version_is_refused(store):
    old = store.create("acme")
    below = store.below(old)
    stale = personalize.block(old, "parkour", below=below, by=BY, definition="x").history.edits[0]
    block(store, "acme", "juggling", definition="y")
    with pytest.raises(LayerChanged, match=r"at version 1, the edit was made on 0"):
        store.append("acme", stale, expected_version=0)
    assert set(store.history("acme").patches()) == {"custom.juggling"}


def test_an_edit_that_would_leave_a_hole_is_refused(store):
    first = store.create("acme")
    below = store.below(first)
    two = personalize.block(first, "a", below=below, by=BY, definition="x").history
    three = personalize.block(two, "b", below=below, by=BY, definition="x").history
    with pytest.raises(LayerChanged, match="version 0"):
        store.append("acme", three.edits[-1], expected_version=1)
    assert store.history("acme").version == 0


def test_an_edit_that_changes_nothing_is_not_written(store):
    store.create("acme")
    outcome = store.update("acme", lambda h, below: personalize.unblock(h, "accidents.road", below=below, by=BY))
    assert outcome.changed == ()
    assert "off already" in outcome.notes[0]
    assert store.history("acme").version == 0


def test_creating_twice_is_harmless_and_moving_is_refused(store):
    store.create("acme")
    store.create("acme")
    with pytest.raises(InvalidPolicy, match="there already"):
        store.create("acme", below="screen")
    with pytest.raises(PolicyNotFound, match="no layer 'nobody'"):
        store.create("x", below="layer:nobody")
    with pytest.raises(InvalidPolicy, match="platform, community, user"):
        store.create("y", kind="team")  # type: ignore[arg-type]
    assert [h.name for h in store.layers()] == ["acme"]


def test_a_circle_of_layers_is_refused(store):
    store.create("a")
    store.create("b", below="layer:a")
    with sqlite3.connect(store.path) as connection:  # no command can make one; a restored backup could
        connection.execute("UPDATE layers SET below = 'layer:b' WHERE name = 'a'")
    connection.close()
    with pytest.raises(InvalidPolicy, match="circle"):
        store.effective("a")


def test_a_layer_on_a_file_keeps_working_from_another_folder(store, tmp_path, monkeypatch):
    (tmp_path / "house.yaml").write_text("name: house\nversion: 1\nbase: screen\n")
    monkeypatch.chdir(tmp_path)
    store.create("acme", below="house.yaml")
    monkeypatch.chdir("/")
    assert store.effective("acme").policy.rules.keys() == load_policy("screen").rules.keys()


def test_a_layer_is_a_policy_name(store, monkeypatch):
    monkeypatch.setenv("GUARD_POLICY_STORE", str(store.path))
    store.create("acme")
    block(store, "acme", "parkour", definition="x")
    assert load_policy("layer:acme") == store.effective("acme").policy
    with pytest.raises(PolicyNotFound, match="the store has: acme"):
        load_policy("layer:amce")


def test_content_that_was_tampered_with_is_refused(store):
    store.create("acme")
    block(store, "acme", "parkour", definition="x")
    with sqlite3.connect(store.path) as connection:
        (content,) = connection.execute("SELECT content FROM edits").fetchone()
        broken = json.loads(content)
        broken["changes"][0]["after"]["state"] = "nonsense"
        connection.execute("UPDATE edits SET content = ?", (json.dumps(broken),))
    connection.close()
    with pytest.raises(InvalidPolicy, match="Edit 1"):
        store.effective("acme")


def test_a_store_that_cannot_be_opened_says_so(tmp_path):
    (tmp_path / "note.txt").write_text("this is no database, and long enough to be looked at as one" * 20)
    with pytest.raises(BackendError, match="cannot be used"):
        PolicyStore(tmp_path / "note.txt").layers()


def test_the_effective_policy_can_be_written_to_a_file_and_used(store):
    from policies.load import dump_policy

    store.create("acme")
    block(store, "acme", "паркур \U0001f3c3", definition="Бег по крышам.")
    policy = store.effective("acme").policy
    again = parse_policy(dump_policy(policy))
    assert again == policy
    assert any(rule.name == "паркур \U0001f3c3" for rule in again.rules.values())
