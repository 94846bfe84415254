"""What stops or changes a run: leaks, copies, decisions, empty label sets. On given embeddings, without any video."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_filter import guards
from data_filter.audit import AuditConfig
from data_filter.ensemble import HeadSpec
from data_filter.look import DistillConfig
from data_filter.review import Decision, ReviewQueue
from data_filter.run import Outcome, distill, run_audit
from data_filter.samples import blobs
from data_filter.types import FeatureView
from data_filter.warmup import WarmUpConfig, describe, warm_up
from guard import plugins
from guard.errors import InvalidManifest, UsageError

LABELS = ("violence.fighting", "illegal.fire", "")
CONFIG = DistillConfig(
    keep="50%",
    decode=False,
    warm_up=WarmUpConfig(
        head=HeadSpec(hidden=(8,), steps=80, checkpoints=2, learning_rate=0.02), curvature_rows=30, folds=3
    ),
    audit=None,
)


class Home:
    """A manifest of clips that exist by hash and embedding alone: 24 to train, 9 to ask, 6 to test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[dict[str, Any]] = []
        self.points: dict[str, np.ndarray] = {}
        for split, count in (("train", 24), ("val", 9), ("test", 6)):
            for i in range(count):
                self.add(f"{split}-{i:02d}.mp4", LABELS[i % 3], split)

    def add(self, name: str, label: str, split: str = "train", *, like: str = "", **more: Any) -> None:
        """Add a clip whose embedding shows `like`, or its own label."""
        rng = np.random.default_rng(len(self.lines))
        self.points[name] = rng.normal(size=6) + 6 * np.eye(6)[LABELS.index(like or label)]
        line = {"path": name, "labels": [label] if label else [], "split": split, "group": name, "sha256": name}
        self.lines.append({**line, **more})

    def run(self, out: str = "run", config: DistillConfig = CONFIG, **more: Any) -> Outcome:
        return distill(self.manifest(), self.folder / out, config, embeddings=self.embeddings(), **more)

    def manifest(self) -> Path:
        path = self.folder / "manifest.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        return path

    def embeddings(self) -> Path:
        path = self.folder / "points.npz"
        names = [name + _cut(line) for name, line in zip(self.points, self.lines, strict=True)]
        np.savez(path, ids=np.array(names), embeddings=np.stack(list(self.points.values())).astype(np.float32))
        return path

    def left_out(self, out: str = "run") -> dict[str, str]:
        lines = (self.folder / out / "left_out.jsonl").read_text().splitlines()
        return {line["id"]: line["reason"] for line in map(json.loads, lines)}

    def selected(self, out: str = "run") -> dict[str, dict[str, Any]]:
        lines = (self.folder / out / "selected.jsonl").read_text().splitlines()
        return {line["id"]: line for line in map(json.loads, lines)}


def _cut(line: dict[str, Any]) -> str:
    return f"#{line['start_s']:g}-{line['end_s']:g}" if "start_s" in line else ""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_training_row_from_the_file_of_a_test_row_or_query_is_left_out(home: Home) -> None:
    """Also where it is another cut of that file under another group."""
    home.add("cut.mp4", "illegal.fire", sha256="test-01.mp4", start_s=5.0, end_s=9.0)
    home.add("asked.mp4", "illegal.fire", sha256="val-01.mp4")
    outcome = home.run()
    assert outcome.dropped == {"is a query": 1, "overlaps with the test split": 1}
    left = home.left_out()
    assert left["cut.mp4#5-9"] == "overlaps with the test split: test-01.mp4 (content)"
    assert left["asked.mp4"] == "is a query: val-01.mp4 is the same file"
    assert not {"cut.mp4#5-9", "asked.mp4"} & set(home.selected())


def test_labels_of_leaking_rows_reach_no_score(home: Home) -> None:
    """The head is trained after they are gone: whatever they are labelled, every score stays the same."""
    home.add("leak.mp4", "illegal.fire", sha256="test-01.mp4")
    home.run("a")
    home.lines[-1]["labels"] = ["violence.fighting"]
    home.run("b")
    scores = [(home.folder / run / "scores.parquet").read_bytes() for run in "ab"]
    assert scores[0] == scores[1]
    home.lines[0]["labels"] = ["illegal.fire"]  # the test can fail: a label of the pool does change them
    home.run("c")
    assert (home.folder / "c/scores.parquet").read_bytes() != scores[0]


def test_equal_files_are_copies_without_decoding_and_cuts_are_not(home: Home) -> None:
    home.add("copy.mp4", "", sha256="train-02.mp4")
    home.add("argued.mp4", "illegal.fire", sha256="train-00.mp4")
    for start in (0, 10, 11):
        home.add(f"long-{start}.mp4", "", sha256="long", start_s=float(start), end_s=start + 10.0)
    outcome = home.run()
    assert outcome.dropped == {"near-duplicate": 1, "near-duplicates with different labels": 2}
    assert set(home.left_out()) == {"copy.mp4", "argued.mp4", "train-00.mp4"}


def test_a_label_set_of_which_nothing_is_left_is_said(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.add("smoke.mp4", "illegal.fire", labels=["illegal.fire.smoke"], sha256="test-01.mp4")
    assert home.run("leak").emptied == {}, "it is no longer in the pool at all, and left_out.jsonl says so"
    home.lines[-1]["sha256"] = "train-00.mp4"  # a fight: the labels disagree, so both go
    outcome = home.run()
    assert outcome.emptied == {"illegal.fire.smoke": 1}
    assert "Nothing was kept of <b>illegal.fire.smoke</b>" in (home.folder / "run/report.html").read_text()


def test_gradients_that_were_damaged_between_runs_are_not_scored(home: Home) -> None:
    home.run()
    shard = next((home.folder / "run/gradients").rglob("rows-00000.npy"))
    shard.write_bytes(shard.read_bytes()[:-2] + b"xx")
    with pytest.raises(InvalidManifest, match=r"damaged: ckpt-0\d/rows-00000\.npy: content differs"):
        home.run()


def test_a_budget_that_cannot_be_met_is_said(home: Home) -> None:
    for i in range(6):
        home.add(f"copy-{i}.mp4", "", sha256="train-02.mp4")
    outcome = home.run(config=replace(CONFIG, keep="100%"))
    assert (outcome.kept, outcome.asked, outcome.pool) == (24, 30, 30)


def test_a_refused_run_says_so_in_its_folder(home: Home) -> None:
    with pytest.raises(UsageError, match="floor of 5"):
        home.run(config=replace(CONFIG, keep="6", selector="top_k", floor=5))
    held = json.loads((home.folder / "run/run.json").read_text())
    assert (held["status"], held["code"]) == ("refused", "usage")
    assert "floor of 5" in held["message"]
    assert not (home.folder / "run/selected.jsonl").exists()


def test_what_a_person_decided_is_gone_by(home: Home) -> None:
    """Three wrong labels: one is put right, one is kept after all, one clip is dropped."""
    for i in range(3):
        home.add(f"wrong-{i}.mp4", "violence.fighting", like="illegal.fire")
    settings = replace(CONFIG, keep="100%", audit=AuditConfig(k=5, most=0.3, most_of_label=0.5), drop_doubtful=True)
    home.run("first", settings)
    home.run("lenient", replace(settings, drop_doubtful=False))
    assert {f"wrong-{i}.mp4" for i in range(3)} <= set(home.selected("lenient")), "doubt alone leaves nothing out"
    queue = ReviewQueue(home.folder / "first/audit")
    doubted = {f["id"]: f["suggested"] for f in queue.pending()}
    assert {f"wrong-{i}.mp4": "illegal.fire" for i in range(3)}.items() <= doubted.items()
    assert not {f"wrong-{i}.mp4" for i in range(3)} & set(home.selected("first"))
    queue.decide(Decision(id="wrong-0.mp4", action="relabel", labels=("illegal.fire",)))
    queue.decide(Decision(id="wrong-1.mp4", action="keep"))
    queue.decide(Decision(id="wrong-2.mp4", action="drop", by="ann"))
    home.run("second", settings, decisions=home.folder / "first/audit")
    kept = home.selected("second")
    assert (kept["wrong-0.mp4"]["labels"], kept["wrong-1.mp4"]["labels"]) == (["illegal.fire"], ["violence.fighting"])
    assert kept["wrong-0.mp4"]["labels_before_audit"] == ["violence.fighting"]
    assert home.left_out("second")["wrong-2.mp4"] == "dropped by a person: ann"
    assert home.lines[-3]["labels"] == ["violence.fighting"], "the manifest itself is not written"


def test_the_audit_alone_leaves_a_finished_folder(home: Home) -> None:
    findings = run_audit(home.manifest(), home.folder / "queue", CONFIG, embeddings=home.embeddings())
    held = json.loads((home.folder / "queue/run.json").read_text())
    assert (held["status"], held["rows"]) == ("done", 24)
    assert held["doubted"] == sum(f.doubted for f in findings) == len(ReviewQueue(home.folder / "queue").pending())


def test_a_clip_named_twice_and_a_missing_file_are_refused(home: Home) -> None:
    home.lines.append(home.lines[0])
    with pytest.raises(UsageError, match=r"names 1 clips more than once, such as 'train-00\.mp4'"):
        distill(home.manifest(), home.folder / "run", CONFIG)
    home.lines.pop()
    with pytest.raises(InvalidManifest, match=r"decisions\.jsonl is not there"):
        home.run(decisions=home.folder)
    (home.folder / "run/run.json").parent.mkdir(exist_ok=True)
    (home.folder / "run/run.json").write_text("{")
    with pytest.raises(InvalidManifest, match=r"run\.json is no JSON"):
        home.run()


def test_the_sign_check_reads_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted rows are joined to ordinary ones in memory; 200,000 of those would not fit."""
    monkeypatch.setattr(guards, "SIGN_ROWS", 50)
    data = blobs(rows=300, queries=8)
    head = warm_up(data.train, WarmUpConfig(folds=0))
    train, queries = describe(head, data.train), describe(head, data.queries, training=False)
    seen: list[int] = []

    class Counting:
        name, signed, uses_queries = "counting", True, True

        def score(self, rows: FeatureView, asked: FeatureView | None = None):
            seen.append(len(rows))
            return plugins.load("scorer", "grad_cos").score(rows, asked)

    assert guards.sign_check(Counting(), train, queries, lambda view: describe(head, view)).passed
    assert seen == [50, 58, 58]
