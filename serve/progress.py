"""How far a scan is, on stderr: a bar for people, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self, TypeAlias

Mode: TypeAlias = Literal["bar", "json", "none"]
_JSON_INTERVAL_SECONDS = 1.0


class Progress(Protocol):
    """Is told of every input that is settled."""

    def start(self, total: int) -> None:
        """Say how many inputs there are."""
        ...

    def advance(self, record: Mapping[str, Any], *, kept: bool = False) -> None:
        """One input is settled; `kept` where an earlier run had settled it."""
        ...

    def phase(self, name: str) -> None:
        """All inputs are settled, and something else is being done."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_progress(mode: Mode, *, stream: IO[str] | None = None) -> Progress:
    """Return the progress display for `mode`. A bar needs a terminal: without one it stays silent."""
    stream = stream or sys.stderr
    if mode == "json":
        return JsonProgress(stream)
    if mode == "bar" and stream.isatty():
        return BarProgress(stream)
    return SilentProgress()


class SilentProgress:
    """Shows nothing."""

    def start(self, total: int) -> None:
        """Do nothing."""

    def advance(self, record: Mapping[str, Any], *, kept: bool = False) -> None:
        """Do nothing."""

    def phase(self, name: str) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class JsonProgress(SilentProgress):
    """One JSON object per line, at most one a second, and always the last."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._total = self._done = self._kept = 0
        self._decisions: Counter[str] = Counter()
        self._began = self._told = time.monotonic()

    def start(self, total: int) -> None:
        """Say how many inputs there are."""
        self._total = total
        self._began = time.monotonic()
        self._tell("start")

    def advance(self, record: Mapping[str, Any], *, kept: bool = False) -> None:
        """Count one input."""
        self._done += 1
        self._kept += kept
        self._decisions[record["decision"]] += 1
        if time.monotonic() - self._told >= _JSON_INTERVAL_SECONDS or self._done == self._total:
            self._tell("progress")

    def phase(self, name: str) -> None:
        """Name the phase."""
        self._tell(name)

    def _tell(self, event: str) -> None:
        self._told = time.monotonic()
        rate = (self._done - self._kept) / max(self._told - self._began, 1e-9)
        left = (self._total - self._done) / rate if rate > 0 else None
        line = {
            "event": event,
            "done": self._done,
            "total": self._total,
            "resumed": self._kept,
            "decisions": dict(self._decisions),
            "videos_per_second": round(rate, 3),
            "seconds_left": None if left is None else round(left, 1),
        }
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


class BarProgress(SilentProgress):
    """A bar with rate, counts and the time left."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[counts]}"),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task("Scanning", total=None, counts="", rate="")
        self._decisions: Counter[str] = Counter()
        self._scored = 0
        self._began = time.monotonic()

    def start(self, total: int) -> None:
        """Say how many inputs there are."""
        self._began = time.monotonic()
        self._bar.update(self._task, total=total)

    def advance(self, record: Mapping[str, Any], *, kept: bool = False) -> None:
        """Move the bar by one."""
        self._decisions[record["decision"]] += 1
        self._scored += not kept
        rate = f"{self._scored / max(time.monotonic() - self._began, 1e-9):.1f} videos/s"
        colours = {"block": "red", "review": "yellow", "undecided": "magenta", "allow": "green"}
        counts = " ".join(f"[{colours[name]}]{count} {name}[/]" for name, count in sorted(self._decisions.items()))
        self._bar.update(self._task, advance=1, counts=counts, rate=rate)

    def phase(self, name: str) -> None:
        """Name the phase."""
        self._bar.update(self._task, description=name)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
