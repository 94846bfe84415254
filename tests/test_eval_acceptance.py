"""`guard eval self`: what can run is measured and printed with its command, what cannot stays blank and says why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval import acceptance
from eval.acceptance import BLANK, CELLS, Cell, Folders, measure, report
from guard import plugins
from guard.errors import UsageError

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = (
        Cell(benchmark="flash", given={"seconds": "1"}),
        Cell(benchmark="hatecheck", needs="text"),
        Cell(benchmark="surveillance_fight", needs="videos"),
    )
    monkeypatch.setattr(acceptance, "CELLS", cells)
    monkeypatch.setattr(acceptance, "SYSTEMS", ("always_safe", "random"))


@pytest.mark.usefixtures("small")
def test_what_is_there_is_measured_and_the_rest_is_blank(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    plugins.module("benchmark", "hatecheck").miniature(text)
    out = tmp_path / "out"
    told = measure(out, Folders(text=text), draws=10)
    assert told == {"flash": "done", "hatecheck": "done", "surveillance_fight": "no --videos folder was given"}
    first = (out / "flash/random/predictions.jsonl").stat().st_mtime_ns
    assert measure(out, Folders(text=text), draws=10) == told
    assert (out / "flash/random/predictions.jsonl").stat().st_mtime_ns == first  # taken up, not measured again
    written = report(out, draws=10)
    assert "guard eval hatecheck --data TEXT --system random --out RUNS/hatecheck/random" in written
    assert "guard eval flash --set seconds=1 --system random" in written
    assert "Not run here, for want of their folder: surveillance_fight" in written
    for name, why, _ in BLANK:
        assert f"| {name.replace('_', '-')} | | {why} |" in written


@pytest.mark.usefixtures("small")
def test_leaks_between_the_splits_are_reported(tmp_path: Path) -> None:
    """The first training clip is the first validation clip."""
    videos = tmp_path / "videos"
    videos.mkdir()
    config = plugins.module("benchmark", "surveillance_fight").miniature(videos)
    lines = (config.data / "manifest.jsonl").read_text().splitlines()
    leaked = json.loads(lines[0]) | {"split": "train", "group": "other"}
    (config.data / "manifest.jsonl").write_text("\n".join([*lines, json.dumps(leaked)]) + "\n")
    told = measure(tmp_path / "out", Folders(videos=videos), only=("overlap",))
    assert told == {"overlap": "done"}
    assert "1 of 3 clips overlap with 1 training rows (1 by content, 0 by look)" in report(tmp_path / "out")


@pytest.mark.usefixtures("small")
def test_a_wrong_folder_is_an_error_and_not_a_blank(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"test_suite_cases\.csv"):
        measure(tmp_path / "out", Folders(text=tmp_path), only=("hatecheck",))


def test_every_benchmark_is_measured_or_blank() -> None:
    measured, blank = {cell.benchmark for cell in CELLS}, {name for name, _, _ in BLANK}
    assert measured | blank == set(plugins.names("benchmark"))
    assert not measured & blank


def test_the_guide_names_every_part() -> None:
    text = (DOCS / "eval.md").read_text(encoding="utf-8")
    for kind in ("benchmark", "system"):
        for name in plugins.names(kind):
            assert f"`{name.replace('_', '-')}`" in text, name


def test_the_printed_commands_name_what_there_is() -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    commands = re.findall(r"^guard eval (\S+) (.*)$", text, re.MULTILINE)
    assert commands
    known = {name.replace("_", "-") for name in plugins.names("benchmark")} | {"compare", "self", "overlap"}
    assert {name for name, _ in commands} <= known
    systems = {s for _, rest in commands for s in re.findall(r"--system (\S+)", rest)}
    assert systems <= {name.replace("_", "-") for name in plugins.names("system")}
