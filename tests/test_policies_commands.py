"""The functions behind `guard policy`, on a real store and real files; golden sets; publishing past a regression."""

import json

import pytest
from builders import video

from guard.errors import InputNotFound, InputUnreadable, InvalidManifest, InvalidPolicy
from guard.types import CategoryScore, Policy, Verdict
from guard.verdict import policy_ref
from policies import commands, golden
from policies.commands import Target
from policies.lint import Configured
from policies.load import load_policy
from policies.personalize import By

BY = By(author="ann")


@pytest.fixture
def target(tmp_path):
    return Target(store=tmp_path / "policies.sqlite3")


def test_block_with_a_definition_and_an_example_then_show_why(target, tmp_path):
    clip = tmp_path / "über fall 1.mp4"
    clip.write_bytes(b"not a real clip, hashed all the same")
    examples = [commands.example(str(clip), rationale="two cars collide"), commands.example("a car hits a tree")]
    outcome = commands.block("Road accident", target, BY, definition="Cars that crash.", examples=examples)
    assert outcome.changed == ("accidents.road",)
    shown = commands.show("layer:local", target.store)
    assert shown.policy.hash == outcome.policy.hash
    first, second = shown.policy.rules["accidents.road"].exemplars
    assert (first.source, first.rationale, len(first.sha256)) == (str(clip), "two cars collide", 64)
    assert second.text == "a car hits a tree"
    said = commands.why("layer:local", "road accident", target.store)
    assert "accidents.road: block." in said
    assert "local: state block" in said
    assert "falls under violence" in commands.why("default", "violence.fighting")
    assert "so it is off" in commands.why("default", "accidents.road")


def test_an_example_that_is_no_file_is_not_taken_for_text(tmp_path):
    with pytest.raises(InputNotFound):
        commands.example("clips/missing.mp4")
    with pytest.raises(InputNotFound):
        commands.example("missing.jpg")
    with pytest.raises(InputUnreadable):
        commands.example(str(tmp_path))
    with pytest.raises(InvalidPolicy):
        commands.example("  ")
    assert commands.example("and/or: a sentence").text == "and/or: a sentence"
    assert commands.example("x" * 5000 + " long text").text.startswith("xxx")


def test_history_and_revert(target):
    commands.block("parkour", target, BY, definition="x")
    commands.unblock("violence", target, By(author="bob", note="asked by legal"))
    commands.extend("parkour", target, BY, variants=["free running"])
    edits = commands.history(store=target.store)
    assert [(e.number, e.action, e.author) for e in edits] == [
        (1, "block", "ann"),
        (2, "unblock", "bob"),
        (3, "extend", "ann"),
    ]
    outcome = commands.revert(2, target, BY)
    assert outcome.policy.rules["violence"].state == "block"
    assert commands.history(store=target.store)[-1].reverts == 2


def test_the_first_edit_makes_the_layer_and_later_ones_keep_its_base(target):
    from dataclasses import replace

    commands.block("parkour", replace(target, layer="acme", kind="community", below="screen"), BY, definition="x")
    outcome = commands.unblock("violence.fighting", replace(target, layer="acme"), BY)
    assert outcome.policy.name == "screen/acme"
    names = [listed.name for listed in commands.list_policies(target.store)]
    assert names[-1] == "layer:acme"
    assert "default" in names


def test_without_a_layer_the_effective_policy_goes_to_a_file(tmp_path):
    out = tmp_path / "new folder" / "mine.yaml"
    commands.block("parkour", Target(layer=None, below="screen", out=out), BY, definition="Over roofs.")
    policy = load_policy(out)
    assert policy.name == "screen-edited"
    assert policy.description.startswith("screen 1.0.0 with edits: custom.parkour block. An `allow` speaks")
    assert policy.rules["custom.parkour"].definition == "Over roofs."
    commands.unblock("parkour", Target(layer=None, below=str(out), out=out), BY)
    assert load_policy(out).rules["custom.parkour"].state == "off"
    assert load_policy(out).name == "screen-edited"
    assert "edits: custom.parkour block; custom.parkour off." in load_policy(out).description
    assert [file.name for file in out.parent.iterdir()] == ["mine.yaml"]
    with pytest.raises(InvalidPolicy, match="needs a layer"):
        commands.unblock("parkour", Target(layer=None), BY)


def test_lint_and_diff_by_name(target):
    commands.unblock("violence", target, BY)
    said = [str(d) for d in commands.diff("default", "layer:local", target.store)]
    assert any(line == "violence state: block -> off (looser)" for line in said)
    codes = {f.code for f in commands.lint("layer:local", Configured(), target.store)}
    assert "unjudgeable" in codes


def test_a_layer_that_cannot_be_used_is_listed_with_the_reason(target):
    from dataclasses import replace

    community = replace(target, layer="acme", kind="community")
    commands.block("parkour", community, BY, definition="x")
    commands.unblock("violence", replace(target, layer="alice", below="layer:acme"), BY)
    commands.lock("violence", community, BY)
    listed = {found.name: found for found in commands.list_policies(target.store)}
    assert "locked by 'acme'" in listed["layer:alice"].problem
    assert listed["layer:alice"].hash == ""
    assert listed["layer:acme"].problem == ""
    with pytest.raises(InvalidPolicy, match="locked by 'acme'"):
        commands.show("layer:alice", target.store)
    commands.revert(1, replace(target, layer="alice"), BY)  # the way out that the message leads to
    assert commands.show("layer:alice", target.store).policy.rules["violence"].state == "block"


# --- golden sets: the judge is a rule-reading function, so that what a policy says decides what it answers


def judge(paths, policy: Policy):
    """A judge that finds in a case what its file name says, and flags it where the policy has an active rule for it."""
    return [_verdict(path, policy) for path in paths]


def _verdict(path, policy):
    name = path.stem.split("-")[0]
    rule = policy.rules.get(name) or policy.rules.get(name.split(".")[0])
    on = rule is not None and rule.state != "off"
    rationale = f"found {name}" if on else "nothing"
    categories = {rule.category: CategoryScore(score=0.9, flagged=True, threshold=0.5, stage="fast")} if on else {}
    decision = {"block": "block", "flag": "review"}[rule.state] if on else "allow"
    return Verdict(
        decision=decision,
        source=str(path),
        sha256=video().sha256,
        policy=policy_ref(policy),
        rationale=rationale,
        categories=categories,
    )


@pytest.fixture
def golden_set(tmp_path):
    file = tmp_path / "golden.jsonl"
    cases = [
        {"path": "violence.fighting-1.mp4", "labels": ["violence.fighting"]},
        {"path": "violence.fighting-2.mp4", "labels": ["violence.fighting"], "decision": "block"},
        {"path": "sexual-1.mp4", "labels": ["sexual"]},
        {"path": "nothing-1.mp4", "labels": []},
    ]
    file.write_text("\n".join(map(json.dumps, cases)))
    return file


def test_a_golden_set_says_which_rules_regress(golden_set, target):
    commands.unblock("violence", target, BY)
    found = commands.run_golden("layer:local", golden_set, judge, against="default", store=target.store)
    # the unlabelled unblock is intended; the case that names its decision is broken
    assert found.broken == {"decision": ("violence.fighting-2.mp4",)}
    assert (found.before.right, found.after.right) == (4, 3)
    assert "4 -> 3 of 4 right" in found.summary()
    assert not commands.run_golden("default", golden_set, judge).regresses


def test_publishing_a_regression_is_refused_unless_forced_and_then_on_record(golden_set, target):
    from dataclasses import replace

    gated = replace(target, golden=golden_set)
    with pytest.raises(InvalidPolicy, match=r"breaks the golden set.*decision: 1"):
        commands.unblock("violence", gated, BY, judge=judge)
    assert commands.show("layer:local", target.store).policy.rules["violence"].state == "block"
    commands.unblock("sexual", gated, BY, judge=judge)
    commands.unblock("violence", replace(gated, force=True), BY, judge=judge)
    notes = [edit.note for edit in commands.history(store=target.store)]
    assert notes[0].startswith("golden set 4 -> 4")
    assert notes[1].startswith("FORCED")
    with pytest.raises(InvalidPolicy, match="needs a guard"):
        commands.unblock("harassment", gated, BY)


def test_an_unanswered_golden_case_is_wrong_and_counted_apart(golden_set, tmp_path):
    from guard.errors import Truncated
    from guard.verdict import failed

    def broken(paths, policy):
        return [failed(source=str(p), sha256=None, policy=policy, error=Truncated("half").info()) for p in paths]

    report = golden.run(golden.read_golden(golden_set), load_policy("default"), broken, root=tmp_path)
    assert (report.right, report.unanswered) == (0, 4)
    with pytest.raises(InvalidPolicy, match="3 verdicts for 4"):
        golden.run(golden.read_golden(golden_set), load_policy("default"), lambda p, _: judge(p[1:], _), root=tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "0 cases"),
        ('{"path": "a"}', "line 1.*labels, a decision, or both"),
        ('{"path": "a", "labels": ["violence.figthing"]}', "did you mean 'violence.fighting'"),
        ('{"path": "a", "decision": "ban"}', "decision"),
        ('{"path": "a", "lables": []}', "lables"),
        ("{", "line 1: not JSON"),
    ],
)
def test_a_bad_golden_line_is_named(tmp_path, line, said):
    (tmp_path / "g.jsonl").write_text(line)
    with pytest.raises(InvalidManifest, match=said):
        golden.read_golden(tmp_path / "g.jsonl")


def test_per_rule_counts_the_worst_first(golden_set, tmp_path):
    report = golden.run(golden.read_golden(golden_set), load_policy("screen"), judge, root=tmp_path)
    assert golden.per_rule(report) == {}  # screen blocks fighting and has no rule for sexual content
    assert report.right == 4
