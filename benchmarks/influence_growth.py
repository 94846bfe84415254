"""Growth from 1,000 to 200,000 rows on synthetic gradients: store, dedup, score, select; 1 against 2 workers; kill -9
and resume.

Usage: python benchmarks/influence_growth.py OUT.json [rows ...]
       python benchmarks/influence_growth.py memory OUT.json [rows ...]   (adds what scoring takes in memory)
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from data_filter import dedup
from data_filter.shards import Shard
from data_filter.store import GradientStore, StoreSpec, Task, hash_ids
from data_filter.types import Checkpoint, FeatureView, GradientView, Layer
from guard import plugins

WIDTH, D_OUT, D_IN, EMBED, GROUPS, QUERIES = 1024, 16, 64, 64, 6, 600
KEEP = 0.024


def spec(total: int) -> StoreSpec:
    return StoreSpec(
        ids_sha256=hash_ids(names(total)),
        total=total,
        layers=(Layer(name="head", d_out=D_OUT, d_in=D_IN, start=0),),
        checkpoints=("synthetic",),
        weights=(1.0,),
        loss="sigmoid",
        shard_rows=4096,
    )


def names(total: int) -> tuple[str, ...]:
    return tuple(f"clip-{i:06d}" for i in range(total))


def compute(task: Task) -> Shard:
    """Rank-one gradients as a linear layer gives them; a pure function of the shard."""
    rng = np.random.default_rng([7, task.shard])
    rows = task.stop - task.start
    back = rng.normal(size=(rows, D_OUT)).astype(np.float32) * rng.lognormal(size=(rows, 1)).astype(np.float32)
    rows_in = rng.normal(size=(rows, D_IN)).astype(np.float32)
    grads = np.einsum("bo,bi->boi", back, rows_in).reshape(rows, WIDTH)
    ids = tuple(f"clip-{i:06d}" for i in range(task.start, task.stop))
    return Shard(ids=ids, rows=grads, aux={"loss": np.abs(back[:, 0]), "margin": back[:, 1]})


def view(
    total: int, gradients: GradientView | None, seed: int, aux: dict[str, np.ndarray] | None = None
) -> FeatureView:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, GROUPS, total)
    targets = np.eye(GROUPS, dtype=np.float32)[kinds][:, 1:]
    centre = np.random.default_rng(0).normal(size=(GROUPS, EMBED))
    points = (centre[kinds] + rng.normal(size=(total, EMBED))).astype(np.float32)
    return FeatureView(
        ids=names(total) if seed == 1 else tuple(f"q{i}" for i in range(total)),
        targets=targets,
        categories=tuple(f"c{i}" for i in range(1, GROUPS)),
        embeddings=points,
        gradients=gradients,
        aux=aux or {},
    )


def child(folder: Path, total: int) -> None:
    """One size in its own process, so that peak memory is its own."""
    import resource

    out: dict[str, float] = {"rows": total}

    def timed(name: str, start: float) -> None:
        out[name] = round(time.process_time() - start, 3)

    start = time.process_time()
    store = GradientStore(folder, spec(total))
    store.fill(compute)
    timed("store", start)
    out["bytes_per_row"] = round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / total, 1)
    hashes = np.random.default_rng(3).integers(0, 2**64, size=(total, 6, 2), dtype=np.uint64)
    hashes[1::100] = hashes[::100][: len(hashes[1::100])]  # one in a hundred is a copy
    start = time.process_time()
    found = dedup.near_pairs(list(hashes))
    timed("dedup", start)
    assert len(found) == total // 100, "every copy, and no stranger"
    del hashes, found
    asked = compute(Task(kind="rows", checkpoint=0, shard=999_999, start=0, stop=QUERIES)).rows
    layers = spec(total).layers
    queries = view(QUERIES, GradientView(layers=layers, checkpoints=(Checkpoint(name="q", rows=asked),)), 2)
    aux = {name: store.aux(name) for name in ("loss", "margin", "norm")}
    pool = view(total, store.view(), 1, aux)
    import torch

    torch.set_num_threads(1)
    torch.linalg.cholesky(torch.eye(4, dtype=torch.float64))  # loading the library is no part of scoring
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = None
    for name in (
        "grad_dot",
        "grad_cos",
        "datainf",
        "fisher",
        "ekfac",
        "outlier_gradients",
        "representation",
        "knn_disagreement",
    ):
        start = time.process_time()
        values = plugins.load("scorer", name).score(pool, queries)
        timed(f"scorer {name}", start)
        scores = values if name == "grad_cos" else scores
    assert scores is not None
    budget = max(1, round(KEEP * total))
    for name in ("top_k", "quota", "bids", "round_robin", "facility_location", "fifa", "dealrec", "quad", "tarot"):
        settings = {"space": "embeddings"} if name == "tarot" else {}
        start = time.process_time()
        plugins.load("selector", name, **settings).select(scores, budget, pool=pool, queries=queries)
        timed(f"selector {name}", start)
    out["peak_mib_before_scoring"] = before // 1024
    out["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(out))


class Watch(threading.Thread):
    """Highest anonymous memory while it runs, above what there was: pages of the store that are mapped do not count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.peak, self.ended = anonymous_mib(), 0.0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.002):
            self.peak = max(self.peak, anonymous_mib() - self.before)


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def memory(folder: Path, total: int) -> None:
    """What each gradient scorer takes on top of the rows' own facts, scoring from shards on disk."""
    store = GradientStore(folder, spec(total))
    store.fill(compute)
    asked = compute(Task(kind="rows", checkpoint=0, shard=999_999, start=0, stop=QUERIES)).rows
    queries = view(QUERIES, GradientView(layers=spec(total).layers, checkpoints=(Checkpoint(name="q", rows=asked),)), 2)
    pool = view(total, store.view(), 1, {name: store.aux(name) for name in ("loss", "margin", "norm")})
    out: dict[str, float] = {"rows": total}
    for name in ("grad_dot", "grad_dot", "grad_cos", "datainf", "fisher", "ekfac", "outlier_gradients"):
        watch = Watch()
        watch.start()
        plugins.load("scorer", name).score(pool, queries)
        watch.ended.set()
        watch.join()
        out[name] = round(watch.peak, 1)  # the first call loads libraries, and is overwritten
    print(json.dumps(out))


def add_memory(out: Path, sizes: list[int]) -> None:
    rows = []
    for total in sizes:
        with tempfile.TemporaryDirectory() as home:
            text, _ = start_process("memory-child", Path(home) / "s", total).communicate()
            rows.append(json.loads(text.splitlines()[-1]))
            print(rows[-1], flush=True)
    content = json.loads(out.read_text("utf-8"))
    content["scorer_extra_mib"] = rows
    out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def worker(folder: Path, total: int, number: int, workers: int) -> None:
    GradientStore(folder, spec(total)).fill(compute, worker=number, workers=workers)


def start_process(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".tmp")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def kill_and_resume(home: Path, total: int) -> dict[str, object]:
    whole, killed = home / "whole", home / "killed"
    GradientStore(whole, spec(total)).fill(compute)
    process = start_process("worker", killed, total, 0, 1)
    while len(list(killed.rglob("*.ok"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = GradientStore(killed, spec(total))
    left = sum(1 for _ in store.tasks())
    store.fill(compute)
    asked = compute(Task(kind="rows", checkpoint=0, shard=999_999, start=0, stop=QUERIES)).rows
    queries = view(QUERIES, GradientView(layers=spec(total).layers, checkpoints=(Checkpoint(name="q", rows=asked),)), 2)
    scores = [
        plugins.load("scorer", "fisher").score(view(total, GradientStore.open(f).view(), 1), queries).values.tobytes()
        for f in (whole, killed)
    ]
    return {
        "rows": total,
        "shards_left_after_kill": left,
        "store_bytes_equal": digest(whole) == digest(killed),
        "score_bytes_equal": scores[0] == scores[1],
    }


def speed_up(home: Path, total: int) -> dict[str, float]:
    seconds = {}
    for workers in (1, 2):
        folder = home / f"workers{workers}"
        start = time.perf_counter()
        processes = [start_process("worker", folder, total, n, workers) for n in range(workers)]
        assert all(p.wait() == 0 for p in processes)
        seconds[workers] = time.perf_counter() - start
    return {
        "rows": total,
        "seconds_1": round(seconds[1], 2),
        "seconds_2": round(seconds[2], 2),
        "ratio": round(seconds[1] / seconds[2], 2),
    }


def main(out: Path, sizes: list[int]) -> None:
    rows = []
    for total in sizes:
        with tempfile.TemporaryDirectory() as home:
            process = start_process("child", Path(home) / "s", total)
            text, _ = process.communicate()
            rows.append(json.loads(text.splitlines()[-1]))
            print(rows[-1], flush=True)
    with tempfile.TemporaryDirectory() as home:
        killed = kill_and_resume(Path(home), 60_000)
        workers = speed_up(Path(home), 60_000)
    fitted = {}
    # below some ten thousand rows fixed costs hide the growth
    large = [r for r in rows if r["rows"] >= 10_000]
    for name in rows[0]:
        if name.startswith(("scorer", "selector", "store", "dedup")):
            x = np.log([r["rows"] for r in large])
            y = np.log([max(r[name], 1e-4) for r in large])
            fitted[name] = round(float(np.polyfit(x, y, 1)[0]), 3)
    content = {
        "what": f"synthetic gradients, K={WIDTH}, float16 on disk, {QUERIES} queries, {GROUPS} groups, keep {KEEP:.1%}",
        "machine": "2 cores x86-64, one thread; seconds are processor seconds, the machine was shared",
        "python": platform.python_version(),
        "sizes": rows,
        "fitted_exponent_from_10k_rows": fitted,
        "kill_and_resume": killed,
        "workers": workers,
    }
    out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in content.items() if k != "sizes"}, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "memory-child":
        memory(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "memory":
        add_memory(Path(sys.argv[2]), [int(a) for a in sys.argv[3:]] or [10_000, 50_000, 200_000])
    elif sys.argv[1] == "worker":
        worker(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        main(Path(sys.argv[1]), [int(a) for a in sys.argv[2:]] or [1_000, 10_000, 50_000, 200_000])
