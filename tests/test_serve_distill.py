"""`guard distill` from the command line, and its manifest in the hands of the commands that come after it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import cli
from serve.failures import Exit
from slow_path import rendered_files
from slow_path.rendered import Clip, Event
from slow_path.traces import read
from tests.slow_path_server import honest
from tests.test_slow_path_vllm_server import serving

RULES = ("custom.red_circle", "custom.blue_square")
SHAPES = {"red": "circle", "blue": "square"}
SPLITS = ("train",) * 12 + ("val",) * 6 + ("test",) * 3
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def clip(seed: int, colour: str | None) -> Clip:
    centre, radius = ((0.3, 0.4), 0.25) if colour == "red" else ((0.65, 0.6), 0.35)
    event = Event(
        colour=colour or "red", shape=SHAPES.get(colour or "", ""), first=1, last=3, centre=centre, radius=radius
    )
    return Clip(seed=seed, times_seconds=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5), events=(event,) if colour else ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips to choose from, 6 to ask about, 3 to test: red circles, blue squares, and neither."""
    home = tmp_path_factory.mktemp("shapes")
    colours = ("red", "blue", None)
    clips = [(f"clip{i:02d}.mp4", clip(i, colours[i % 3]), split) for i, split in enumerate(SPLITS)]
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


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_kept_manifest_trains_the_fast_path_and_feeds_the_traces_as_it_is(
    guard: Any, folder: Path, tmp_path: Path
) -> None:
    asked = ("distill", folder / "manifest.jsonl", "--keep", "50%", "--out", tmp_path / "run", "--no-dedup")
    code, shown, err = guard(*asked, "--json", "--progress", "none")
    assert code == Exit.OK, err
    facts = json.loads(shown)
    assert (facts["kept"], facts["asked"], facts["pool"]) == (6, 6, 12)
    assert facts["picks"] == {"benign": 2, "custom.blue_square": 2, "custom.red_circle": 2}
    selected = tmp_path / "run" / "selected.jsonl"
    kept = {Path(line["path"]).name for line in lines(selected) if line["split"] == "train"}
    assert len(kept) == 6

    small = ("--epochs", 1, "--passes", 1, "--workers", 1, "--encoder-setting", "width=8", "--progress", "none")
    rules = [part for rule in RULES for part in ("--category", rule)]
    code, shown, err = guard(
        "train", "fast", "--manifest", selected, "--out", tmp_path / "model", *rules, *small, "--json"
    )
    assert code == Exit.OK, err
    counts = json.loads(shown)["validation"][RULES[0]]["auroc"]
    assert (counts["positives"], counts["negatives"]) == (2, 4), "the rows of val went along"

    with serving(lambda _number, body: honest(body), models=["teacher"]) as double:
        code, shown, err = guard(
            "traces", selected, "--slow", double.url, "--out", tmp_path / "traces.jsonl", "--policy",
            folder / "policy.yaml", "--json", "--progress", "none",
        )  # fmt: skip
    assert code == Exit.OK, err
    assert json.loads(shown)["kept"] == 6
    assert {Path(trace.id).name for trace in read(tmp_path / "traces.jsonl")} == kept


@pytest.fixture
def queue(guard: Any, tmp_path: Path) -> Path:
    """A queue of an audit over given embeddings, in which one of 45 labels is plainly wrong."""
    kinds = np.arange(54) % 3
    points = np.eye(3)[kinds] * 6 + np.random.default_rng(0).normal(size=(54, 3))
    names = [f"clip{i:02d}.mp4" for i in range(54)]
    np.savez(tmp_path / "points.npz", ids=names, embeddings=points.astype(np.float32))
    rows = [
        {"path": name, "labels": [*RULES, ""][k : k + 1], "split": "train" if i < 45 else "val", "group": name}
        for i, (name, k) in enumerate(zip(names, kinds.tolist(), strict=True))
    ]
    rows = [{**row, "labels": [label for label in row["labels"] if label], "sha256": row["path"]} for row in rows]
    rows[0]["labels"] = [RULES[1]]
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--embeddings", tmp_path / "points.npz", "--progress", "none", "--json")
    code, shown, err = guard("distill", "audit", tmp_path / "wrong.jsonl", "--out", tmp_path / "queue", *given)
    assert code == Exit.OK, err
    assert json.loads(shown)["rows"] == 45
    return tmp_path / "queue"


def test_doubts_are_listed_decided_and_taken_back(guard: Any, queue: Path) -> None:
    code, shown, _ = guard("distill", "review", queue, "--json")
    first = json.loads(shown)["pending"]
    assert code == Exit.OK
    assert (first[0]["id"], first[0]["label"], first[0]["suggested"]) == ("clip00.mp4", RULES[1], RULES[0])
    decide = ("distill", "review", queue, "--clip", "clip00.mp4", "--action")
    code, shown, _ = guard(*decide, "relabel", "--label", RULES[0], "--by", "ann", "--json")
    assert json.loads(shown)["decided"][0]["labels"] == [RULES[0]]
    code, shown, _ = guard(*decide, "undo")
    assert (code, shown.split()[0]) == (Exit.OK, str(len(first)))
    for arguments, why in (
        ((*decide, "delete"), "--action takes keep, relabel, drop, undo; got 'delete'"),
        ((*decide, "relabel"), "relabel needs the right labels"),
        ((*decide, "relabel", "--label", "violence.fightin"), "Did you mean 'violence.fighting'"),
        (("distill", "review", queue, "--clip", "clip00.mp4"), "--clip and --action go together"),
        (("distill", "review", queue, "--clip", "x.mp4", "--action", "keep"), "'x.mp4' is not in the queue"),
        (("distill", "review", queue / "x"), "holds no queue.jsonl"),
    ):
        code, _, err = guard(*arguments)
        assert code == Exit.USAGE, arguments
        assert why in err


def test_a_run_goes_by_the_decisions_and_annotate_picks(guard: Any, queue: Path, tmp_path: Path) -> None:
    given = ("--embeddings", tmp_path / "points.npz", "--progress", "none", "--json")
    guard("distill", "review", queue, "--clip", "clip00.mp4", "--action", "relabel", "--label", RULES[0])
    asked = ("distill", tmp_path / "wrong.jsonl", "--keep", "100%", "--no-decode", "--decisions", queue, *given)
    code, shown, err = guard(*asked, "--out", tmp_path / "run", "--drop-doubtful")
    assert code == Exit.OK, err
    assert json.loads(shown)["picks"][RULES[0]] == 15
    rows = {line["id"]: line for line in lines(tmp_path / "run/selected.jsonl")}
    assert (rows["clip00.mp4"]["labels"], rows["clip00.mp4"]["labels_before_audit"]) == ([RULES[0]], [RULES[1]])
    code, shown, _ = guard(*asked[:-1], "--out", tmp_path / "plain")
    assert "guard distill review" in shown, "who has doubtful labels is told where they wait"
    code, _, err = guard(*asked, "--out", tmp_path / "new", "--drop-doubtful", "--no-audit")
    assert code == Exit.USAGE
    assert "--drop-doubtful needs the audit" in err
    code, shown, err = guard(
        "distill", "annotate", tmp_path / "wrong.jsonl", "--count", 3, "--out", tmp_path / "picks", *given
    )
    assert code == Exit.OK, err
    assert [pick["pick"] for pick in json.loads(shown)["picks"]] == [1, 2, 3]
