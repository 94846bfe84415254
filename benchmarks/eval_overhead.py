"""What `guard eval` costs beyond `guard scan` of the same clips.

    python benchmarks/eval_overhead.py --data DIR [--clips 30] [--runs 3]

`DIR` holds `manifest.jsonl` and the clips. Both judge the same clips under the same policy with one decoder process, in
turn, each into a fresh directory; evaluation reads the labels, answers, writes its run and computes every metric with
1,000 bootstrap draws. Counted are CPU seconds of the process and its decoders; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from eval.benchmarks import manifest
from eval.runner import RunRequest, chosen, run
from eval.score import Scoring, score
from eval.systems import fast_path
from eval.types import Benchmark
from guard.api import Guard
from guard.config import load_settings
from serve.progress import make_progress
from serve.scan import ScanRequest, run_scan


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    return sum(os.times()[:4])


def scan(benchmark: Benchmark, paths: tuple[str, ...], out: Path) -> None:
    with Guard.load(load_settings(workers=1), policy=benchmark.policies[""]) as guard, make_progress("none") as display:
        run_scan(guard, ScanRequest(paths=(), literal=paths, out=out), display)


def evaluate(options: argparse.Namespace, out: Path) -> dict[str, float]:
    """Return CPU seconds of reading, answering and scoring."""
    marks = [cpu_seconds()]
    benchmark = load(options)
    marks.append(cpu_seconds())
    run(benchmark, fast_path.build(fast_path.Config(workers=1)), RunRequest(out=out, limit=options.clips))
    marks.append(cpu_seconds())
    score(out, Scoring())
    marks.append(cpu_seconds())
    return dict(zip(("read", "answer", "score"), (b - a for a, b in itertools.pairwise(marks)), strict=True))


def load(options: argparse.Namespace) -> Benchmark:
    return manifest.build(
        manifest.Config(data=options.data, split=options.split, columns="violence.fighting,illegal.fire,accidents.road")
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    benchmark = load(options)
    request = RunRequest(out=Path(), limit=options.clips)
    paths = tuple(str(item.sample.path) for item in chosen(benchmark, request))
    folder = Path(tempfile.mkdtemp(prefix="guard-eval-overhead-"))
    scan(benchmark, paths[:1], folder / "warm")  # imports and weights, which both then have
    scans: list[float] = []
    evals: list[dict[str, float]] = []
    wall: dict[str, list[float]] = {"scan": [], "eval": []}
    for number in range(options.runs):
        started, before = time.monotonic(), cpu_seconds()
        scan(benchmark, paths, folder / f"scan{number}")
        scans.append(cpu_seconds() - before)
        wall["scan"].append(time.monotonic() - started)
        started = time.monotonic()
        evals.append(evaluate(options, folder / f"eval{number}"))
        wall["eval"].append(time.monotonic() - started)
    shutil.rmtree(folder)
    totals = [sum(one.values()) for one in evals]
    result = {
        "machine": f"{os.cpu_count()} cores {platform.machine()}, no GPU, one thread, others at work beside",
        "clips": len(paths),
        "runs": options.runs,
        "scan_cpu_seconds": round(statistics.median(scans), 2),
        "eval_cpu_seconds": round(statistics.median(totals), 2),
        "eval_parts_cpu_seconds": {k: round(statistics.median(one[k] for one in evals), 3) for k in evals[0]},
        "reading_and_scoring_to_scan": round(
            statistics.median(one["read"] + one["score"] for one in evals) / statistics.median(scans), 4
        ),
        "overhead": round(statistics.median(totals) / statistics.median(scans) - 1, 4),
        "overhead_by_run": [round(e / s - 1, 4) for e, s in zip(totals, scans, strict=True)],
        "wall_seconds": {name: [round(v, 1) for v in values] for name, values in wall.items()},
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
