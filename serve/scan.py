"""Scan many files: each input gets exactly one line, content seen twice is judged once, and a killed scan goes on.

The scan walks the inputs in order and feeds the ones that need judging to `Guard.check_many`, which decodes ahead. What
needs no judging (a path at fault, content seen before, a result of an earlier run) is settled on the way.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from serve.failures import Exit
from serve.inputs import Listing, Selection, display, list_inputs
from serve.meter import TreeMeter
from serve.progress import Progress
from serve.results import require_format, write_csv, write_parquet
from serve.run_dir import RunDirectory, write_json
from serve.scanner import Scanner
from serve.summary import Cost, earlier_cost, exit_code, tally

if TYPE_CHECKING:
    from guard.api import Guard

REPORT, SUMMARY = "report.html", "summary.json"
SIDECARS_NAMED = 1000
"""Sidecars that the summary names; `left_out` counts them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """What is to be scanned, and what is to be made of it."""

    paths: tuple[str, ...]
    out: Path
    literal: tuple[str, ...] = ()
    """Paths from a list, in which `*?[` are ordinary characters."""
    selection: Selection = field(default_factory=Selection)
    resume: bool = False
    retry_failed: bool = False
    formats: tuple[str, ...] = ("jsonl",)
    fail_on: str | None = None
    evidence: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOutcome:
    """A finished scan."""

    summary: Mapping[str, Any]
    exit_code: Exit


def run_scan(guard: Guard, request: ScanRequest, progress: Progress) -> ScanOutcome:
    """Scan and write the run directory.

    Raises:
        UsageError: the run directory is taken, or a format needs a package that is not installed.
        ResumeMismatch: the run to go on with was started with other settings.
    """
    for name in request.formats:
        require_format(name)
    share_cores(guard.settings.workers)
    started = time.monotonic()
    with TreeMeter() as meter, RunDirectory(request.out) as run:
        listing = list_inputs(
            request.paths, literal=request.literal, selection=request.selection, run_directory=str(request.out)
        )
        continued = run.start(describe(guard, request), resume=request.resume)
        before = earlier_cost(run.path / SUMMARY) if continued else None
        inputs = run.fix_inputs(listing.inputs)
        progress.start(len(inputs))
        scanner = Scanner(guard, run, inputs, progress, retry_failed=request.retry_failed)
        scanner.run()
        pictures = _take_evidence(guard, run, request, progress)
        progress.phase("report")
        cost = Cost(
            scored=scanner.scored,
            video_seconds=scanner.video_seconds,
            wall_seconds=time.monotonic() - started,
            cpu_seconds=meter.cpu_seconds,
            peak_bytes=meter.peak_bytes,
        )
        if before is not None:
            cost = before if scanner.scored == 0 else before.plus(cost)

        def lines() -> Iterator[dict[str, Any]]:
            for record in run.records():
                yield {**record, "evidence": pictures.get(record["sha256"] or "", record["evidence"])}

        return _finish(guard, run, request, listing, cost, lines)


def share_cores(workers: int) -> None:
    """Divide the cores among the videos under way: torch, if loaded, would start a thread per core for each."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))


def without_credentials(url: str | None) -> str | None:
    """Return `url` without user, password and query: none of them belongs into a file that is passed around."""
    if url is None:
        return None
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def describe(guard: Guard, request: ScanRequest) -> dict[str, Any]:
    """Return the content of `run.json`: what would change a result, as the signature, and the rest beside it."""
    settings, policy = guard.settings, guard.policy
    chosen = request.selection
    relative = any(not os.path.isabs(path) for path in (*request.paths, *request.literal))  # noqa: PTH117
    signature = {
        "policy_hash": policy.hash,
        "versions": dict(guard.pipeline.stages.versions),
        "max_gap_seconds": settings.max_gap_seconds,
        "seed": settings.seed,
        "reader": settings.reader,
        "limits": asdict(guard.limits),
        "slow_url": without_credentials(settings.slow_url),
        "slow_model": settings.slow_model,
        # `in/a.mp4` is another file in another directory: a run is not continued with the files of both.
        "directory": display(os.getcwd()) if relative else None,  # noqa: PTH109
        "paths": [display(path) for path in request.paths],
        "list": [display(path) for path in request.literal],
        "include": chosen.include,
        "exclude": chosen.exclude,
        "shard": chosen.shard,
        "limit": chosen.limit,
    }
    return {
        "signature": signature,
        "settings": settings.model_dump(mode="json", exclude={"api_keys", "database_url", "policy_store"})
        | {"slow_url": without_credentials(settings.slow_url)},
        "policy": {"name": policy.name, "version": policy.version, "hash": policy.hash},
        "evidence": request.evidence,
        "formats": request.formats,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _take_evidence(
    guard: Guard, run: RunDirectory, request: ScanRequest, progress: Progress
) -> Mapping[str, list[dict[str, Any]]]:
    """Return the pictures of the peaks by content hash, if they were asked for."""
    if not request.evidence:
        return {}
    from serve.evidence import take_pictures

    progress.phase("evidence")
    paths = {done.sha256: done.path for done in run.done.values() if done.sha256 and not done.duplicate}
    return take_pictures(guard, run.path, run.records(), paths)


def _finish(
    guard: Guard,
    run: RunDirectory,
    request: ScanRequest,
    listing: Listing,
    cost: Cost,
    lines: Callable[[], Iterable[Mapping[str, Any]]],
) -> ScanOutcome:
    """Write every file of the finished run; `results.jsonl` last, since its presence says that the run is complete."""
    from serve.report import write_report

    counts = tally(lines())
    code = exit_code(counts, request.fail_on)
    categories = [rule.category for rule in guard.policy.active()]
    summary = {
        **counts.to_json(),
        "left_out": dict(listing.left_out),
        "sidecars": list(listing.sidecars[:SIDECARS_NAMED]),
        "cost": cost.to_json(),
        "exit_code": int(code),
    }
    if "csv" in request.formats:
        write_csv(run.path / "results.csv", lines(), categories)
    if "parquet" in request.formats:
        write_parquet(run.path / "results.parquet", lines(), categories)
    write_report(run.path / REPORT, lines, summary, run.info, guard.policy)
    write_json(run.path / SUMMARY, summary)
    run.complete(lines())
    return ScanOutcome(summary=summary, exit_code=code)
