"""The whole way: a manifest of real (small, made) videos in, a kept manifest out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from data_filter import manifest, scorefile
from data_filter.annotate_run import run_annotate
from data_filter.clips import ClipSettings
from data_filter.ensemble import HeadSpec
from data_filter.look import DistillConfig
from data_filter.run import distill, run_audit
from data_filter.warmup import WarmUpConfig
from fast_path import dataset
from guard.errors import InvalidManifest, ResumeMismatch, UsageError

LABELS: dict[str, list[str]] = {"fight": ["violence.fighting"], "fire": ["illegal.fire"], "calm": []}
CONFIG = DistillConfig(
    keep="50%",
    clips=ClipSettings(encoder_settings={"untrained_seed": 0}, min_bursts=2, gap_seconds=1.0),
    warm_up=WarmUpConfig(head=HeadSpec(hidden=(8,), steps=60, checkpoints=2), curvature_rows=30, folds=3),
    audit=None,
)


def _movie(path: Path, kind: str, seed: int) -> None:
    """Fights shake, fires flicker red, calm clips drift; 12 frames."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:128]
    back = 60 + 60 * np.sin(x / rng.uniform(6, 30) + rng.uniform(0, 6)) * np.sin(y / rng.uniform(6, 30))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "28", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        cx, cy = rng.uniform(30, 98), rng.uniform(30, 66)
        for t in range(12):
            picture = np.repeat(back[..., None], 3, axis=2)
            shake = rng.normal(0, 12, 2) if kind == "fight" else np.array([t * 0.8, 0.0])
            blob = np.exp(-((x - cx - shake[0]) ** 2 + (y - cy - shake[1]) ** 2) / 200)[..., None]
            colour = np.array([255, 90, 10]) * rng.uniform(0.5, 1) if kind == "fire" else np.array([200, 200, 210])
            frame = (picture * (1 - blob) + colour * blob).clip(0, 255).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 training clips, 6 queries, 3 test clips."""
    home = tmp_path_factory.mktemp("clips")
    lines = []
    for split, count in (("train", 6), ("val", 2), ("test", 1)):
        for kind, labels in LABELS.items():
            for i in range(count):
                name = f"{split}-{kind}-{i}.mp4"
                _movie(home / name, kind, seed=len(lines))
                lines.append({"path": name, "labels": labels, "split": split, "group": name, "licence": "made here"})
    _save(home, lines)
    return home


def _save(home: Path, lines: list[dict[str, object]], name: str = "manifest.jsonl") -> Path:
    (home / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home / name


def _lines(home: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (home / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    distill(folder / "manifest.jsonl", folder / "run", CONFIG, cache=folder / "cache")
    return folder / "run"


def test_the_kept_manifest_is_a_manifest_that_training_reads(done: Path, folder: Path) -> None:
    rows = dataset.read_manifest(done / "selected.jsonl")
    train = [row for row in rows if row.split == "train"]
    assert len(train) == 9
    assert all(row.path.exists() for row in rows)
    assert [row.split for row in rows].count("val") == 6
    assert [row.split for row in rows].count("test") == 3
    assert sorted({label for row in train for label in row.labels}) == ["illegal.fire", "violence.fighting"]
    assert {row.extra["licence"] for row in rows} == {"made here"}
    assert [row.extra["keep_rank"] for row in train] == list(range(1, 10))
    assert all(row.extra["keep_reason"] for row in train)


def test_every_row_has_its_scores_and_its_fate(done: Path) -> None:
    import pyarrow.parquet as pq

    scores = scorefile.read(done / "scores.parquet")
    assert len(scores.ids) == 18
    assert set(scores.columns) == {"benign", "violence.fighting", "illegal.fire"}
    table = pq.read_table(done / "scores.parquet").to_pydict()
    assert sorted(r for r in table["kept_rank"] if r) == list(range(1, 10))
    assert all(table["reason"])


def test_the_run_says_what_it_did(done: Path) -> None:
    run = json.loads((done / "run.json").read_text())
    assert run["status"] == "done"
    assert run["outcome"]["kept"] == 9
    assert sum(run["outcome"]["picks"].values()) == 9
    assert run["outcome"]["diversity"] >= 1
    assert run["sign_check"]["scorer"] == "grad_cos"
    assert run["config"]["keep"] == "50%"
    assert set(run["seconds"]) == {"look", "dedup", "gradients", "audit", "score", "select"}


def test_the_report_shows_pictures_and_hides_nothing(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 18
    for text in ("Kept <b>9</b> of 18", "violence.fighting", "illegal.fire", "benign", "<svg"):
        assert text in page
    assert "<script" not in page


def test_a_resumed_run_gives_the_same_bytes(done: Path, folder: Path, tmp_path: Path) -> None:
    """As after a kill: some gradient shards and all results are gone, looked-at clips are there."""
    again = tmp_path / "again"
    shutil.copytree(done, again)
    for name in ("scores.parquet", "selected.jsonl", "report.html"):
        (again / name).unlink()
    for path in (again / "gradients").rglob("*.ok"):
        path.unlink()
    distill(folder / "manifest.jsonl", again, CONFIG, cache=folder / "cache")
    assert (again / "scores.parquet").read_bytes() == (done / "scores.parquet").read_bytes()
    kept = [[json.loads(line)["id"] for line in (f / "selected.jsonl").read_text().splitlines()] for f in (again, done)]
    assert kept[0] == kept[1]


def test_two_workers_give_what_one_gives(done: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "torn.mp4").write_bytes(b"not a video at all")
    line = {"path": "torn.mp4", "labels": [], "split": "train", "group": "torn"}
    path = _save(folder, [*_lines(folder), line], "torn.jsonl")
    outcomes = [
        distill(path, tmp_path / str(workers), replace(CONFIG, workers=workers), cache=cache)
        for workers, cache in ((1, folder / "cache"), (2, None))
    ]
    assert [outcome.failures for outcome in outcomes] == [1, 1]
    scores = [(tmp_path / str(workers) / "scores.parquet").read_bytes() for workers in (1, 2)]
    assert scores[0] == scores[1]


KILLED = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("flow", {here!r})
flow = importlib.util.module_from_spec(spec)
sys.modules["flow"] = flow
spec.loader.exec_module(flow)
def wait(stage, done, total):
    import time
    time.sleep(0.1)
flow.distill(Path({manifest!r}), Path({out!r}), flow.CONFIG, progress=wait)
"""


def test_kill_nine_and_resume_give_the_same_scores(done: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    code = KILLED.format(here=__file__, manifest=str(folder / "manifest.jsonl"), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.npz"))) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= len(list(out.rglob("*.npz"))) < 27, "the kill came before or after the work"
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    assert not (out / "selected.jsonl").exists()
    distill(folder / "manifest.jsonl", out, CONFIG)
    assert (out / "scores.parquet").read_bytes() == (done / "scores.parquet").read_bytes()
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []


def test_other_settings_in_the_same_folder_are_refused(done: Path, folder: Path) -> None:
    with pytest.raises(ResumeMismatch, match="keep, scorer"):
        distill(folder / "manifest.jsonl", done, replace(CONFIG, keep="20%", scorer="fisher"))


def test_copies_are_dropped_and_disagreeing_copies_wait_for_a_person(folder: Path, tmp_path: Path) -> None:
    lines = _lines(folder)
    shutil.copy(folder / "train-fire-0.mp4", folder / "copy.mp4")
    shutil.copy(folder / "train-fight-0.mp4", folder / "argued.mp4")
    copies = [
        {"path": "copy.mp4", "labels": ["illegal.fire"], "split": "train", "group": "copy"},
        {"path": "argued.mp4", "labels": [], "split": "train", "group": "argued"},
    ]
    path = _save(folder, [*lines, *copies], "copies.jsonl")
    outcome = distill(path, tmp_path / "run", CONFIG, cache=folder / "cache")
    assert outcome.dropped == {"near-duplicate": 1, "near-duplicates with different labels": 2}
    ids = {json.loads(line)["id"] for line in (tmp_path / "run/selected.jsonl").read_text().splitlines()}
    assert not ids & {"copy.mp4", "argued.mp4", "train-fight-0.mp4"}


@pytest.mark.parametrize("how", ["content", "look"])
def test_queries_from_the_test_split_are_refused(folder: Path, tmp_path: Path, how: str) -> None:
    name = "test-fire-0.mp4"
    if how == "look":
        name = "reencoded.mp4"
        _reencode(folder / "test-fire-0.mp4", folder / name)
    asked = _save(
        folder, [{"path": name, "labels": ["illegal.fire"], "split": "q", "group": f"new {how}"}], f"{how}.jsonl"
    )
    with pytest.raises(UsageError, match=rf"1 of 1 queries overlap.*\({how}\)"):
        distill(folder / "manifest.jsonl", tmp_path / "run", CONFIG, queries=asked, cache=folder / "cache")


def _reencode(source: Path, target: Path) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream("libx264", rate=10, options={"crf": "36"})
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for frame in old.decode(video=0):
            for packet in stream.encode(frame.reformat(width=96, height=72)):
                new.mux(packet)
        for packet in stream.encode():
            new.mux(packet)


def test_a_group_under_its_floor_fails_the_run(folder: Path, tmp_path: Path) -> None:
    settings = replace(CONFIG, keep="3", selector="top_k", floor=2)
    with pytest.raises(UsageError, match="floor of 2"):
        distill(folder / "manifest.jsonl", tmp_path / "run", settings, cache=folder / "cache")


def test_given_embeddings_are_used_and_must_be_complete(folder: Path, tmp_path: Path) -> None:
    names = [str(line["path"]) for line in _lines(folder)]
    values = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    # the label is plain in the first column, so that the sign check has something to go by
    values[:, 0] += [6.0 * bool(line["labels"]) for line in _lines(folder)]
    np.savez(tmp_path / "some.npz", ids=np.array(names[:-4]), embeddings=values[:-4])
    np.savez(tmp_path / "all.npz", ids=np.array(names), embeddings=values)
    settings = replace(CONFIG, decode=False, scorer="representation")
    with pytest.raises(UsageError, match="lacks embeddings for 1 of 6 rows"):
        distill(folder / "manifest.jsonl", tmp_path / "a", settings, embeddings=tmp_path / "some.npz")
    outcome = distill(folder / "manifest.jsonl", tmp_path / "b", settings, embeddings=tmp_path / "all.npz")
    assert outcome.kept == 9
    with pytest.raises(UsageError, match="embeddings must be given"):
        distill(folder / "manifest.jsonl", tmp_path / "c", settings)


def test_a_clip_that_cannot_be_read_is_listed_and_not_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    line = {"path": "broken.mp4", "labels": [], "split": "train", "group": "broken"}
    outcome = distill(
        _save(folder, [*_lines(folder), line], "broken.jsonl"), tmp_path / "run", CONFIG, cache=folder / "cache"
    )
    assert (outcome.failures, outcome.pool, outcome.kept) == (1, 19, 10)
    assert "broken.mp4" in (tmp_path / "run/report.html").read_text()
    assert "broken.mp4" not in (tmp_path / "run/selected.jsonl").read_text()


def test_audit_alone_writes_the_queue(folder: Path, tmp_path: Path) -> None:
    from data_filter.audit import AuditConfig

    findings = run_audit(
        folder / "manifest.jsonl", tmp_path / "audit", replace(CONFIG, audit=AuditConfig(k=3)), cache=folder / "cache"
    )
    assert len(findings) == 18
    assert (tmp_path / "audit/queue.jsonl").exists()


def test_annotation_picks_are_manifest_lines_without_test_clips(folder: Path, tmp_path: Path) -> None:
    picks = run_annotate(folder / "manifest.jsonl", tmp_path / "pick", 5, settings=CONFIG, cache=folder / "cache")
    rows = dataset.read_manifest(tmp_path / "pick/annotate.jsonl")
    assert len(rows) == len(picks) == 5
    assert all(row.path.exists() and row.split != "test" for row in rows)
    assert [p["pick"] for p in picks] == [1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match=r"\[1, 24\]; got 25"):
        run_annotate(folder / "manifest.jsonl", tmp_path / "pick", 25, settings=CONFIG, cache=folder / "cache")


@pytest.mark.parametrize(
    ("text", "count"), [("2.4%", 24), ("0.024", 24), ("100%", 1000), ("120", 120), ("0.01%", 1), ("1%", 10)]
)
def test_keep_means_what_it_says(text: str, count: int) -> None:
    assert manifest.parse_keep(text, 1000) == count


@pytest.mark.parametrize("text", ["", "-5%", "0", "200%", "1001", "2.5", "many", "5 %%"])
def test_keep_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"keep|count"):
        manifest.parse_keep(text, 1000)


def test_manifests_without_training_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    path = _save(tmp_path, [{"path": "a.mp4", "labels": [], "split": "val", "group": "a"}])
    with pytest.raises(UsageError, match="no rows of the split 'train'"):
        manifest.read(path)
    with pytest.raises(InvalidManifest, match=r"Did you mean 'illegal\.fire'"):
        manifest.read(_save(tmp_path, [{"path": "a.mp4", "labels": ["ilegal.fire"], "split": "train", "group": "a"}]))


def test_without_queries_nothing_is_begun(folder: Path, tmp_path: Path) -> None:
    rows = _save(folder, [line for line in _lines(folder) if line["split"] != "val"], "no-val.jsonl")
    with pytest.raises(UsageError, match="no rows of the split 'val'") as caught:
        distill(rows, tmp_path / "run", CONFIG, cache=folder / "cache")
    assert "--queries FILE" in caught.value.hint
    assert not (tmp_path / "run").exists()
