"""What a process and its children cost: CPU time and memory of the whole tree, from `/proc`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class TreeMeter:
    """Samples this process and its descendants in a thread. Use it as a context manager."""

    def __init__(self, *, interval_seconds: float = 0.5) -> None:
        self.peak_bytes = 0
        """Largest proportional set size of the tree seen so far: pages shared by n processes count 1/n in each."""
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard-meter", daemon=True)
        self._started_cpu = tree_cpu_seconds()

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the tree since the meter was made, ended children included."""
        return max(0.0, tree_cpu_seconds() - self._started_cpu)

    def sample(self) -> None:
        """Take one sample of memory now."""
        self.peak_bytes = max(self.peak_bytes, sum(_pss_bytes(pid) for pid in tree()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        self.sample()
        while not self._stop.wait(self._interval):
            self.sample()


def tree(root: int | None = None) -> Iterator[int]:
    """Yield the ids of `root` (by default this process) and all its living descendants."""
    todo = [root or os.getpid()]
    while todo:
        pid = todo.pop()
        yield pid
        for task in _listing(_PROC / str(pid) / "task"):
            todo.extend(int(child) for child in _text(task / "children").split())


def tree_cpu_seconds() -> float:
    """Return the CPU time of this process, its living descendants, and all their children that have ended."""
    ticks = 0
    for pid in tree():
        # The command name, in brackets, may hold spaces: count from the last bracket. Fields 14 to 17 of proc(5).
        fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / _TICKS_PER_SECOND


def _pss_bytes(pid: int) -> int:
    for line in _text(_PROC / str(pid) / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _listing(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:  # the process has ended
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
