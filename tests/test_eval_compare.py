"""The comparison page and table: self-contained, safe with hostile names, and true to the metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import charts, page
from eval.benchmarks import hatecheck, manifest, safewatch_real
from eval.compare import compare, errors_of, expand, markdown
from eval.runner import RunRequest, run
from eval.score import Scoring, score
from eval.systems import always_safe, flag_all, random
from eval.thumbnails import thumbnail
from guard.errors import UsageError
from serve.cli import app

SYSTEMS = {"safe": always_safe, "all": flag_all, "coin": random}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for name, system in SYSTEMS.items():
        run(safewatch_real.tiny(), system.tiny(), RunRequest(out=root / "sw" / name))
        score(root / "sw" / name, Scoring(draws=50))
    return root


def test_the_page_is_self_contained(runs: Path) -> None:
    found = compare([runs / "sw"], draws=50)
    html = page.render(found)
    assert re.findall(r'(?:src|href)="(?!data:|#)', html) == []
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert html.count("<svg") == 4  # plane, risk, reliability, bars
    assert html.count('src="data:image/jpeg') > 10
    for name in ("always_safe", "flag_all", "random", "prevalence", "C1", "exact match"):
        assert name.replace("_", " ") in html or name in html


def test_the_table_has_coverage_intervals_and_the_rows_that_do_not_look(runs: Path) -> None:
    (found,) = compare([runs / "sw"], draws=20)
    text = markdown(found)
    rows = text.splitlines()
    assert len(rows) == 2 + 3 + 4
    assert "34 of 34" in rows[2]
    assert re.search(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", text)
    assert {cell for cell in ("*always safe*", "*flag all*", "*random*", "*prevalence*") if cell in text} == {
        "*always safe*", "*flag all*", "*random*", "*prevalence*",
    }  # fmt: skip
    assert len({row.count("|") for row in rows}) == 1


def test_pairs_are_tested_on_shared_samples(runs: Path) -> None:
    (found,) = compare([runs / "sw"], draws=50)
    assert len(found.tests) == 3
    first = next(t for t in found.tests if {t["first"], t["second"]} == {"always_safe", "flag_all"})
    assert first["samples"] == 34
    sign = 1 if first["second"] == "flag_all" else -1
    assert sign * first["differences"]["binary/f1"]["difference"] == pytest.approx(2 * 28 / (2 * 28 + 6))
    assert sorted((first["mcnemar"]["only_first"], first["mcnemar"]["only_second"])) == [6, 28]


def test_worst_errors_name_what_was_missed_first(runs: Path) -> None:
    (found,) = compare([runs / "sw"], draws=0)
    safe = next(one for one in found.runs if one.name == "always_safe")
    errors = errors_of(safe, 6)
    assert {e["kind"] for e in errors} == {"missed"}
    flagged = next(one for one in found.runs if one.name == "flag_all")
    assert {e["kind"] for e in errors_of(flagged, 6)} == {"false alarm"}


def test_hostile_names_and_texts_stay_text(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "test_suite_cases.csv").write_text(
        "functionality,case_id,test_case,label_gold\n"
        '<b>x,1,"<script>alert(1)</script>",hateful\n"y"" onload=""z",2,fine,non-hateful\n'
    )
    run(hatecheck.build(hatecheck.Config(data=data)), always_safe.tiny(), RunRequest(out=tmp_path / "run"))
    html = page.render(compare([tmp_path / "run"], draws=0))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert 'onload="z' not in html


def test_a_partial_run_is_marked_on_the_page(tmp_path: Path) -> None:
    config = manifest.miniature(tmp_path)
    (tmp_path / "clips/3.mp4").unlink()
    run(manifest.build(config), flag_all.tiny(), RunRequest(out=tmp_path / "run"))
    (found,) = compare([tmp_path / "run"], draws=0)
    html = page.render([found], pictures=False)
    assert "partial, 3 of 4 samples have an answer" in html
    assert "3 of 4 (partial)" in markdown(found)
    assert "data:image" not in html


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an evaluation run"):
        expand([tmp_path / "nowhere"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps({"signature": {}}))
    with pytest.raises(UsageError, match="not a finished"):
        compare([tmp_path])


def test_the_frontier_is_what_no_other_point_beats() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.8), (5.0, 0.9)]
    assert charts.frontier(points) == [1, 3, 0]


def test_thumbnails_are_blurred(tmp_path: Path) -> None:
    import base64

    import cv2
    import numpy as np

    from eval.rendering import encode

    board = (np.indices((96, 128)).sum(axis=0) // 4 % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    (tmp_path / "board.mp4").write_bytes(encode(lambda _: board, 6, fps=6))
    url = thumbnail(tmp_path / "board.mp4")
    assert url is not None
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    small = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert small.shape[1] == 160
    assert small.std() < 12  # the board itself has 127
    assert thumbnail(tmp_path / "none.mp4") is None


def test_the_command_writes_page_and_table(runs: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["eval", "compare", str(runs), "--out", str(tmp_path / "c.html"), "--markdown", str(tmp_path / "c.md"),
              "--draws", "20", "--no-pictures"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "SafeWatch-Bench, real videos" in (tmp_path / "c.md").read_text()
    assert (tmp_path / "c.html").stat().st_size > 10_000
