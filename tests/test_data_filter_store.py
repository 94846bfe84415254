"""The gradient store: atomic, resumable, mergeable, checkable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_filter.shards import Shard
from data_filter.store import GradientStore, StoreSpec, Task, hash_ids
from data_filter.types import Layer
from guard.errors import InvalidManifest, ResumeMismatch, UsageError

IDS = tuple(f"clip-{i}" for i in range(23))
SPEC = StoreSpec(
    ids_sha256=hash_ids(IDS),
    total=len(IDS),
    layers=(Layer(name="a", d_out=2, d_in=3, start=0), Layer(name="b", d_out=1, d_in=2, start=6)),
    checkpoints=("w0", "w1"),
    weights=(0.1, 0.2),
    loss="softmax",
    curvature_total=5,
    shard_rows=4,
)


def _rows(kind: str, checkpoint: int) -> np.ndarray:
    rng = np.random.default_rng([checkpoint, len(kind)])
    sizes = 10.0 ** rng.uniform(-9, 6, size=(23, 1))  # gradients far outside the range of float16
    return (rng.normal(size=(23, 8)) * sizes).astype(np.float32)


def _compute(task: Task) -> Shard:
    at = slice(task.start, task.stop)
    rows = _rows(task.kind, task.checkpoint)[at]
    sums = {"inputs/a": np.ones((3, 3)), "outputs/a": np.eye(2), "inputs/b": np.ones((2, 2)), "outputs/b": np.eye(1)}
    return Shard(ids=IDS[at], rows=rows, aux={"loss": rows[:, 0]}, sums={k: v * len(rows) for k, v in sums.items()})


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_written_is_read_back_to_float16_precision(tmp_path: Path) -> None:
    store = GradientStore(tmp_path, SPEC)
    assert store.fill(_compute) == 2 * (6 + 2)
    view = store.view()
    for i, checkpoint in enumerate(view.checkpoints):
        expected = _rows("rows", i)
        norms = np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.all(np.abs(checkpoint.rows[slice(0, 23)] - expected) <= norms * 1e-3)
        order = np.array([22, 0, 7, 7, 3])
        np.testing.assert_array_equal(checkpoint.rows[order], checkpoint.rows[slice(0, 23)][order])
        np.testing.assert_array_equal(checkpoint.rows[slice(2, 19, 5)], checkpoint.rows[np.arange(2, 19, 5)])
        assert checkpoint.rows[slice(5, 5)].shape == (0, 8)
    assert view.last.curvature is not None
    assert view.last.curvature.shape == (5, 8)
    np.testing.assert_allclose(view.last.factors[0].inputs, np.ones((3, 3)))
    np.testing.assert_allclose(store.aux("loss")[:, 1], _rows("rows", 1)[:, 0])
    np.testing.assert_allclose(view.weights(), [1 / 3, 2 / 3])
    assert store.ids() == IDS
    assert store.verify() == []


def test_statistics_are_sums_over_shards(tmp_path: Path) -> None:
    store = GradientStore(tmp_path, SPEC)
    store.fill(_compute)
    sums = store.sums(0)
    assert sums["count"] == 23
    assert sums["square_norm"] == pytest.approx(np.square(_rows("rows", 0).astype(np.float64)).sum(), rel=1e-6)


def test_resume_computes_only_what_is_missing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    GradientStore(tmp_path / "a", SPEC).fill(_compute)
    broken = GradientStore(tmp_path / "b", SPEC)
    broken.fill(_compute)
    (tmp_path / "b/ckpt-01/rows-00002.ok").unlink()
    assert [(t.checkpoint, t.kind, t.shard) for t in broken.tasks()] == [(1, "rows", 2)]
    with pytest.raises(InvalidManifest, match="lacks 1 shard"):
        broken.view()
    assert GradientStore.open(tmp_path / "b").fill(_compute) == 1
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_two_workers_merge_to_what_one_makes(tmp_path: Path) -> None:
    whole = GradientStore(tmp_path / "whole", SPEC)
    whole.fill(_compute)
    parts = [GradientStore(tmp_path / f"part{w}", SPEC) for w in range(2)]
    for worker, part in enumerate(parts):
        part.fill(_compute, worker=worker, workers=2)
    assert parts[0].merge(parts[1]) == 8
    assert _bytes(tmp_path / "part0") == _bytes(tmp_path / "whole")


def test_another_spec_is_refused_and_named(tmp_path: Path) -> None:
    store = GradientStore(tmp_path / "a", SPEC)
    with pytest.raises(ResumeMismatch, match="projection_seed"):
        GradientStore(tmp_path / "a", replace(SPEC, projection_seed=1))
    other = GradientStore(tmp_path / "b", replace(SPEC, loss="sigmoid"))
    with pytest.raises(ResumeMismatch):
        store.merge(other)


@pytest.mark.parametrize("suffix", [".npy", ".aux.npy", ".sums.npz", ".ids.npy"])
def test_damage_is_found_and_not_merged(tmp_path: Path, suffix: str) -> None:
    store = GradientStore(tmp_path / "a", SPEC)
    store.fill(_compute)
    path = tmp_path / f"a/ckpt-00/rows-00001{suffix}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert store.verify() == [f"ckpt-00/rows-00001{suffix}: content differs from its hash"]
    with pytest.raises(InvalidManifest, match="damaged"):
        GradientStore(tmp_path / "b", SPEC).merge(store)


def test_wrong_order_of_ids_is_found(tmp_path: Path) -> None:
    store = GradientStore(tmp_path, replace(SPEC, ids_sha256=hash_ids(IDS[::-1])))
    store.fill(_compute)
    assert store.verify() == [f"ckpt-0{i}: the ids are not those of the manifest" for i in range(2)]


def test_rows_that_are_not_finite_or_not_asked_for_are_refused(tmp_path: Path) -> None:
    store = GradientStore(tmp_path, SPEC)
    task = next(store.tasks())
    with pytest.raises(ValueError, match="finite"):
        Shard(ids=IDS[:4], rows=np.full((4, 8), np.nan, dtype=np.float32))
    with pytest.raises(UsageError, match="shape"):
        store.write(task, Shard(ids=IDS[:3], rows=np.zeros((3, 8), dtype=np.float32)))


SLOW_FILL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_data_filter_store as t
def compute(task):
    time.sleep(0.05)
    return t._compute(task)
t.GradientStore(Path({folder!r}), t.SPEC).fill(compute)
"""


def test_kill_nine_and_resume_give_the_same_bytes(tmp_path: Path) -> None:
    GradientStore(tmp_path / "whole", SPEC).fill(_compute)
    folder = tmp_path / "killed"
    code = SLOW_FILL.format(tests=str(Path(__file__).parent), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    deadline = time.monotonic() + 30
    while len(list(folder.rglob("*.ok"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = GradientStore.open(folder)
    left = sum(1 for _ in store.tasks())
    assert 0 < left < 16, "the kill came before or after the work"
    assert store.fill(_compute) == left
    kept = {name: content for name, content in _bytes(folder).items() if not name.endswith(".tmp")}
    assert kept == _bytes(tmp_path / "whole")
