"""The directory of one scan: who may write to it, what it was started with, and which inputs are done.

    run.json        what was asked, with which models: the resume signature
    inputs.jsonl    the inputs in order, fixed when the run starts
    journal.jsonl   one line per completed input, in the order of completion; gone once the run is complete
    results.jsonl   one line per input, in input order; written in one step at the end
    summary.json, report.html, evidence/

A process killed at any moment leaves at most one torn line at the end of the journal, which the next one cuts off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from guard.errors import InputNotFound, UsageError
from serve.inputs import Input, display, list_inputs, path_from_json
from serve.same_content import speaks_of_content
from serve.signature import require_same

RUN, INPUTS, JOURNAL, RESULTS = "run.json", "inputs.jsonl", "journal.jsonl", "results.jsonl"
_LOCK = ".lock"
_SYNC_RECORDS, _SYNC_SECONDS = 64, 1.0
"""A crash of the machine loses at most this much work; a crash of the process loses no record that was appended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Where the record of a completed input lies in the journal, and what decides whether it still counts."""

    offset: int
    size: int
    path: str
    size_bytes: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    sha256: str | None
    decision: str
    degraded: bool
    duplicate: bool
    of_content: bool
    """Whether the record is true of every copy of the content."""

    @property
    def identity(self) -> tuple[str, int | None, int | None, int | None]:
        """What `serve.inputs.Input.identity` was when the record was made."""
        return self.path, self.size_bytes, self.mtime_ns, self.ctime_ns

    @property
    def failed(self) -> bool:
        """Whether a second try may give more."""
        return self.decision == "undecided" or self.degraded


class RunDirectory:
    """An open, locked run directory. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, Done] = {}
        """Completed inputs by index."""
        self.info: dict[str, Any] = {}
        """Content of `run.json`, from `start` on."""
        self._lock: IO[bytes] | None = None
        self._journal: IO[bytes] | None = None
        self._unsynced = 0
        self._synced_at = time.monotonic()

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / _LOCK).open("ab")
        except OSError as error:
            raise UsageError(f"The run directory {str(self.path)!r} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            hint = "Wait for it to end, or use another --out directory."
            raise UsageError(f"Another scan is writing to {str(self.path)!r}.", hint=hint) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is not None:
            self.sync()
            self._journal.close()
        if self._lock is not None:
            self._lock.close()

    def start(self, run: Mapping[str, Any], *, resume: bool) -> bool:
        """Begin a run, or take up the one that is there; `run["signature"]` says what must agree.

        Returns:
            Whether an earlier run is continued.

        Raises:
            UsageError: the directory holds a run and `resume` is false, or holds something else.
            ResumeMismatch: the earlier run was started with another signature; the message names the differences.
        """
        earlier = self._read_run()
        if earlier is None:
            self._require_empty()
        elif not resume:
            hint = "Add --resume to go on with it, or use another --out directory."
            raise UsageError(f"{str(self.path)!r} already holds a run.", hint=hint)
        else:
            require_same(earlier, run)
            run = {**run, "started_at": earlier.get("started_at"), "resumed_at": run.get("started_at")}
        self.info = dict(run)
        write_json(self.path / RUN, self.info)
        self._open_journal()
        return earlier is not None

    def fix_inputs(self, listed: Sequence[Input]) -> list[Input]:
        """Return the inputs of the run in their lasting order, and write that order down.

        An input keeps its place when a run is resumed; files that are new take places at the end, and one that is gone
        since stays in the list with its own error.
        """
        current = {entry.path: entry for entry in listed}
        earlier = list(self._earlier_paths())
        known = set(earlier)
        inputs = [current.get(path) or _gone(path) for path in earlier]
        inputs += [entry for entry in listed if entry.path not in known] if earlier else listed
        lines = (json.dumps({"source": entry.source, **entry.to_json()}) + "\n" for entry in inputs)
        write_lines(self.path / INPUTS, lines)
        return inputs

    def append(self, index: int, record: Mapping[str, Any]) -> None:
        """Add the record of one completed input; it survives a kill of this process from here on."""
        if self._journal is None:
            raise RuntimeError("append before start")
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self.done[index] = _done(record, self._journal.tell(), len(line))
        self._journal.write(line)
        self._journal.flush()
        self._unsynced += 1
        if self._unsynced >= _SYNC_RECORDS or time.monotonic() - self._synced_at >= _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Force what was appended onto the disk."""
        if self._journal is not None:
            os.fsync(self._journal.fileno())
            self._unsynced, self._synced_at = 0, time.monotonic()

    def read(self, index: int) -> dict[str, Any]:
        """Return the record of a completed input."""
        entry = self.done[index]
        if self._journal is None:
            raise RuntimeError("read before start")
        line = os.pread(self._journal.fileno(), entry.size, entry.offset)
        record: dict[str, Any] = json.loads(line)
        return record

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records of all completed inputs, in input order."""
        for index in sorted(self.done):
            yield self.read(index)

    def complete(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write the results in one step, then drop the journal that they replace."""
        write_lines(self.path / RESULTS, (json.dumps(record, allow_nan=False) + "\n" for record in records))
        (self.path / JOURNAL).unlink(missing_ok=True)

    def _read_run(self) -> dict[str, Any] | None:
        try:
            run: dict[str, Any] = json.loads((self.path / RUN).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UsageError(f"{str(self.path / RUN)!r} is not a run file: {error}.") from error
        return run

    def _require_empty(self) -> None:
        strange = sorted(entry.name for entry in self.path.iterdir() if entry.name not in (_LOCK, f"{RUN}.tmp"))
        if strange:
            (self.path / _LOCK).unlink(missing_ok=True)
            message = f"{str(self.path)!r} holds files but no run, such as {strange[0]!r}."
            raise UsageError(message, hint="Use a new or empty --out directory.")

    def _earlier_paths(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), (self.path / INPUTS).open("rb") as lines:
            for line in lines:
                plain = json.loads(line)
                yield path_from_json(plain["source"], plain)

    def _open_journal(self) -> None:
        path = self.path / JOURNAL
        if not path.exists() and (self.path / RESULTS).exists():
            shutil.copyfile(self.path / RESULTS, self.path / f"{JOURNAL}.tmp")
            (self.path / f"{JOURNAL}.tmp").replace(path)
        self._journal = path.open("a+b")
        self._journal.seek(0)
        end = 0
        for line in self._journal:
            record = _parse(line)
            if record is None:
                break
            self.done[record["index"]] = _done(record, end, len(line))
            end += len(line)
        self._journal.truncate(end)
        self._journal.seek(end)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` so that a reader sees the old file or the new one, never a part."""
    write_lines(path, [json.dumps(value, indent=2, allow_nan=False) + "\n"])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write `lines` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f"{path.name}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _gone(path: str) -> Input:
    """Return the input for a path of the earlier run that the walk did not meet again."""
    listed = list_inputs([], literal=[path]).inputs
    missing = InputNotFound(f"{display(path)!r} was a file when the run began, and no longer is.")
    return next((entry for entry in listed if entry.path == path), Input(path=path, error=missing.info()))


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a journal line, or None for one that was torn by a kill."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("index"), int) else None


def _done(record: Mapping[str, Any], offset: int, size: int) -> Done:
    entry = record["input"]
    return Done(
        offset=offset,
        size=size,
        path=path_from_json(record["source"], entry),
        size_bytes=entry["size_bytes"],
        mtime_ns=entry["mtime_ns"],
        ctime_ns=entry.get("ctime_ns"),
        sha256=record["sha256"],
        decision=record["decision"],
        degraded=bool(record["degraded"]),
        duplicate=record["duplicate_of"] is not None,
        of_content=speaks_of_content(record),
    )
