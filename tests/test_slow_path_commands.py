"""`guard traces`, `guard train slow` and `guard calibrate --stage slow` on real files, against a local HTTP server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from serve import cli
from serve.failures import Exit
from slow_path import rendered, rendered_examples, rendered_files, tiny_vlm
from slow_path.rendered import Clip, Event
from slow_path.settings import configured
from slow_path.traces import read
from tests.slow_path_server import honest
from tests.test_slow_path_vllm_server import serving

RULES = ("custom.red_circle", "custom.blue_square")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def clip(seed: int, colour: str | None) -> Clip:
    shape = {"red": "circle", "blue": "square"}
    kind = shape.get(colour or "", "triangle")
    event = Event(colour=colour or "red", shape=kind, first=1, last=3, centre=(0.5, 0.5), radius=0.3)
    return Clip(seed=seed, times_seconds=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5), events=(event,) if colour else ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shapes")
    colours = ("red", "blue", None)
    clips = [(f"clip{i}.mp4", clip(i, colours[i % 3]), "train") for i in range(6)]
    for name, made, _ in clips:
        rendered_files.write_clip(home / name, made)
    rendered_files.write_policy(home / "policy.yaml", RULES)
    rendered_files.write_manifest(home / "manifest.jsonl", clips, RULES)
    return home


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run `guard` in this process; returns exit code, stdout and stderr."""
    (tmp_path / "guard.toml").write_text('detectors = ["flash"]\nworkers = 1\n')
    monkeypatch.setenv("GUARD_CONFIG", str(tmp_path / "guard.toml"))
    monkeypatch.setenv("GUARD_SLOW_PROFILE", "small")
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the handler would outlive the test

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["guard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_the_files_show_what_their_labels_say(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in rows[:3]] == [["custom.red_circle"], ["custom.blue_square"], []]
    assert rendered_files.seen_between(clip(0, "red"), RULES[0]) == ((0.5, 2.0),)
    assert rendered_files.seen_between(clip(0, "red"), RULES[1]) == ()


def test_traces_are_collected_resumed_and_learned_from(guard: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl"
    asked = ("--out", out, "--policy", folder / "policy.yaml", "--json", "--progress", "json")

    # The teacher is wrong about the second clip until it is told; the third request in all is not answered at all.
    def reply(number: int, body: dict[str, Any]) -> Any:
        if number >= 4 and not back:
            return 503, {"retry-after": "100"}, {"error": {"message": "full"}}
        told = "A reviewer found" in json.dumps(body["messages"][-1]["content"][-1])
        return honest(body, lie=number == 1 and not told)

    back: list[bool] = []
    with serving(reply, models=["teacher"]) as double:
        command = ("traces", folder / "manifest.jsonl", "--slow", double.url, *asked, "--concurrency", 1)
        code, shown, err = guard(*command)
        assert code == Exit.BACKEND_DOWN, err
        facts = json.loads(shown)
        assert (facts["kept"], facts["of them hinted"], facts["not asked: capacity"]) == (3, 1, 3)
        back.append(True)
        before = len(double.bodies)
        code, shown, err = guard(*command)
        assert (code, len(double.bodies) - before) == (Exit.OK, 3), "nothing is asked twice"
    facts = json.loads(shown)
    assert (facts["clips"], facts["kept"], facts["of them hinted"]) == (6, 6, 1)
    assert json.loads(err.splitlines()[-1]) == {"event": "traces", "done": 6, "total": 6}
    made = read(out)
    assert {trace.id for trace in made} == {f"clip{i}.mp4" for i in range(6)}
    assert {trace.teacher for trace in made} == {"vllm_server:teacher"}
    assert all(set(trace.rules) == set(RULES) for trace in made)
    assert {len(trace.times_seconds) for trace in made} == {6}

    shape = tiny_vlm.Shape(hidden=64, layers=2, heads=2, vision_hidden=32, vision_layers=1, vocabulary=400, merge=4)
    model = tiny_vlm.make(tmp_path / "model", rendered_examples.corpus(20), shape, phrases=rendered_examples.PHRASES)
    train = ("train", "slow", "--traces", out, "--manifest", folder / "manifest.jsonl", "--model", model)
    settings = ("--batch", 2, "--rank", 4, "--learning-rate", 0.01, "--save-every", 2, "--json")
    code, shown, err = guard(
        *train, "--out", tmp_path / "adapter", "--policy", folder / "policy.yaml", "--steps", 4, *settings
    )
    assert code == Exit.OK, err
    assert json.loads(shown)["traces"] == 6
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    code, _, err = guard(*train, "--out", tmp_path / "other", "--policy", "screen", "--steps", 2, *settings)
    assert code == Exit.USAGE
    assert "under the policy" in err


def test_an_absent_teacher_is_found_out_before_anything_is_decoded(guard: Any, folder: Path, tmp_path: Path) -> None:
    asked = ("--out", tmp_path / "t.jsonl", "--policy", folder / "policy.yaml")
    code, _, err = guard("traces", folder / "manifest.jsonl", "--slow", "http://127.0.0.1:9/v1", *asked)
    assert code == Exit.BACKEND_DOWN
    assert "lists no model" in err
    assert not (tmp_path / "t.jsonl").exists()


def test_the_slow_path_is_calibrated_resumed_and_its_floor_used(
    guard: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "slow.json"
    command = (
        "calibrate",
        "--stage",
        "slow",
        "--manifest",
        folder / "manifest.jsonl",
        "--split",
        "train",
        "--out",
        out,
    )
    more = ("--policy", folder / "policy.yaml", "--error", 0.55, "--json", "--progress", "json")
    code, _, err = guard(*command, *more)
    assert code == Exit.USAGE
    assert "needs a VLM server" in err
    down = [True]

    def reply(number: int, body: dict[str, Any]) -> Any:
        if down and number >= 6:
            return 503, {"retry-after": "100"}, {"error": {"message": "full"}}
        return honest(body)

    with serving(reply, models=["m"]) as double:
        code, _, err = guard(*command, *more, "--slow", double.url)
        assert code == Exit.BACKEND_DOWN, err
        down.clear()
        code, shown, err = guard(*command, *more, "--slow", double.url)
    assert code == Exit.OK, err
    facts = json.loads(shown)
    assert (facts["stage"], facts["errors"], facts["clips"], facts["total"]) == ("slow", 0, 6, 12)
    assert 0 < facts["bound"] <= 0.55
    assert json.loads(err.splitlines()[-1]) == {"event": "judge", "done": 6, "total": 6}
    monkeypatch.setenv("GUARD_SLOW_CALIBRATION", str(out))
    assert configured().floor == facts["floor"]
    code, _, err = guard(*command, *more, "--slow", "http://127.0.0.1:9/v1")
    assert code == Exit.USAGE, "answers of another server are not mixed in"
    assert "another policy, model, server or profile" in err


def test_a_stage_that_there_is_not_is_refused(guard: Any, folder: Path, tmp_path: Path) -> None:
    asked = ("calibrate", "--stage", "middle", "--manifest", folder / "manifest.jsonl", "--out", tmp_path / "c.json")
    code, _, err = guard(*asked)
    assert code == Exit.USAGE
    assert "--stage takes fast, slow" in err


def test_the_task_has_no_rule_that_its_policy_file_cannot_say(tmp_path: Path) -> None:
    from policies.load import load_policy

    rendered_files.write_policy(tmp_path / "all.yaml", rendered.RULES)
    made = load_policy(tmp_path / "all.yaml")
    assert {r.category: r.definition for r in made.active()} == {r: rendered.rule_text(r) for r in rendered.RULES}
