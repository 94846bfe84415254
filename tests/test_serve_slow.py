"""`guard scan --slow URL` end to end over HTTP, `guard serve-vlm`, and how `guard distill` reads its arguments."""

from __future__ import annotations

import base64
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from serve import cli
from serve.demo_clips import ball, write_clip
from serve.failures import Exit
from tests.test_slow_path_vllm_server import Reply, completion, serving

TOML = 'detectors = ["flash"]\npolicy = "default"\nworkers = 1\n'


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run `guard` in this process; returns exit code, stdout and stderr."""
    (tmp_path / "guard.toml").write_text(TOML)
    monkeypatch.setenv("GUARD_CONFIG", str(tmp_path / "guard.toml"))
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the handler would outlive the test

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["guard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def reply_with(violated: str | None) -> Any:
    """Answer as a model would that finds `violated`: yes/no questions by one token, others in the form asked for."""

    def reply(number: int, body: dict[str, Any]) -> Reply:
        form = body.get("response_format")
        if form is None:
            task = json.dumps(body["messages"][-1]["content"][-1])
            return completion("yes" if violated is not None and violated in task else "no")
        properties = form["json_schema"]["schema"]["properties"]
        rules = properties["checks"]["properties"]
        first = next(iter(rules.values()))["properties"]["evidence_seconds"]["items"]["enum"][0]
        checks = {
            rule: {
                "evidence_seconds": [first] if rule == violated else [],
                "why": "seen" if rule == violated else "not seen",
                "violated": "yes" if rule == violated else "no",
            }
            for rule in rules
        }
        found = [rule for rule in rules if rule == violated]
        answer = {
            "observations": [{"start_seconds": first, "end_seconds": first, "text": "a ball"}],
            "checks": checks,
            "counter_evidence": [],
            "categories": found,
            "severity": 2 if found else 0,
            "span": {"start_seconds": first, "end_seconds": first} if found else None,
            "reason": "A ball that bounces.",
        }
        return completion(json.dumps(answer))

    return reply


def pictures(body: dict[str, Any]) -> list[np.ndarray]:
    parts = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    data = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts]
    return [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in data]


def test_a_scan_asks_the_server_and_shows_it_decoded_frames_at_full_size(guard: Any, tmp_path: Path) -> None:
    write_clip(tmp_path / "ball.mp4", ball, 1.0)
    with serving(reply_with("violence")) as double:
        code, out, err = guard("scan", tmp_path / "ball.mp4", "--slow", double.url, "--out", "-")
    record = json.loads(out)
    assert code == Exit.OK, (record, err)
    assert record["route"]["path"] == "slow"
    assert record["categories"]["violence"]["flagged"]
    assert record["decision"] in ("block", "review")
    assert record["judgement"]["status"] == "ok"
    seen = [picture.shape for body in double.bodies for picture in pictures(body)]
    assert seen
    assert set(seen) == {(240, 320, 3)}, "from a second decode; the screen's own frames are smaller"
    assert str(tmp_path) not in json.dumps(double.bodies), "the server learns no path"


def test_a_server_that_is_down_gives_no_allow_and_exit_code_4(guard: Any, tmp_path: Path) -> None:
    write_clip(tmp_path / "ball.mp4", ball, 1.0)
    with serving(lambda number, body: (503, {}, {"error": {"message": "down"}})) as double:
        code, out, _ = guard("scan", tmp_path / "ball.mp4", "--slow", double.url, "--out", "-")
    record = json.loads(out)
    assert record["decision"] in ("undecided", "review")
    assert record["error"] is not None
    assert code == Exit.BACKEND_DOWN


def test_serve_vlm_shows_its_command_and_needs_vllm(guard: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GUARD_VLLM_PYTHON", sys.executable)
    (tmp_path / "lora").mkdir()
    asked = ("serve-vlm", "org/model", "--port", 8123, "--adapter", f"mine={tmp_path / 'lora'}", "--dry-run")
    code, out, _ = guard(*asked, "--extra", "--seed=3")
    words = shlex.split(out)
    assert (code, words[0], sys.executable in words) == (Exit.OK, "env", True)
    assert words[words.index("--port") + 1] == "8123"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert f"mine={tmp_path / 'lora'}" in words
    assert words[-1] == "--seed=3"
    code, _, err = guard("serve-vlm", "m", "--adapter", "mine=/nowhere", "--dry-run")
    assert code == Exit.USAGE
    assert "NAME=FOLDER" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("distill", "gone.jsonl", "--out", "run"), "gone.jsonl"),
        (("distill", "--out", "run", "gone.jsonl"), "gone.jsonl"),
        (("distill", "run", "gone.jsonl", "--out", "run"), "gone.jsonl"),
        (("distill", "audit", "gone.jsonl", "--out", "run"), "gone.jsonl"),
        (("distill", "annotate", "gone.jsonl", "--out", "run", "--method", "best"), "--method takes ideal"),
        (("distill", "m.jsonl", "--out", "run", "--scorer", "grad_coz"), "grad_cos"),
    ],
)
def test_distill_takes_a_manifest_with_or_without_a_command(
    guard: Any, arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = guard(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert message in err


def test_doctor_asks_the_server_and_names_the_calibration(guard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def checks() -> tuple[int, dict[str, dict[str, str]]]:
        code, out, _ = guard("doctor", "--json")
        return code, {check["name"]: check for check in json.loads(out)["checks"]}

    with serving(reply_with(None), models=["one"]) as double:
        monkeypatch.setenv("GUARD_SLOW_URL", double.url)
        code, found = checks()
        assert (code, found["slow path"]["state"]) == (Exit.OK, "ok")
        assert "serves one" in found["slow path"]["found"]
        assert found["calibration of flash"]["state"] == "missing"
        monkeypatch.setenv("GUARD_SLOW_MODEL", "two")
        code, found = checks()
        assert (code, found["slow path"]["state"]) == (Exit.BACKEND_DOWN, "broken")
    code, found = checks()
    assert (code, found["slow path"]["state"]) == (Exit.BACKEND_DOWN, "broken"), "the server is gone"
    monkeypatch.delenv("GUARD_SLOW_URL")
    monkeypatch.setenv("GUARD_CALIBRATION", "/nowhere/calibration.json")
    code, found = checks()
    assert code == Exit.BACKEND_DOWN
    assert found["slow path"]["state"] == "missing"
    assert found["calibration"]["state"] == "broken"
