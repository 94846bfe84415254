"""The `guard` command: what it prints where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guard._version import __version__
from serve import cli
from serve.commands.scan import InOrder, parse_shard
from serve.demo import fault_of, run_demo
from serve.demo_clips import Expected, ball, flashing, write_clip
from serve.doctor import examine
from serve.failures import Exit
from serve.meter import TreeMeter, tree, tree_cpu_seconds
from serve.progress import BarProgress, JsonProgress, SilentProgress, make_progress
from serve.terminal import safe

ROOT = Path(__file__).parent.parent
TOML = 'detectors = ["flash"]\npolicy = "flashing"\nworkers = 1\n'


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "clean.mp4", ball, 1.0)
    write_clip(folder / "flash.mp4", flashing, 1.5)
    (folder / "note.mp4").write_text("plain text")
    return folder


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guard.toml").write_text(TOML)
    monkeypatch.setenv("GUARD_CONFIG", str(tmp_path / "guard.toml"))
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the handler would outlive the test


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run `guard` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["guard", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_help_and_version_load_no_model_and_no_decoder() -> None:
    code = "import sys; from serve import cli; sys.argv = ['guard', sys.argv[1]]\n"
    code += "try: cli.main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'av', 'cv2', 'transformers', 'pyarrow', 'yaml') if m in sys.modules])"
    for argument in ("--help", "version"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]", argument


def test_version(guard: Any) -> None:
    assert guard("version") == (0, f"video-guard {__version__}\n", "")
    assert json.loads(guard("version", "--json")[1])["video_guard"] == __version__


def test_the_version_is_an_option_too(guard: Any) -> None:
    assert guard("--version") == (0, f"video-guard {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("scan", "x", "--out", "run", "--shard", "3/2"), "guard scan --help"),
        (("policy", "block", "x", "--definition", "y", "--kind", "king"), "guard policy block --help"),
    ],
)
def test_a_usage_error_names_the_help_of_its_own_command(guard: Any, arguments: tuple[str, ...], named: str) -> None:
    code, _, err = guard(*arguments)
    assert code == Exit.USAGE
    assert f"See `{named}`." in err


def test_a_calibration_of_another_detector_is_refused(guard: Any, tmp_path: Path, monkeypatch: Any) -> None:
    made_for_tiny = ROOT / "fast_path" / "weights" / "tiny" / "calibration.json"
    monkeypatch.setenv("GUARD_CALIBRATION", str(made_for_tiny))
    write_clip(tmp_path / "a.mp4", ball, 0.5)
    code, out, err = guard("scan", tmp_path / "a.mp4", "--out", tmp_path / "run")
    assert (code, out) == (Exit.USAGE, "")
    assert "calibration_mismatch" in err
    assert str(made_for_tiny) in err, "what was given"
    assert "flash " in err, "what is allowed"
    assert not (tmp_path / "run").exists()


def test_resuming_nothing_and_finding_nothing_are_said(guard: Any, clips: Path, tmp_path: Path) -> None:
    code, _, err = guard("scan", clips / "clean.mp4", "--out", tmp_path / "run", "--resume")
    assert code == Exit.OK
    assert "holds no run to go on with; a new one begins" in err
    assert "holds no run" not in guard("scan", clips / "clean.mp4", "--out", tmp_path / "run", "--resume")[2]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".hidden.mp4").touch()
    for out in (tmp_path / "empty", "-"):
        code, _, err = guard("scan", tmp_path / "in", "--out", out)
        assert code == Exit.OK
        assert "No input was found, so nothing was judged (left out: 1 hidden)" in err


def test_a_missing_path_is_named_on_the_terminal(guard: Any, clips: Path, tmp_path: Path) -> None:
    code, _, err = guard("scan", clips / "clean.mp4", "gone/nowhere.mp4", "--out", tmp_path / "run")
    assert code == Exit.SOME_UNDECIDED
    assert "gone/nowhere.mp4" in err


LOCKED = """schema: 1
name: house
version: "1"
rules:
  flashing.general: {state: block, locked: true, name: Flashes, definition: Flashes that hurt.}
"""


def test_policies_are_laid_over_each_other_and_locks_hold(guard: Any, clips: Path, tmp_path: Path) -> None:
    house, softer, same = tmp_path / "house.yaml", tmp_path / "softer.yaml", tmp_path / "same.yaml"
    house.write_text(LOCKED)
    softer.write_text(LOCKED.replace("house", "softer").replace("state: block, locked: true", "state: flag"))
    same.write_text(LOCKED.replace("house", "same").replace(", locked: true", "") + "  flashing.red: {state: flag}\n")
    code, out, err = guard("scan", clips, "--out", "-", "--policy", "screen", "--policy", "flashing")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == Exit.SOME_UNDECIDED, err
    assert records[0]["policy"]["name"] == "screen/flashing"
    assert {"flashing.general", "illegal.fire"} <= set(records[0]["categories"])
    shown = json.loads(guard("policy", "show", house, same, "--json")[1])
    assert {c: (r["state"], r["locked"]) for c, r in shown["rules"].items()} == {
        "flashing.general": ("block", True),
        "flashing.red": ("flag", False),
    }
    for asked in (
        ("policy", "show", house, softer),
        ("scan", clips, "--out", "-", "--policy", house, "--policy", softer),
    ):
        code, out, err = guard(*asked)
        assert (code, out) == (Exit.USAGE, "")
        assert "is locked by 'house'" in err
    assert guard("policy", "show", softer, house)[0] == Exit.OK, "a later policy may be stricter"
    assert "same: state flag" in guard("policy", "show", house, same, "--why", "flashing.red")[1]


def test_scan_prints_the_run_directory_alone_on_stdout(guard: Any, clips: Path, tmp_path: Path) -> None:
    code, out, err = guard("scan", clips, "--out", tmp_path / "run", "--format", "jsonl,csv,parquet")
    assert (code, out) == (Exit.SOME_UNDECIDED, f"{tmp_path / 'run'}\n")
    assert "unsupported_media_type" in err
    assert "CPU-second" in err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"results.jsonl", "results.csv", "results.parquet", "summary.json", "report.html", "run.json"}


def test_scan_to_stdout_writes_the_lines_in_order(guard: Any, clips: Path) -> None:
    code, out, _ = guard("scan", "-", "--out", "-", stdin=b"".join(bytes(p) + b"\n" for p in sorted(clips.iterdir())))
    records = [json.loads(line) for line in out.splitlines()]
    assert code == Exit.SOME_UNDECIDED
    assert [r["index"] for r in records] == [0, 1, 2]
    assert [r["decision"] for r in records] == ["allow", "block", "undecided"]


def test_scan_reads_lists_with_nul(guard: Any, clips: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a\nb.mp4"
    odd.write_bytes((clips / "clean.mp4").read_bytes())
    code, out, _ = guard("scan", "-", "--null", "--out", "-", stdin=bytes(odd) + b"\0")
    assert (code, json.loads(out)["source"]) == (Exit.OK, str(odd))


def test_progress_as_json_lines_goes_to_stderr(guard: Any, clips: Path, tmp_path: Path) -> None:
    _, out, err = guard("scan", clips / "clean.mp4", "--out", tmp_path / "run", "--progress", "json")
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [e["event"] for e in events] == ["start", "progress", "report"]
    assert events[-1]["done"] == events[-1]["total"] == 1
    assert out == f"{tmp_path / 'run'}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shard", "3/2"), "--shard takes i/n"),
        (("--fail-on", "allow"), "--fail-on takes review, block"),
        (("--progress", "loud"), "--progress takes bar, json, none"),
        (("--format", "xml"), "--format takes jsonl, csv, parquet"),
        (("--policy", "nowhere"), "policy_not_found"),
        (("--max-gap", "-1"), "max_gap_seconds"),
        (("--null",), "--null speaks of a list on stdin"),
        (("--colour", "red"), "No such option"),
        (("--limit", "-1"), "--limit"),
    ],
)
def test_usage_errors_exit_with_2_and_write_nothing(
    guard: Any, clips: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = guard("scan", clips, "--out", tmp_path / "run", *arguments)
    assert code == Exit.USAGE
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_fail_on_exits_with_1(guard: Any, clips: Path, tmp_path: Path) -> None:
    code, _, _ = guard("scan", clips / "flash.mp4", "--out", tmp_path / "run", "--fail-on", "block")
    assert code == Exit.FAIL_ON_MATCHED


def test_probe_and_hash(guard: Any, clips: Path) -> None:
    facts = json.loads(guard("probe", clips / "clean.mp4", "--json")[1])
    assert (facts["codec"], facts["width"], facts["height"], facts["streams"]) == ("h264", 320, 240, {"video": 1})
    code, out, _ = guard("probe", clips / "clean.mp4")
    assert code == 0
    assert "320" in out
    assert guard("hash", clips / "clean.mp4")[1].split()[0] == facts["sha256"]
    code, out, err = guard("probe", clips / "gone.mp4")
    assert (code, out) == (Exit.SOME_UNDECIDED, "")
    assert "input_not_found" in err


def test_the_hint_of_a_failed_probe_is_not_to_probe(guard: Any, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(4000))
    code, _, err = guard("probe", tmp_path / "x.mp4")
    assert code == Exit.SOME_UNDECIDED
    assert "guard probe" not in err


def test_flash_says_where_and_exits_with_1(guard: Any, clips: Path) -> None:
    code, out, _ = guard("flash", clips / "flash.mp4", "--json")
    report = json.loads(out)
    assert code == Exit.FAIL_ON_MATCHED
    found = (report["result"], report["general"]["result"], report["red"]["result"], report["complete"])
    assert found == ("fail", "fail", "pass", True)
    assert report["general"]["peak_transitions"] == pytest.approx(12, abs=1), "six flashes are twelve changes"
    assert "most flashes in a second" in guard("flash", clips / "flash.mp4")[1]
    code, out, _ = guard("flash", clips / "clean.mp4")
    assert code == Exit.OK
    assert "pass" in out


def test_limits_are_those_of_the_settings(guard: Any, tmp_path: Path) -> None:
    (tmp_path / "guard.toml").write_text(TOML + "limits = { max_seconds = 7 }\n")
    plain = json.loads(guard("limits", "--json")[1])
    assert plain["limits"]["max_seconds"] == 7
    assert "h264" in plain["codecs"]
    assert "max seconds" in guard("limits")[1]


def test_policies_are_listed_and_shown(guard: Any) -> None:
    names = [p["name"] for p in json.loads(guard("policy", "list", "--json")[1])]
    assert {"default", "screen", "flashing"} <= set(names)
    shown = json.loads(guard("policy", "show", "flashing", "--json")[1])
    assert shown["rules"]["flashing.general"]["state"] == "block"
    assert "flashing.red" in guard("policy", "show", "flashing")[1]
    assert guard("policy", "show", "nowhere")[0] == Exit.USAGE


def test_doctor_finds_this_installation_in_order(guard: Any) -> None:
    code, out, _ = guard("doctor", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (Exit.OK, True), [c for c in report["checks"] if c["state"] == "broken"]
    names = {check["name"] for check in report["checks"]}
    found = {check["name"]: check["found"] for check in report["checks"]}
    assert found["decoder: av"].startswith("FFmpeg ")
    assert "YES" not in found["decoder: opencv"]
    assert str(ROOT / "fast_path" / "weights" / "tiny") in found["model file tiny/model.safetensors"]
    assert {"decoder: av", "sandbox: seccomp", "detector flash", "policy library", "extra parquet"} <= names


def test_doctor_reports_what_is_broken_and_goes_on(guard: Any, tmp_path: Path) -> None:
    (tmp_path / "guard.toml").write_text('detectors = ["flash", "missing"]\n')
    states = {check.name: check.state for check in examine()}
    assert states["detector missing"] == "broken"
    assert states["detector flash"] == states["policy library"] == "ok"
    assert guard("doctor")[0] == Exit.BACKEND_DOWN


@pytest.mark.slow
def test_the_demo_checks_itself_and_replaces_only_itself(guard: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("GUARD_CONFIG")
    assert run_demo(tmp_path / "demo") is Exit.OK
    assert (tmp_path / "demo" / "run" / "report.html").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    code, _, err = guard("demo", "--out", tmp_path / "mine")
    assert code == Exit.USAGE
    assert "no earlier demo made it" in err


def test_the_demo_notices_what_was_missed() -> None:
    clip = Expected(file="f.mp4", decisions=("block",), flagged="flashing.general", error=("truncated",))
    seen = {"flashing.general": {"flagged": True}}
    good = {"decision": "block", "categories": seen, "error": {"code": "truncated"}, "rationale": "r"}
    assert fault_of(good, clip) is None
    assert "must be block" in str(fault_of({**good, "decision": "allow"}, clip))
    assert "must be flagged" in str(fault_of({**good, "categories": {}}, clip))
    assert "errors truncated" in str(fault_of({**good, "error": None}, clip))


def test_shards_parse() -> None:
    assert parse_shard("2/8") == (2, 8)
    for wrong in ("0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "٢/٣"):
        with pytest.raises(Exception, match="--shard takes"):
            parse_shard(wrong)


def test_lines_that_finish_out_of_order_are_written_in_order() -> None:
    stream = io.StringIO()
    display = InOrder(SilentProgress(), stream)
    for index in (2, 0, 3, 1):
        display.advance({"index": index})
    assert [json.loads(line)["index"] for line in stream.getvalue().splitlines()] == [0, 1, 2, 3]


def test_terminal_text_cannot_move_the_cursor_or_reorder() -> None:
    assert safe("a\x1b[2J\u202eb\nc\x9b\udcff") == "a\\x1b[2J\\u202eb\\nc\\x9b\\udcff"
    assert safe("päth/视频.mp4") == "päth/视频.mp4"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert type(make_progress("bar", stream=io.StringIO())) is SilentProgress
    assert type(make_progress("json", stream=io.StringIO())) is JsonProgress
    stream = Terminal()
    bar = make_progress("bar", stream=stream)
    assert type(bar) is BarProgress
    with bar:
        bar.start(2)
        bar.advance({"decision": "block"})
        bar.phase("report")
    assert "1/2" in stream.getvalue()


def test_the_meter_sees_children() -> None:
    code = "x = bytearray(200 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint('ready', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        meter = TreeMeter()
        meter.sample()
        assert child.pid in set(tree())
        assert meter.peak_bytes > 200 << 20
        child.stdin.write("\n")
    before = tree_cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(6_000_000))"], check=True)
    assert tree_cpu_seconds() - before > 0.03, "ended children count"
    assert os.getpid() in set(tree())
