"""Run a system over a benchmark: every sample gets exactly one line, and a killed run goes on."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval.run_dir import EvalRun
from eval.system import System
from eval.types import Benchmark, Item, Key, Prediction, Sample
from guard._version import __version__
from guard.errors import UsageError


class Progress(Protocol):
    """Is called with the name of a stage, how much of it is done, and how much there is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take one step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """How a run is made."""

    out: Path
    limit: int | None = None
    """Take at most this many samples, drawn by group so that the mix stays."""
    seed: int = 0
    resume: bool = False
    retry_failed: bool = False
    missing: str = "skip"
    """`skip` measures what is there and marks the run partial; `error` refuses."""


def run(benchmark: Benchmark, system: System, request: RunRequest, progress: Progress | None = None) -> dict[str, Any]:
    """Answer every sample of `benchmark` and write the run directory; returns the content of `run.json`.

    The system is closed in the end, whatever happens.

    Raises:
        UsageError: nothing can be measured, or the run directory is taken.
        ResumeMismatch: the run to go on with was started with other settings.
    """
    items = chosen(benchmark, request)
    key = Key(tuple(items))
    with EvalRun(request.out) as record:
        record.start(describe(benchmark, system, request, items), resume=request.resume)
        todo = [item.sample for item in items if not _settled(record, item, retry=request.retry_failed)]
        with key.sealed(), spending(record):
            try:
                _answer(system, todo, benchmark, record, progress, kept=len(items) - len(todo))
            finally:
                system.close()  # its decoder processes count towards the cost once they have ended
        record.finish(items)
        return record.info


def chosen(benchmark: Benchmark, request: RunRequest) -> list[Item]:
    """Return the items to measure. Raises `UsageError` where there are none, or some are missing and must not be."""
    if benchmark.missing and request.missing == "error":
        names = ", ".join(one.name for one in benchmark.missing[:5])
        raise UsageError(
            f"{len(benchmark.missing)} of {benchmark.expected} files of {benchmark.name} are missing: {names} ...",
            hint=f"{benchmark.missing[0].get} Or use --missing-policy skip for a partial run.",
        )
    items = list(benchmark.items)
    if not items:
        names = ", ".join(one.name for one in benchmark.missing[:5])
        raise UsageError(
            f"None of the {benchmark.expected} files of {benchmark.name} is there: {names} ...",
            hint=benchmark.about.get,
        )
    if request.limit is None or request.limit >= len(items):
        return items
    return _thinned(items, request.limit, request.seed)


def _thinned(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """Return `limit` items, as many of each label set as its share asks for, drawn by `seed`, in their order.

    Drawn by a hash-like shuffle within each label set: 10 of 90 benign and 10 violating clips gives 9 and 1.
    """
    rng = np.random.default_rng(seed)
    sets: dict[tuple[str, ...], list[int]] = {}
    for index, item in enumerate(items):
        sets.setdefault(item.gold.labels, []).append(index)
    ranked: list[tuple[float, int]] = []
    for members in sets.values():
        order = rng.permutation(members)
        ranked += [((place + 0.5) / len(members), int(index)) for place, index in enumerate(order)]
    return [items[index] for index in sorted(index for _, index in sorted(ranked)[:limit])]


def describe(benchmark: Benchmark, system: System, request: RunRequest, items: Sequence[Item]) -> dict[str, Any]:
    """Return the content of `run.json`; what would change an answer is the signature."""
    signature = {
        "version": __version__,
        "benchmark": benchmark.name,
        "data_hash": benchmark.data_hash,
        "policies": {name: policy.hash for name, policy in benchmark.policies.items()},
        "system": system.name,
        "settings": dict(system.signature),
        "limit": request.limit,
        "seed": request.seed,
        "samples": len(items),
        "sample_ids": hashlib.sha256("".join(item.sample.id for item in items).encode()).hexdigest()[:16],
    }
    return {
        "signature": signature,
        "title": benchmark.about.title,
        "expected": benchmark.expected,
        "found": len(benchmark.items),
        "missing": [one.name for one in benchmark.missing[:1000]],
        "missing_count": len(benchmark.missing),
        "get": benchmark.about.get,
        "notes": [*benchmark.about.notes, *benchmark.notes],
        "columns": [{"id": c.id, "name": c.name, "accepts": list(c.accepts)} for c in benchmark.columns],
        "protocols": list(benchmark.protocols),
        "subsets": {name: sorted(stems) for name, stems in benchmark.subsets.items()},
        "machine": f"{os.cpu_count()} cores {platform.machine()}",
        "python": platform.python_version(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _settled(record: EvalRun, item: Item, *, retry: bool) -> bool:
    done = record.done.get(item.sample.id)
    return done is not None and not (retry and not done.valid)


def _answer(
    system: System,
    todo: Sequence[Sample],
    benchmark: Benchmark,
    record: EvalRun,
    progress: Progress | None,
    *,
    kept: int,
) -> None:
    """Write an answer for each of `todo`: the system's, or the code that says why there is none."""
    waiting = {sample.id for sample in todo}
    able = [sample for sample in todo if sample.kind in system.kinds]
    total, done = kept + len(todo), kept
    for sample in todo:
        if sample.kind not in system.kinds:
            waiting.discard(sample.id)
            record.append(Prediction(id=sample.id, status="unsupported", code="unsupported_kind"))
    if todo and not able:
        kinds = ", ".join(sorted(system.kinds))
        raise UsageError(f"{system.name} looks at {kinds}; {benchmark.name} has {benchmark.about.kind} only.")
    for prediction in system.predict(able, benchmark.policies):
        if prediction.id not in waiting:
            raise RuntimeError(f"{system.name} answered {prediction.id!r}, which was not asked or is answered already")
        waiting.discard(prediction.id)
        record.append(prediction)
        done += 1
        if progress is not None:
            progress("answer", done, total)
    for lost in sorted(waiting):
        record.append(Prediction(id=lost, status="generation_error", code="no_answer"))


@contextmanager
def spending(record: EvalRun) -> Iterator[None]:
    """Add wall and CPU seconds of this process and its ended children to the run's cost."""
    started, before = time.monotonic(), os.times()
    try:
        yield
    finally:
        after = os.times()
        record.add_cost({"wall_seconds": time.monotonic() - started, "cpu_seconds": sum(after[:4]) - sum(before[:4])})
