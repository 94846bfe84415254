"""One decoder process: started, watched while it works, and stopped when it outruns a clock."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from guard.errors import BackendError, DecoderCrashed, DecodeTimeout, InputError
from guard.limits import Limits
from guard.video import wire

_START_SECONDS = 60.0
_JOBS_PER_WORKER = 500
"""A worker is replaced after so many jobs: libraries leak."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_ROOT = str(Path(__file__).resolve().parents[2])


class Worker:
    """One decoder process and what is known of its present job. Made by the keeper thread only."""

    def __init__(self, reader: str, limits: Limits) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        arguments = [str(theirs.fileno()), reader, str(os.getpid()), str(limits.address_space_bytes)]
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-P", "-B", "-s", "-m", "guard.video.worker", *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if os.environ.get("GUARD_WORKER_STDERR") else subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
            )
        self.channel = ours
        self.report: Mapping[str, str] = {}
        self.jobs = 0
        self.killed_for: str | None = None
        self._limits = limits
        self._lock = threading.Lock()
        self._busy = False
        self._paused_at: float | None = None
        self._began = self._progressed = time.monotonic()
        self._cpu_began = 0.0
        self._units = 0
        self._reached = 0.0
        self._deadline: float | None = time.monotonic() + _START_SECONDS

    def wait_ready(self) -> None:
        """Wait until the process has locked itself. Raises `BackendError` if it cannot start."""
        try:
            message, _ = wire.receive(self.channel, max_blob_bytes=0)
        except (wire.WireError, OSError):
            self.kill("start")
            raise BackendError(
                f"A decoder process did not start (exit status {self.process.returncode}).",
                hint="Set GUARD_WORKER_STDERR=1 to see why.",
            ) from None
        if message.get("event") != "ready":
            self.kill("start")
            raise BackendError(f"A decoder process did not start: {message.get('message')}", hint="Run `guard doctor`.")
        self.report = {str(key): str(value) for key, value in dict(message.get("report", {})).items()}
        with self._lock:
            self._deadline = None

    def begin(self, limits: Limits) -> None:
        """Start the clocks of a job; the kernel stops the process if nobody else does."""
        with self._lock:
            self._limits = limits
            self._cpu_began = _cpu_seconds(self.process.pid)
            self._began = self._progressed = time.monotonic()
            self._units, self._reached, self._paused_at, self._busy = 0, 0.0, None, True
        most = limits.cpu_seconds + limits.cpu_seconds_per_media_second * limits.max_seconds
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_CPU)
            resource.prlimit(self.process.pid, resource.RLIMIT_CPU, (int(self._cpu_began + most) + 2, hard))

    def progress(self, units: int, reached_seconds: float) -> None:
        """Note a heartbeat; only one that says more than the last counts as life."""
        with self._lock:
            if units > self._units or reached_seconds > self._reached:
                self._progressed = time.monotonic()
            self._units = max(self._units, units)
            self._reached = min(max(self._reached, reached_seconds), self._limits.max_seconds)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clocks while the consumer of a stream takes its time."""
        with self._lock:
            self._paused_at = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                away = time.monotonic() - (self._paused_at or time.monotonic())
                self._paused_at = None
                self._began += away
                self._progressed += away

    def end(self) -> None:
        """Stop the clocks."""
        with self._lock:
            self._busy = False
        self.jobs += 1

    def stop_if_overdue(self) -> None:
        """Stop the process if its job has outrun a clock.

        Looking and stopping are one step under the lock: were the job to end in between, the next input would pay.
        """
        with self._lock:
            reason = self._overdue()
            if reason is not None:
                self.killed_for = self.killed_for or reason
                self.process.kill()

    def _overdue(self) -> str | None:
        now = time.monotonic()
        if self._deadline is not None:
            return "start" if now > self._deadline else None
        if not self._busy or self._paused_at is not None:
            return None
        limits = self._limits
        if now - self._began > limits.wall_seconds + limits.wall_seconds_per_media_second * self._reached:
            return "wall"
        if now - self._progressed > limits.stall_seconds:
            return "stall"
        used = _cpu_seconds(self.process.pid) - self._cpu_began
        return "cpu" if used > limits.cpu_seconds + limits.cpu_seconds_per_media_second * self._reached else None

    def kill(self, reason: str) -> None:
        """Stop the process for good; safe to call twice and from any thread."""
        if self.killed_for is None:
            self.killed_for = reason
        self.process.kill()
        self.process.wait()

    def discard(self) -> None:
        """Stop the process and close the channel."""
        self.kill("close")
        self.channel.close()

    def reusable(self) -> bool:
        """Whether the next job may run here."""
        alive = self.killed_for is None and self.process.poll() is None
        return (
            alive
            and self.jobs < _JOBS_PER_WORKER
            and _virtual_bytes(self.process.pid) < 0.7 * self._limits.address_space_bytes
        )

    def cause_of_death(self, label: str) -> InputError:
        """Return the error of the job during which the process ended."""
        self.process.wait()
        limits = self._limits
        if self.killed_for in ("wall", "cpu", "stall") or self.process.returncode == -signal.SIGXCPU:
            per_second = " more for each second of video"
            allowed = {
                "wall": f"{limits.wall_seconds:g} s, {limits.wall_seconds_per_media_second:g} s{per_second}",
                "cpu": f"{limits.cpu_seconds:g} s of CPU, {limits.cpu_seconds_per_media_second:g} s{per_second}",
                "stall": f"{limits.stall_seconds:g} s without progress",
            }.get(self.killed_for or "cpu", "the CPU limit")
            return DecodeTimeout(
                f"Decoding {label!r} was stopped after {self._reached:.1f} s of video; allowed: {allowed}."
            )
        if self.killed_for == "close":
            return DecoderCrashed(f"The decoder was closed while it worked on {label!r}.")
        code = self.process.returncode
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return DecoderCrashed(f"The decoder process ended ({name}) while it worked on {label!r}.")


def _environment() -> dict[str, str]:
    # No secrets of the service reach the process that parses hostile input; one thread per library keeps memory and
    # CPU honest.
    keep = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    paths = dict.fromkeys([_ROOT, *(entry for entry in sys.path if entry and Path(entry).exists())])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    extra = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(paths), "OPENCV_LOG_LEVEL": "OFF"}
    if "GUARD_WORKER_STDERR" in os.environ:
        extra["GUARD_WORKER_STDERR"] = "1"
    return keep | threads | extra


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _virtual_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
