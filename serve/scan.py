"""Scan many files: each input gets exactly one line, content seen twice is judged once, and a killed scan goes on.

The scan walks the inputs in order and feeds the ones that need judging to `Guard.check_many`, which decodes ahead. What
needs no judging (a path at fault, content seen before, a result of an earlier run) is settled on the way.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from guard.errors import InputError
from guard.types import ErrorInfo, Verdict, Video
from guard.verdict import failed
from serve.failures import Exit
from serve.inputs import Input, Listing, Selection, display, list_inputs
from serve.meter import TreeMeter
from serve.progress import Progress
from serve.results import duplicate_record, record_of, require_format, write_csv, write_parquet
from serve.run_dir import RunDirectory, write_json
from serve.summary import Cost, exit_code, tally

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
        run.start(describe(guard, request), resume=request.resume)
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
        "calibrations": {name: c.id for name, c in sorted(guard.pipeline.stages.calibrators.items())},
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


class Scanner:
    """Settles every input of a run, in order."""

    def __init__(
        self, guard: Guard, run: RunDirectory, inputs: Sequence[Input], progress: Progress, *, retry_failed: bool
    ) -> None:
        self.scored = 0
        self.video_seconds = 0.0
        self._guard = guard
        self._run = run
        self._inputs = inputs
        self._progress = progress
        self._stale = {i for i, done in run.done.items() if retry_failed and done.failed}
        self._originals = {
            done.sha256: i
            for i, done in sorted(run.done.items(), reverse=True)
            if done.sha256 and not done.duplicate and i not in self._stale
        }
        self._under_way: deque[tuple[int, Video]] = deque()
        self._twins: dict[str, list[int]] = {}
        """Content that is being judged, and the later inputs that wait for its verdict."""

    def run(self) -> None:
        """Settle all inputs; returns once each has its record."""
        for verdict in self._guard.check_many(self._to_judge()):
            index, video = self._under_way.popleft()
            if verdict.sha256 != video.sha256:
                raise RuntimeError("verdicts came back in another order than their videos")
            self._judged(index, verdict)

    def _to_judge(self) -> Iterator[Video]:
        for index, entry in enumerate(self._inputs):
            if self._kept(index, entry):
                continue
            video = self._open(index, entry)
            if video is None or self._is_twin(index, entry, video):
                continue
            self._twins[video.sha256] = []
            self._under_way.append((index, video))
            yield video

    def _kept(self, index: int, entry: Input) -> bool:
        """Whether an earlier run settled this input, and the file is still the one it saw."""
        done = self._run.done.get(index)
        if done is None or done.path != entry.path or index in self._stale:
            return False
        same = (done.size_bytes, done.mtime_ns) == (entry.size_bytes, entry.mtime_ns)
        moved_away = entry.error is not None and entry.error.code == "input_not_found" and done.sha256 is not None
        if same or moved_away:
            self._progress.advance(self._run.read(index), kept=True)
        return same or moved_away

    def _open(self, index: int, entry: Input) -> Video | None:
        if entry.error is not None:
            self._fail(index, entry, entry.error)
            return None
        try:
            return self._guard.open(Path(os.path.abspath(entry.path)), name=entry.source)  # noqa: PTH100
        except InputError as error:
            self._fail(index, entry, error.info())
            return None

    def _is_twin(self, index: int, entry: Input, video: Video) -> bool:
        """Settle content that is known already, or let it wait for the verdict on the first of its kind."""
        done = self._run.done.get(index)
        if done is not None and done.sha256 == video.sha256 and done.path == entry.path and index not in self._stale:
            record = {**self._run.read(index), "input": entry.to_json()}  # touched since, but the same content
            self._settle(index, record, kept=True)
            return True
        if video.sha256 in self._twins:
            self._twins[video.sha256].append(index)
            return True
        original = self._originals.get(video.sha256)
        # The file at that place may have been replaced since, and judged again: its record is then of other content.
        if original is None or self._run.done[original].sha256 != video.sha256:
            return False
        self._settle(index, duplicate_record(index, entry, self._run.read(original)))
        return True

    def _judged(self, index: int, verdict: Verdict) -> None:
        record = record_of(index, self._inputs[index], verdict)
        self.scored += 1
        self.video_seconds += verdict.coverage.decoded_seconds if verdict.coverage else 0.0
        self._settle(index, record)
        if verdict.sha256 is not None:
            self._originals[verdict.sha256] = index
            for twin in self._twins.pop(verdict.sha256, []):
                self._settle(twin, duplicate_record(twin, self._inputs[twin], record))

    def _fail(self, index: int, entry: Input, error: ErrorInfo) -> None:
        verdict = failed(source=entry.source, sha256=None, policy=self._guard.policy, error=error)
        verdict = replace(verdict, versions=self._guard.pipeline.stages.versions)
        self._settle(index, record_of(index, entry, verdict))

    def _settle(self, index: int, record: Mapping[str, Any], *, kept: bool = False) -> None:
        self._run.append(index, record)
        self._progress.advance(record, kept=kept)


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
