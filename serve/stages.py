"""How far work in several stages is (prepare, train, audit ...), on stderr: a bar, JSON lines, or nothing."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import IO, Protocol, Self

from guard.errors import UsageError

_JSON_INTERVAL_SECONDS = 1.0
MODES = ("bar", "json", "none")


class Stages(Protocol):
    """Is called with the name of a stage, how much of it is done, and how much there is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take one step."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_stages(mode: str, *, stream: IO[str] | None = None) -> Stages:
    """Return the display for `mode`; a bar needs a terminal, without one it stays silent.

    Raises:
        UsageError: there is no such mode.
    """
    if mode not in MODES:
        raise UsageError(f"--progress takes {', '.join(MODES)}; got {mode!r}.")
    stream = stream or sys.stderr
    if mode == "json":
        return JsonStages(stream)
    return BarStages(stream) if mode == "bar" and stream.isatty() else SilentStages()


class SilentStages:
    """Shows nothing."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Ignore it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class JsonStages(SilentStages):
    """One JSON object per line: at most one a second, and always the last of a stage."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._told = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tell of a step."""
        now = time.monotonic()
        if done < total and now - self._told < _JSON_INTERVAL_SECONDS:
            return
        self._told = now
        self._stream.write(json.dumps({"event": stage, "done": done, "total": total}) + "\n")
        self._stream.flush()


class BarStages(SilentStages):
    """One bar per stage."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import Progress, TaskID

        self._bar = Progress(console=Console(file=stream), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage, which is made on its first step."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[stage], completed=done, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
