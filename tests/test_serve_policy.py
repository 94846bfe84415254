"""`guard policy`: edits that are kept, taken back and used, by way of the command line."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from policies.load import load_policy
from serve import cli
from serve.commands import policy_edit
from serve.demo_clips import ball, flashing, write_clip
from serve.failures import Exit

NAME = "custom.cooking_shows"


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run `guard policy` in this process on a store of its own; returns exit code, stdout and stderr."""
    (tmp_path / "guard.toml").write_text('detectors = ["flash"]\nworkers = 1\npolicy = "default"\n')
    monkeypatch.setenv("GUARD_CONFIG", str(tmp_path / "guard.toml"))
    monkeypatch.setenv("GUARD_POLICY_STORE", str(tmp_path / "store.sqlite3"))
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the handler would outlive the test

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["guard", "policy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_block_is_kept_shown_explained_and_reverted(guard: Any) -> None:
    code, out, _ = guard("block", "cooking shows", "--definition", "People cook.", "--author", "ann", "--json")
    made = json.loads(out)
    assert (code, made["changed"], made["edit"], made["use"]) == (Exit.OK, [NAME], 1, "layer:local")
    assert load_policy("layer:local").rules[NAME].state == "block"
    assert "local: state block" in guard("show", "layer:local", "--why", "cooking shows")[1]
    assert "layer:local" in [p["name"] for p in json.loads(guard("list", "--json")[1])]
    differences = json.loads(guard("diff", "default", "layer:local", "--json")[1])
    assert {(d["field"], d["direction"]) for d in differences} >= {("state", "stricter")}
    assert f"{NAME} state: off -> block (stricter)" in guard("diff", "default", "layer:local")[1]
    code, out, _ = guard("revert", 1, "--author", "bob", "--note", "asked by legal", "--json")
    assert (code, json.loads(out)["changed"]) == (Exit.OK, [NAME])
    assert "No difference" in guard("diff", "default", "layer:local")[1]
    first, second = json.loads(guard("history", "--json")[1])
    assert (first["author"], first["action"], first["categories"]) == ("ann", "block", [NAME])
    assert (second["author"], second["reverts"], second["note"]) == ("bob", 1, "asked by legal")
    assert "asked by legal" in guard("history")[1]


def test_with_out_alone_a_file_is_written_and_no_layer_is_made(guard: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    code, out, _ = guard("unblock", "violence", "--out", file)
    assert code == Exit.OK
    assert out.splitlines() == ["Changed: violence is off.", "It lies on: default", f"Use it with: --policy {file}"]
    assert load_policy(file).name == "default-edited"
    assert load_policy(file).rules["violence"].state == "off"
    assert not (tmp_path / "store.sqlite3").exists()
    code, _, _ = guard("extend", "harassment", "--variant", "hazing", "--base", file, "--out", tmp_path / "two.yaml")
    two = load_policy(tmp_path / "two.yaml")
    assert (code, two.rules["violence"].state, two.rules["custom.hazing"].extends) == (Exit.OK, "off", "harassment")


def test_a_file_with_earlier_edits_is_written_over_only_when_it_is_built_upon_or_forced(
    guard: Any, tmp_path: Path
) -> None:
    file = tmp_path / "p.yaml"
    assert guard("unblock", "violence", "--out", file)[0] == Exit.OK
    before = file.read_bytes()
    for edit in (("block", "x", "--definition", "y"), ("unblock", "fraud"), ("lock", "violence"), ("block", "x")):
        code, out, err = guard(*edit, "--out", file)
        assert (code, out, file.read_bytes()) == (Exit.USAGE, "", before)
        assert "is there already, and this edit starts from 'default'" in err
        assert "--base" in err
        assert "--force" in err
    assert guard("block", "x", "--definition", "y", "--base", file, "--out", file)[0] == Exit.OK
    both = load_policy(file)
    assert (both.rules["violence"].state, both.rules["custom.x"].state) == ("off", "block")
    assert both.name == "default-edited"
    assert "violence off; custom.x block. An `allow`" in both.description
    assert guard("block", "x", "--definition", "y", "--out", file, "--force")[0] == Exit.OK
    assert load_policy(file).rules["violence"].state == "block"


def test_a_layer_writes_over_its_own_copy_and_over_nothing_else(guard: Any, tmp_path: Path) -> None:
    file = tmp_path / "acme.yaml"
    assert guard("unblock", "violence", "--layer", "acme", "--out", file)[0] == Exit.OK
    assert guard("block", "x", "--definition", "y", "--layer", "acme", "--out", file)[0] == Exit.OK
    assert load_policy(file).rules["violence"].state == "off"
    assert "violence off" in load_policy(file).description
    assert "violence off" in load_policy("layer:acme").description
    code, _, err = guard("block", "x", "--definition", "y", "--layer", "other", "--out", file)
    assert (code, "starts from 'layer:other'" in err, "--base" in err) == (Exit.USAGE, True, False)


def test_a_rule_by_words_that_nobody_can_judge_here_is_said_at_once(guard: Any, monkeypatch: Any) -> None:
    code, out, _ = guard("block", "x", "--definition", "y")
    assert (code, "custom.x: no configured stage can judge it, so every video goes to review." in out) == (0, True)
    assert "open-vocabulary encoder" in out
    assert "no configured stage" in " ".join(json.loads(guard("block", "z", "--definition", "y", "--json")[1])["notes"])
    assert "no configured stage" not in guard("unblock", "x")[1]
    monkeypatch.setenv("GUARD_SLOW_URL", "http://127.0.0.1:9/v1")
    assert "no configured stage" not in guard("block", "w", "--definition", "y")[1]


def test_an_edit_starts_from_the_policy_that_a_scan_would_take(guard: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def below(*more: str) -> str:
        asked = ("block", "x", "--definition", "y", "--out", tmp_path / "x.yaml", "--force", "--json", *more)
        return json.loads(guard(*asked)[1])["below"]

    assert below() == "default", "as the settings say"
    assert below("--base", "minors") == "minors"
    monkeypatch.delenv("GUARD_CONFIG")
    assert below() == "screen", "what the embedded classifier can judge alone"
    monkeypatch.setenv("GUARD_SLOW_URL", "http://127.0.0.1:9/v1")
    assert below() == "default"
    assert load_policy(tmp_path / "x.yaml").rules.keys() > load_policy("default").rules.keys()


def test_an_edit_with_examples_is_kept_where_they_cannot_be_compared(
    guard: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "guard.toml").write_text('detectors = ["tiny"]\nworkers = 1\npolicy = "screen"\n')
    monkeypatch.setenv("GUARD_BACKGROUND", str(tmp_path / "none.npz"))
    write_clip(tmp_path / "ball.mp4", ball, 0.5)
    code, out, _ = guard("block", "juggling", "--example", tmp_path / "ball.mp4")
    assert (code, "are kept, and cannot be compared with here" in out) == (Exit.OK, True)
    assert "custom.juggling" in load_policy("layer:local").rules


def test_list_says_why_a_layer_cannot_be_used(guard: Any) -> None:
    guard("lock", "violence", "--layer", "acme", "--kind", "community")
    guard("revert", "1", "--layer", "acme")
    guard("unblock", "violence", "--layer", "alice", "--base", "layer:acme")
    guard("lock", "violence", "--layer", "acme")
    out = guard("list")[1]
    assert "cannot be used" in out
    listed = {p["name"]: p["problem"] for p in json.loads(guard("list", "--json")[1])}
    assert "locked by 'acme'" in listed["layer:alice"]
    code, _, err = guard("show", "layer:alice")
    assert (code, "locked by 'acme'" in err) == (Exit.USAGE, True)


def test_examples_are_files_or_texts_for_or_against(guard: Any, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"hashed all the same")
    asked = ("block", "prank calls", "--example", clip, "--not-example", "two friends joke", "--rationale", "see 0:03")
    assert guard(*asked, "--flag", "--layer", "acme", "--kind", "community", "--base", "screen")[0] == Exit.OK
    policy = load_policy("layer:acme")
    rule = policy.rules["custom.prank_calls"]
    assert (policy.name, rule.state) == ("screen/acme", "flag")
    assert [(e.violates, bool(e.sha256), e.text) for e in rule.exemplars] == [
        (True, True, ""),
        (False, False, "two friends joke"),
    ]
    assert guard("example", "prank calls", "--example", "he hangs up", "--layer", "acme")[0] == Exit.OK
    assert len(load_policy("layer:acme").rules["custom.prank_calls"].exemplars) == 3


def test_a_lock_binds_the_layers_above(guard: Any) -> None:
    assert guard("lock", "violence", "--layer", "house", "--kind", "platform")[0] == Exit.OK
    code, _, err = guard("unblock", "violence", "--layer", "me", "--base", "layer:house")
    assert code == Exit.USAGE
    assert "rule_locked" in err
    assert "house" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("block", "cooking"), "needs a definition or at least one example"),
        (("block", "violense"), "violence"),
        (("block", "x", "--example", "gone.mp4"), "no file 'gone.mp4'"),
        (("block", "x", "--definition", "y", "--kind", "king"), "--kind takes platform"),
        (("block", "x", "--definition", "y", "--force"), "give --golden FILE or --out FILE"),
        (("unblock", "cooking"), "No rule or category is called"),
        (("extend", "violence"), "To extend a rule"),
        (("example", "violence"), "at least one --example"),
        (("revert", 1, "--layer", "lcoal"), "There is no layer 'lcoal'"),
        (("history", "nobody"), "There is no layer"),
        (("show", "nowhere"), "policy_not_found"),
        (("diff", "default", "nowhere"), "policy_not_found"),
    ],
)
def test_wrong_requests_change_nothing_and_say_what_is_wrong(
    guard: Any, arguments: tuple[object, ...], message: str
) -> None:
    code, out, err = guard(*arguments)
    assert out == ""
    assert message in err
    assert code == (Exit.SOME_UNDECIDED if "gone.mp4" in arguments else Exit.USAGE)
    listed = {p["name"]: p["hash"] for p in json.loads(guard("list", "--json")[1])}
    assert listed.get("layer:local", listed["default"]) == listed["default"]


def test_lint_exits_with_1_where_no_stage_can_judge_a_rule(guard: Any) -> None:
    code, out, _ = guard("lint", "flashing", "--json")
    assert (code, json.loads(out)["ok"]) == (Exit.OK, True), "the flash detector judges all of it"
    code, out, _ = guard("lint", "default", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (Exit.FAIL_ON_MATCHED, False)
    assert "unjudgeable" in {finding["code"] for finding in report["findings"]}
    assert guard("lint", "default", "--alone")[0] == Exit.OK


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    write_clip(folder / "calm.mp4", ball, 1.0)
    write_clip(folder / "flash.mp4", flashing, 1.5)
    cases = [
        {"path": "flash.mp4", "labels": ["flashing.general"], "decision": "block"},
        {"path": "calm.mp4", "labels": [], "decision": "allow"},
    ]
    (folder / "golden.jsonl").write_text("\n".join(map(json.dumps, cases)))
    gone = [*cases, {"path": "gone.mp4", "decision": "allow"}]
    (folder / "gone.jsonl").write_text("\n".join(map(json.dumps, [gone[2], *gone[:2]])))
    return folder


def test_a_golden_set_is_judged_by_the_real_stages_and_stops_a_change_that_breaks_it(
    guard: Any, golden: Path, tmp_path: Path
) -> None:
    code, out, _ = guard("test", "flashing", "--golden", golden / "golden.jsonl", "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["right"], report["cases"]) == (Exit.OK, True, 2, 2)
    weak = tmp_path / "weak.yaml"
    assert guard("block", "flashing.general", "--flag", "--base", "flashing", "--out", weak)[0] == Exit.OK
    code, out, _ = guard("test", weak, "--golden", golden / "golden.jsonl", "--against", "flashing")
    assert code == Exit.FAIL_ON_MATCHED
    assert "2 -> 1 of 2 right" in out
    assert "broken: decision: flash.mp4" in out
    asked = ("block", "flashing.general", "--flag", "--base", "flashing", "--layer", "l")
    code, _, err = guard(*asked, "--golden", golden / "golden.jsonl")
    assert code == Exit.USAGE
    assert "breaks the golden set" in err
    assert guard(*asked, "--golden", golden / "golden.jsonl", "--force")[0] == Exit.OK
    assert "FORCED" in json.loads(guard("history", "l", "--json")[1])[-1]["note"]


def test_a_golden_case_that_cannot_be_read_is_wrong_in_its_own_place(guard: Any, golden: Path) -> None:
    code, out, _ = guard("test", "flashing", "--golden", golden / "gone.jsonl", "--json")
    report = json.loads(out)
    assert (code, report["right"], report["unanswered"]) == (Exit.FAIL_ON_MATCHED, 2, 1)
    assert [answer["path"] for answer in report["wrong"]] == ["gone.mp4"]


def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert policy_edit.by(None, "").author == "unknown"
    assert policy_edit.by("ann", "").author == "ann"
