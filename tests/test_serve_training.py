"""`guard calibrate` and `guard train fast`: real clips, a real detector, files that the next command takes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fast_path.calibration_file import CalibrationFile
from guard import plugins
from guard.errors import UsageError
from serve import cli
from serve.commands.training import settings_of
from serve.demo_clips import ball, flashing, write_clip
from serve.failures import Exit
from serve.stages import BarStages, JsonStages, SilentStages, make_stages

GENERAL = "flashing.general"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for index in range(3):
        write_clip(folder / f"still{index}.mp4", ball, 1.0 + index / 8)
        write_clip(folder / f"flash{index}.mp4", flashing, 1.2 + index / 8)
    (folder / "broken.mp4").write_bytes((folder / "flash0.mp4").read_bytes()[:300])
    return folder


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run `guard` in this process; returns exit code, stdout and stderr."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the handler would outlive the test
    monkeypatch.setenv("GUARD_WORKERS", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["guard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def manifest(clips: Path, name: str, *, broken: bool = False, **more: object) -> Path:
    names = [f"{kind}{index}.mp4" for kind in ("still", "flash") for index in range(3)] + ["broken.mp4"] * broken
    lines = [
        {"path": n, "labels": [GENERAL] if n.startswith("flash") else [], "split": "val", "group": n, **more}
        for n in names
    ]
    file = clips / name
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_calibrate_fits_what_the_detector_said_and_a_scan_takes_the_file(
    guard: Any, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = manifest(clips, "a.jsonl"), tmp_path / "new" / "calibration.json"
    asked = ("calibrate", "--manifest", rows, "--detector", "flash", "--fnr", 0.3, "--fpr", 0.3, "--out", out)
    code, shown, err = guard(*asked, "--json", "--escalate-unproven", "--progress", "json")
    facts, made = json.loads(shown), CalibrationFile.load(out)
    assert code == Exit.OK
    assert json.loads(err.splitlines()[-1]) == {"event": "score", "done": 6, "total": 6}
    assert (facts["id"], facts["clips"], facts["not_scored"]) == (made.id, 6, [])
    assert (made.detector, made.fingerprint) == ("flash", plugins.load("detector", "flash").fingerprint)
    side = made.categories[GENERAL]
    assert (side.clear.clips, side.clear.groups, side.block.clips) == (3, 3, 3)
    assert 0 < side.clear.threshold <= side.block.threshold <= 1, "three of each kind prove 1 in 4"
    assert side.clear.bound == side.block.bound == pytest.approx(0.25)
    (tmp_path / "guard.toml").write_text('detectors = ["flash"]\npolicy = "flashing"\n')
    monkeypatch.setenv("GUARD_CONFIG", str(tmp_path / "guard.toml"))
    monkeypatch.setenv("GUARD_CALIBRATION", str(out))
    code, shown, _ = guard("scan", clips / "flash0.mp4", "--out", "-")
    record = json.loads(shown)
    assert (code, record["decision"], record["versions"]["calibration:flash"]) == (Exit.OK, "block", made.id)


def test_an_infeasible_target_exits_with_2_and_the_bound_that_shows_why(
    guard: Any, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibration.json"
    rows = manifest(clips, "b.jsonl")
    asked = ("calibrate", "--manifest", rows, "--detector", "flash", "--fnr", 0.05, "--fpr", 0.3, "--out", out)
    code, shown, err = guard(*asked)
    assert (code, shown, out.exists()) == (Exit.USAGE, "", False)
    assert "infeasible_target" in err
    assert "3 groups of violating clips can prove no less than 0.250" in err
    code, shown, _ = guard(*asked, "--escalate-unproven")
    assert code == Exit.OK
    row = [line.split() for line in shown.splitlines() if line.startswith(GENERAL)][1]
    assert row[2] == "never", "a category that nothing proves is never cleared by the fast path"


def test_a_clip_that_cannot_be_decoded_is_named_and_stops_it_unless_skipped(
    guard: Any, clips: Path, tmp_path: Path
) -> None:
    rows, out = manifest(clips, "c.jsonl", broken=True), tmp_path / "calibration.json"
    asked = ("calibrate", "--manifest", rows, "--detector", "flash", "--fnr", 0.3, "--fpr", 0.3, "--out", out)
    code, _, err = guard(*asked, "--escalate-unproven")
    assert (code, out.exists()) == (Exit.USAGE, False)
    assert "broken.mp4" in err
    assert "1 of 7 clips" in err
    code, shown, err = guard(*asked, "--escalate-unproven", "--skip-failed", "--json")
    facts = json.loads(shown)
    assert code == Exit.OK
    assert (facts["clips"], [Path(c["path"]).name for c in facts["not_scored"]]) == (6, ["broken.mp4"])
    assert "broken.mp4" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fnr", 0.1), "belong together"),
        ((), "Say what to calibrate for"),
        (("--budget", 1.5), "--budget must be between 0 and 1"),
        (("--budget", 0.5, "--guarantee", "sure"), "--guarantee takes expected"),
        (("--budget", 0.5, "--split", "vla"), "it has: val"),
        (("--budget", 0.5, "--detector", "flahs"), "Did you mean 'flash'"),
        (("--budget", 0.5, "--progress", "loud"), "--progress takes bar"),
        (("--budget", 0.5, "--category", "violence"), "--category violence: tiny scores violence.fighting"),
        (("--budget", 0.5, "--never-block", GENERAL), "--never-block flashing.general: tiny scores"),
    ],
)
def test_wrong_requests_are_refused_before_any_clip_is_scored(
    guard: Any, clips: Path, tmp_path: Path, options: tuple[object, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.calibrate.SandboxedDecoder", None)  # would fail loudly if anything were decoded
    code, out, err = guard(
        "calibrate", "--manifest", manifest(clips, "d.jsonl"), "--out", tmp_path / "c.json", *options
    )
    assert (code, out) == (Exit.USAGE, "")
    assert message in err


def test_a_label_for_a_stretch_of_a_file_is_refused(guard: Any, clips: Path, tmp_path: Path) -> None:
    rows = manifest(clips, "e.jsonl", start_s=0.5)
    code, _, err = guard("calibrate", "--manifest", rows, "--budget", 0.5, "--out", tmp_path / "c.json")
    assert code == Exit.USAGE
    assert "labelled for a stretch" in err


def test_train_fast_writes_a_checkpoint_that_calibrate_and_scan_take(
    guard: Any, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {"path": f"{kind}{i}.mp4", "labels": [GENERAL] * (kind == "flash"), "split": split, "group": f"{kind}{i}"}
        for i, split in enumerate(("train", "train", "val"))
        for kind in ("still", "flash")
    ]
    rows, out = clips / "train.jsonl", tmp_path / "checkpoint"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    small = ("--category", GENERAL, "--epochs", 2, "--passes", 1, "--workers", 1, "--encoder-setting", "width=8")
    code, shown, err = guard("train", "fast", "--manifest", rows, "--out", out, *small, "--json", "--progress", "json")
    assert code == Exit.OK, err
    assert json.loads(shown)["validation"][GENERAL]["auroc"]["positives"] == 1
    assert {p.name for p in out.iterdir()} >= {"model.safetensors", "config.json", "MODEL_CARD.md"}
    assert {json.loads(line)["event"] for line in err.splitlines()} == {"prepare", "train"}
    target = tmp_path / "calibration.json"
    asked = ("--checkpoint", out, "--budget", 0.9, "--out", target)
    for index in range(3):
        write_clip(tmp_path / f"still{index}.mp4", ball, 1.5 + index / 8)
        write_clip(tmp_path / f"flash{index}.mp4", flashing, 1.7 + index / 8)
    code, _, err = guard("calibrate", "--manifest", manifest(tmp_path, "f.jsonl"), *asked)
    assert code == Exit.OK, err
    made = CalibrationFile.load(target)
    assert (list(made.categories), made.guarantee, made.budget) == ([GENERAL], "estimate", 0.9)
    own = plugins.load("detector", "tiny", weights=out).fingerprint
    assert (made.fingerprint, made.max_gap_seconds) == (own, 2.0)

    code, _, err = guard("calibrate", "--manifest", manifest(clips, "f.jsonl"), *asked)
    assert code == Exit.USAGE
    assert "4 of 6 clips were trained on" in err

    monkeypatch.setenv("GUARD_CALIBRATION", str(target))
    scan = ("scan", clips / "flash0.mp4", "--out", "-", "--policy", "flashing")
    code, shown, _ = guard(*scan, "--checkpoint", out)
    versions = json.loads(shown)["versions"]
    assert (code, versions["detector:tiny"], versions["calibration:tiny"]) == (Exit.OK, own, made.id)
    monkeypatch.setenv("GUARD_FAST_CHECKPOINT", str(out))
    _, shown, _ = guard(*scan)
    assert json.loads(shown)["versions"]["detector:tiny"] == own
    code, shown, err = guard(*scan, "--max-gap", 0.5)
    assert (code, shown) == (Exit.USAGE, "")
    assert "max_gap_seconds is 0.5" in err
    monkeypatch.delenv("GUARD_FAST_CHECKPOINT")
    code, shown, err = guard(*scan)  # the calibration of one model, and another one in use
    assert (code, shown) == (Exit.USAGE, "")
    assert f"fitted for tiny {own}" in err
    code, _, err = guard(*scan, "--checkpoint", tmp_path)
    assert code == Exit.USAGE
    assert "No usable checkpoint" in err


def test_train_fast_refuses_a_category_that_there_is_not(guard: Any, clips: Path, tmp_path: Path) -> None:
    rows = manifest(clips, "g.jsonl")
    code, _, err = guard("train", "fast", "--manifest", rows, "--out", tmp_path, "--category", "violence.fightin")
    assert code == Exit.USAGE
    assert "violence.fighting" in err


def test_settings_are_json_where_they_can_be() -> None:
    assert settings_of(["width=8", "name=a=b", "on=true"]) == {"width": 8, "name": "a=b", "on": True}
    for wrong in ("width", "=8"):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            settings_of([wrong])


def test_stages_tell_of_the_last_step_always(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with make_stages("json", stream=stream) as step:
        for done in range(1, 101):
            step("prepare", done, 100)
        step("train", 1, 1)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert type(step) is JsonStages
    assert lines[-2:] == [{"event": "prepare", "done": 100, "total": 100}, {"event": "train", "done": 1, "total": 1}]
    assert len(lines) <= 4, "at most one a second, and the ends"
    assert type(make_stages("bar", stream=stream)) is SilentStages

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with make_stages("bar", stream=terminal) as bar:
        bar("prepare", 1, 2)
    assert type(bar) is BarStages
    assert "prepare" in terminal.getvalue()
