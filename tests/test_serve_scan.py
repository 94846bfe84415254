"""Real scans of small rendered clips: one line per input whatever happens, and a killed scan that goes on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from guard.api import Guard
from guard.config import Settings
from guard.errors import DecodeTimeout, DetectorFailed, ResumeMismatch, UsageError
from serve import run_dir
from serve.demo_clips import ball, flashing, sunset, write_clip
from serve.failures import Exit
from serve.inputs import Selection
from serve.progress import SilentProgress
from serve.scan import ScanOutcome, ScanRequest, run_scan, without_credentials
from serve.summary import print_summary

SETTINGS = Settings(detectors=("flash",), policy="flashing", workers=1)
TOML = 'detectors = ["flash"]\npolicy = "flashing"\nworkers = 1\n'


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "clean.mp4", ball, 1.0)
    write_clip(folder / "flash.mp4", flashing, 1.5)
    return folder


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    with Guard.load(SETTINGS) as loaded:
        yield loaded


@pytest.fixture
def folder(clips: Path, tmp_path: Path) -> Path:
    """Two clips, a copy, a text, an empty file, a broken clip, a link and a FIFO."""
    shutil.copytree(clips, tmp_path / "in")
    folder = tmp_path / "in"
    shutil.copy(clips / "flash.mp4", folder / "again.mp4")
    (folder / "broken.mp4").write_bytes((clips / "clean.mp4").read_bytes()[:300])
    (folder / "empty.mp4").touch()
    (folder / "link.mp4").symlink_to("clean.mp4")
    (folder / "note.mp4").write_text("hello")
    os.mkfifo(folder / "pipe.mp4")
    return folder


def scan(guard: Guard, out: Path, *paths: Path | str, **options: Any) -> ScanOutcome:
    request = ScanRequest(paths=tuple(map(str, paths)), out=out, **options)
    return run_scan(guard, request, SilentProgress())


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines()]


def found(out: Path) -> dict[str, tuple[str, str | None]]:
    return {Path(r["source"]).name: (r["decision"], r["error"]["code"] if r["error"] else None) for r in lines(out)}


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "timings_ms"} for record in records]


def test_every_input_has_one_line_in_order(guard: Guard, folder: Path, tmp_path: Path) -> None:
    outcome = scan(guard, tmp_path / "run", folder, folder / "gone.mp4")
    assert found(tmp_path / "run") == {
        "again.mp4": ("block", None),
        "broken.mp4": ("undecided", "no_video_stream"),
        "clean.mp4": ("allow", None),
        "empty.mp4": ("undecided", "undecodable"),
        "flash.mp4": ("block", None),
        "link.mp4": ("undecided", "input_unreadable"),
        "note.mp4": ("undecided", "unsupported_media_type"),
        "pipe.mp4": ("undecided", "input_unreadable"),
        "gone.mp4": ("undecided", "input_not_found"),
    }
    records = lines(tmp_path / "run")
    assert [r["index"] for r in records] == list(range(9))
    assert outcome.exit_code is Exit.SOME_UNDECIDED
    assert outcome.summary["decisions"] == {"block": 2, "review": 0, "undecided": 6, "allow": 1}
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == outcome.summary
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_a_manifest_beside_the_clips_is_no_input_and_is_named(
    guard: Guard, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clips, tmp_path / "in")
    (tmp_path / "in" / "manifest.jsonl").write_text('{"path": "clean.mp4", "labels": []}\n')
    (tmp_path / "in" / "disguised.json").write_bytes((clips / "flash.mp4").read_bytes())
    outcome = scan(guard, tmp_path / "run", tmp_path / "in")
    total = len(list(clips.iterdir())) + 1
    assert (outcome.exit_code, len(lines(tmp_path / "run"))) == (Exit.OK, total)
    assert found(tmp_path / "run")["disguised.json"] == ("block", None), "media under the name of text is judged"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["left_out"] == {"sidecar": 1}
    assert [Path(name).name for name in summary["sidecars"]] == ["manifest.jsonl"]
    print_summary(summary, Console(width=200))
    assert "manifest.jsonl" in capsys.readouterr().out


def test_lines_are_verdicts_of_the_published_schema(guard: Guard, folder: Path, tmp_path: Path) -> None:
    import jsonschema

    from guard.verdict_json import from_dict, schema

    scan(guard, tmp_path / "run", folder)
    for record in lines(tmp_path / "run"):
        jsonschema.validate(record, schema())
        extra = {"index", "duplicate_of", "input", "evidence"}
        assert from_dict({k: v for k, v in record.items() if k not in extra}).decision == record["decision"]


def test_content_seen_twice_is_scored_once_and_reported_twice(guard: Guard, folder: Path, tmp_path: Path) -> None:
    outcome = scan(guard, tmp_path / "run", folder / "flash.mp4", folder)
    by_name = {(r["index"], Path(r["source"]).name): r for r in lines(tmp_path / "run")}
    first, copy, itself = by_name[0, "flash.mp4"], by_name[1, "again.mp4"], by_name[5, "flash.mp4"]
    assert first["duplicate_of"] is None
    assert copy["duplicate_of"] == itself["duplicate_of"] == first["source"]
    assert copy["categories"] == first["categories"]
    assert copy["timings_ms"] == {}
    assert outcome.summary["duplicates"] == 2
    assert outcome.summary["cost"]["videos_scored"] == 2, (
        "flash and clean; a file that no frame comes out of is no video scored"
    )


def test_names_of_any_bytes_come_through(guard: Guard, clips: Path, tmp_path: Path) -> None:
    raw = [
        b"a\nb.mp4",
        b"-rf.mp4",
        b"\xff.mp4",
        b"<!--<script>.mp4",
        b"=1+1.mp4",
        b"http:..mp4",
        "\u202ex.mp4".encode(),
    ]
    folder = tmp_path / "odd"
    folder.mkdir()
    for index, name in enumerate(raw):  # a trailing byte makes each content its own
        (folder / os.fsdecode(name)).write_bytes((clips / "flash.mp4").read_bytes() + bytes([index]))
    scan(guard, tmp_path / "run", folder, formats=("jsonl", "csv", "parquet"))
    records = lines(tmp_path / "run")
    assert [r["decision"] for r in records] == ["block"] * len(raw)
    paths = {os.fsencode(run_dir.path_from_json(r["source"], r["input"])).rpartition(b"/")[2] for r in records}
    assert paths == set(raw)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<script>.mp4" not in page
    assert "\\u003c!--\\u003cscript\\u003e.mp4" in page
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(raw)


def test_a_run_is_not_overwritten_and_a_strange_folder_not_used(guard: Guard, clips: Path, tmp_path: Path) -> None:
    scan(guard, tmp_path / "run", clips / "clean.mp4")
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    with pytest.raises(UsageError, match="already holds a run") as error:
        scan(guard, tmp_path / "run", clips / "clean.mp4")
    assert "--resume" in error.value.hint
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before
    with pytest.raises(UsageError, match="holds files but no run"):
        scan(guard, clips, clips / "clean.mp4")
    assert sorted(path.name for path in clips.iterdir()) == ["clean.mp4", "flash.mp4"], "nothing is left there"
    with pytest.raises(UsageError, match="cannot be written"):
        scan(guard, clips / "clean.mp4", clips)


def test_a_finished_run_resumes_to_the_same_lines_without_scoring(guard: Guard, folder: Path, tmp_path: Path) -> None:
    scan(guard, tmp_path / "run", folder)
    before = lines(tmp_path / "run")
    cost = json.loads((tmp_path / "run" / "summary.json").read_text())["cost"]
    outcome = scan(guard, tmp_path / "run", folder, resume=True)
    assert lines(tmp_path / "run") == before
    assert cost["videos_scored"] == 2
    assert outcome.summary["cost"] == cost, "the figures of the run stay those of the run"


def test_resume_refuses_other_settings_and_names_them(guard: Guard, folder: Path, tmp_path: Path) -> None:
    scan(guard, tmp_path / "run", folder)
    with pytest.raises(ResumeMismatch, match=r"--include was none, now is \*\.mp4\.$"):
        scan(guard, tmp_path / "run", folder, resume=True, selection=Selection(include=("*.mp4",)))
    with pytest.raises(ResumeMismatch, match="the PATHs was"):
        scan(guard, tmp_path / "run", folder / "clean.mp4", resume=True)
    with (
        Guard.load(SETTINGS.model_copy(update={"max_gap_seconds": 1.0})) as other,
        pytest.raises(ResumeMismatch, match=r"--max-gap was 2\.0, now is 1\.0"),
    ):
        scan(other, tmp_path / "run", folder, resume=True)


def test_resume_refuses_relative_paths_from_another_directory(
    guard: Guard, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copytree(clips, tmp_path / name / "in")
    monkeypatch.chdir(tmp_path / "one")
    scan(guard, tmp_path / "run", "in")
    scan(guard, tmp_path / "run", "in", resume=True)
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(ResumeMismatch, match="the working directory was"):
        scan(guard, tmp_path / "run", "in", resume=True)


def test_resume_scans_new_files_and_changed_ones_and_keeps_those_that_left(
    guard: Guard, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(clips, folder)
    shutil.copy(clips / "clean.mp4", folder / "touched.mp4")
    scan(guard, tmp_path / "run", folder)
    write_clip(folder / "clean.mp4", sunset, 1.0)  # changed
    os.utime(folder / "touched.mp4", (1, 1))  # same content
    (folder / "flash.mp4").unlink()
    shutil.copy(clips / "flash.mp4", folder / "added.mp4")
    outcome = scan(guard, tmp_path / "run", folder, resume=True)
    assert [Path(r["source"]).name for r in lines(tmp_path / "run")] == [
        "clean.mp4", "flash.mp4", "touched.mp4", "added.mp4",
    ]  # fmt: skip
    assert found(tmp_path / "run")["flash.mp4"] == ("block", None)
    assert outcome.summary["cost"]["videos_scored"] == 3, "two at first, then the changed one; the added one is known"
    assert outcome.summary["cost"]["sessions"] == 2


def test_content_that_moved_to_another_name_keeps_its_own_verdict(guard: Guard, clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(clips / "flash.mp4", folder / "a.mp4")
    scan(guard, tmp_path / "run", folder)
    (folder / "a.mp4").rename(folder / "z.mp4")
    shutil.copy(clips / "clean.mp4", folder / "a.mp4")
    for name in "bcde":  # enough to be judged between the two
        write_clip(folder / f"{name}.mp4", ball, 0.5 + 0.1 * ord(name) % 1)
    scan(guard, tmp_path / "run", folder, resume=True)
    by_name = {Path(r["source"]).name: r for r in lines(tmp_path / "run")}
    assert by_name["a.mp4"]["decision"] == "allow"
    assert by_name["z.mp4"]["decision"] == "block", "not the verdict on what now bears its old name"
    assert by_name["z.mp4"]["sha256"] != by_name["a.mp4"]["sha256"]


def test_a_file_replaced_behind_its_times_is_seen(guard: Guard, clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    flash, clean = (clips / "flash.mp4").read_bytes(), (clips / "clean.mp4").read_bytes()
    size = max(len(flash), len(clean))
    (folder / "a.mp4").write_bytes(clean.ljust(size, b"\0"))
    scan(guard, tmp_path / "run", folder)
    old = (folder / "a.mp4").stat()
    (folder / "a.mp4").write_bytes(flash.ljust(size, b"\0"))
    os.utime(folder / "a.mp4", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (folder / "a.mp4").stat().st_mtime_ns == old.st_mtime_ns
    scan(guard, tmp_path / "run", folder, resume=True)
    assert found(tmp_path / "run")["a.mp4"] == ("block", None)


def clock_runs_out(guard: Guard, monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Let the first `times` decodes of a clip run into the clock, as on a busy machine."""
    decoder, asked = guard.pipeline.stages.decoder, []
    feed = decoder.feed

    def slow_at_first(video: Any, needs: Any, sink: Any) -> Any:
        asked.append(Path(video.source).name)
        if len(asked) <= times:
            raise DecodeTimeout("stopped")
        return feed(video, needs, sink)

    monkeypatch.setattr(decoder, "feed", slow_at_first)
    return asked


def test_a_timeout_of_one_copy_is_no_fact_about_the_next(
    guard: Guard, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        shutil.copy(clips / "clean.mp4", folder / f"{name}.mp4")
    asked = clock_runs_out(guard, monkeypatch, times=1)
    scan(guard, tmp_path / "run", folder)
    assert found(tmp_path / "run") == {
        "a.mp4": ("undecided", "decode_timeout"),
        "b.mp4": ("allow", None),
        "c.mp4": ("allow", None),
        "d.mp4": ("allow", None),
    }
    assert asked == ["a.mp4", "b.mp4"], "one retry, not one for each copy"
    records = lines(tmp_path / "run")
    assert [Path(r["duplicate_of"] or "-").name for r in records] == ["-", "-", "b.mp4", "b.mp4"]
    assert [r["index"] for r in records] == [0, 1, 2, 3]
    scan(guard, tmp_path / "run", folder, resume=True, retry_failed=True)
    assert found(tmp_path / "run")["a.mp4"] == ("allow", None)


def test_what_times_out_twice_is_reported_of_every_copy(
    guard: Guard, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        shutil.copy(clips / "clean.mp4", folder / f"{number}.mp4")
    asked = clock_runs_out(guard, monkeypatch, times=99)
    scan(guard, tmp_path / "run", folder)
    assert set(found(tmp_path / "run").values()) == {("undecided", "decode_timeout")}
    assert len(asked) == 2
    assert len(lines(tmp_path / "run")) == 9


def test_a_copy_added_after_a_timeout_is_judged_itself(
    guard: Guard, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(clips / "clean.mp4", folder / "a.mp4")
    clock_runs_out(guard, monkeypatch, times=1)
    scan(guard, tmp_path / "run", folder)
    shutil.copy(clips / "clean.mp4", folder / "b.mp4")
    scan(guard, tmp_path / "run", folder, resume=True)
    assert found(tmp_path / "run") == {"a.mp4": ("undecided", "decode_timeout"), "b.mp4": ("allow", None)}


def test_a_picture_is_whole_or_not_there(guard: Guard, clips: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from serve import evidence

    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    record = {"sha256": guard.open(clips / "flash.mp4").sha256, "decision": "block", "source": "flash.mp4"}
    record |= {"segments": [{"peak_score": 1.0, "peak_seconds": 0.5, "category": "flashing"}]}
    with pytest.raises(KeyboardInterrupt):
        evidence.take_pictures(guard, tmp_path, [record], {record["sha256"]: str(clips / "flash.mp4")})
    assert not list((tmp_path / "evidence").glob("*.jpg")), "killed before the last step: no part under its name"
    monkeypatch.undo()
    taken = evidence.take_pictures(guard, tmp_path, [record], {record["sha256"]: str(clips / "flash.mp4")})
    assert [(tmp_path / one["path"]).exists() for one in taken[record["sha256"]]] == [True]
    assert not list((tmp_path / "evidence").glob("*.tmp"))


def test_retry_failed_judges_undecided_inputs_again(guard: Guard, folder: Path, tmp_path: Path) -> None:
    scan(guard, tmp_path / "run", folder)
    (folder / "empty.mp4").unlink()
    shutil.copy(folder / "flash.mp4", folder / "empty.mp4")
    (folder / "link.mp4").unlink()
    shutil.copy(folder / "clean.mp4", folder / "link.mp4")
    outcome = scan(guard, tmp_path / "run", folder, resume=True, retry_failed=True)
    results = found(tmp_path / "run")
    assert results["empty.mp4"] == ("block", None)
    assert results["link.mp4"] == ("allow", None)
    assert outcome.summary["cost"]["videos_scored"] == 2, "flash and clean; the two new files are copies of them"


def test_a_torn_journal_line_is_dropped(guard: Guard, folder: Path, tmp_path: Path) -> None:
    scan(guard, tmp_path / "whole", folder)
    scan(guard, tmp_path / "run", folder)
    content = (tmp_path / "run" / "results.jsonl").read_bytes()
    (tmp_path / "run" / "results.jsonl").unlink()
    for cut in (len(content) // 2, content.index(b"\n") + 1, 1, 0):
        (tmp_path / "run" / "journal.jsonl").write_bytes(content[:cut])
        scan(guard, tmp_path / "run", folder, resume=True)
        assert without_times(lines(tmp_path / "run")) == without_times(lines(tmp_path / "whole"))
        (tmp_path / "run" / "results.jsonl").unlink()


def test_two_scans_cannot_share_a_run(guard: Guard, clips: Path, tmp_path: Path) -> None:
    with run_dir.RunDirectory(tmp_path / "run"), pytest.raises(UsageError, match="Another scan"):
        scan(guard, tmp_path / "run", clips, resume=True)


def test_shards_of_a_scan_are_disjoint_and_complete(guard: Guard, folder: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    for index in (1, 2, 3):
        out = tmp_path / f"run{index}"
        outcome = scan(guard, out, folder, selection=Selection(shard=(index, 3)))
        seen += [r["source"] for r in lines(out)]
        assert outcome.summary["inputs"] + outcome.summary["left_out"].get("other_shard", 0) == 8
    assert sorted(seen) == sorted(str(path) for path in folder.iterdir())


def test_fail_on_and_the_order_of_exit_codes(
    guard: Guard, folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scan(guard, tmp_path / "0", clips / "clean.mp4", fail_on="review").exit_code is Exit.OK
    assert scan(guard, tmp_path / "1", clips, fail_on="block").exit_code is Exit.FAIL_ON_MATCHED
    assert scan(guard, tmp_path / "2", clips).exit_code is Exit.OK, "without --fail-on a block is no failure"
    assert scan(guard, tmp_path / "3", folder, fail_on="block").exit_code is Exit.FAIL_ON_MATCHED
    assert scan(guard, tmp_path / "4", folder).exit_code is Exit.SOME_UNDECIDED

    def down(*args: object, **kwargs: object) -> None:
        raise DetectorFailed("the model is gone")

    monkeypatch.setattr(type(guard.pipeline.stages.detectors[0]), "begin", down)
    outcome = scan(guard, tmp_path / "5", folder, fail_on="block")
    assert outcome.exit_code is Exit.BACKEND_DOWN, "4 goes before 1 and 3"
    assert outcome.summary["decisions"]["allow"] == 0


def test_evidence_is_kept_and_shown(guard: Guard, folder: Path, tmp_path: Path) -> None:
    import cv2

    scan(guard, tmp_path / "run", folder, evidence=True)
    flash = next(r for r in lines(tmp_path / "run") if r["source"].endswith("flash.mp4"))
    assert flash["evidence"]
    picture = cv2.imread(str(tmp_path / "run" / flash["evidence"][0]["path"]))
    assert picture is not None
    assert min(picture.shape[:2]) == 180
    assert "data:image/jpeg;base64," in (tmp_path / "run" / "report.html").read_text()


def test_an_empty_directory_is_a_run_without_lines(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    outcome = scan(guard, tmp_path / "run", tmp_path / "in", formats=("jsonl", "csv", "parquet"))
    assert outcome.exit_code is Exit.OK
    assert outcome.summary["inputs"] == 0
    assert lines(tmp_path / "run") == []


def start(folder: Path, out: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    config = out.parent / "guard.toml"
    config.write_text(TOML)
    command = [
        sys.executable,
        "-m",
        "serve.cli",
        "scan",
        str(folder),
        "--out",
        str(out),
        "--progress",
        "none",
        *options,
    ]
    environment = {**os.environ, "GUARD_CONFIG": str(config), **environment}
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        command, env=environment, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def many(clips: Path, folder: Path, count: int) -> Path:
    """Distinct contents, some of them twice, and some that fail."""
    folder.mkdir()
    for index in range(count):
        name = "flash.mp4" if index % 3 else "clean.mp4"
        content = (clips / name).read_bytes() + bytes([index // 2 if index % 4 == 1 else index])
        (folder / f"{index:03d}.mp4").write_bytes(content[:400] if index % 7 == 3 else content)
    return folder


def wait_for_lines(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)


def kill_and_resume(guard: Guard, clips: Path, tmp_path: Path, kills: int) -> None:
    folder = many(clips, tmp_path / "in", kills * 3)
    scan(guard, tmp_path / "whole", folder)
    killed = 0
    for attempt in range(kills):
        process = start(folder, tmp_path / "run", "--resume")
        wait_for_lines(tmp_path / "run" / "journal.jsonl", attempt * 2 + 1, process)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed >= kills - 1, "the scans ended before they could be killed"
    last = start(folder, tmp_path / "run", "--resume")
    _, errors = last.communicate(timeout=120)
    assert last.returncode == Exit.SOME_UNDECIDED, errors
    assert without_times(lines(tmp_path / "run")) == without_times(lines(tmp_path / "whole"))


def test_a_killed_scan_goes_on(guard: Guard, clips: Path, tmp_path: Path) -> None:
    kill_and_resume(guard, clips, tmp_path, kills=2)


@pytest.mark.slow
def test_ten_kills_give_the_lines_of_an_uninterrupted_run(guard: Guard, clips: Path, tmp_path: Path) -> None:
    kill_and_resume(guard, clips, tmp_path, kills=10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, 143)])
def test_an_interrupted_scan_keeps_what_is_done(clips: Path, tmp_path: Path, number: int, code: int) -> None:
    folder = many(clips, tmp_path / "in", 200)  # 40 are done in two seconds, before the signal comes
    process = start(folder, tmp_path / "run")
    wait_for_lines(tmp_path / "run" / "journal.jsonl", 3, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    journal = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert journal.count(b"\n") >= 3
    assert all(json.loads(line) for line in journal.splitlines())


def test_no_credentials_reach_the_run_directory() -> None:
    url = "https://user:secret@host.invalid:8000/v1?key=secret"
    assert without_credentials(url) == "https://host.invalid:8000/v1"
    assert without_credentials(None) is None
