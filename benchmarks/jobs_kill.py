"""Kill API and worker processes with SIGKILL at random while jobs come in; then count what became of every job.

    python benchmarks/jobs_kill.py --jobs 500 --out benchmarks/jobs_kill.json

Each run has its own database (SQLite, PostgreSQL), two API processes, two worker processes, one receiver of webhooks
and one client, which repeats a request with its Idempotency-Key until it is accepted. A killed process is started again
at once. What must hold: every accepted job ends, once, with one result and one event, and the event arrives.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import databases  # noqa: E402
import media  # noqa: E402

from serve import keys  # noqa: E402
from serve.audit import verify  # noqa: E402
from serve.store.people import AuditEntry, Delivery  # noqa: E402
from serve.store.session import Database  # noqa: E402
from serve.store.tables import Job, Result, ScoreHistory  # noqa: E402

LEASE_SECONDS = 5
ENDED = ("succeeded", "failed", "canceled")


@dataclass
class Receiver:
    """Takes webhooks, and fails the first try of one in five, as receivers do."""

    seen: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    port: int = 0

    def start(self) -> Receiver:
        receiver, chance = self, random.Random(5)  # noqa: S311

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                event = self.headers["webhook-id"]
                if event not in receiver.refused and event not in receiver.seen and chance.random() < 0.2:
                    receiver.refused.add(event)
                    self.send_response(503)
                else:
                    receiver.seen[event] += 1
                    self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return self


class Fleet:
    """Processes of the service that are started again when they die."""

    def __init__(self, url: str, home: Path, *, apis: int, workers: int) -> None:
        self.log = (home / "fleet.log").open("wb")
        self.ports = [_free_port() for _ in range(apis)]
        self.environment = {
            **os.environ,
            "GUARD_HOME": str(home),
            "GUARD_DATABASE_URL": url,
            "GUARD_WORKERS": "1",
            "GUARD_SERVE_LEASE_SECONDS": str(LEASE_SECONDS),
            "GUARD_SERVE_POLL_SECONDS": "0.1",
            "GUARD_SERVE_MAX_ATTEMPTS": "100",
            "GUARD_SERVE_ALLOWED_NETWORKS": "127.0.0.0/8",
            "GUARD_SERVE_RATE_PER_SECOND": "10000",
            "GUARD_SERVE_RATE_BURST": "10000",
            "OMP_NUM_THREADS": "1",
        }
        serve = ["serve", "--no-jobs", "--port"]
        self.commands = [[*serve, str(port)] for port in self.ports] + [["worker", "--threads", "2"]] * workers
        self.running = [self._start(command) for command in self.commands]
        self.killed: Counter[str] = Counter()

    def kill_one(self, chance: random.Random) -> None:
        """End one process as a power cut would, and start it again."""
        self.kill(chance.randrange(len(self.running)))

    def kill(self, index: int) -> None:
        """End the process of this number, and start it again."""
        process = self.running[index]
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the decoder processes die with it
            process.wait()
            self.killed[self.commands[index][0]] += 1
        self.running[index] = self._start(self.commands[index])

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.log.close()

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "serve.cli", *command], cwd=ROOT, env=self.environment, stdout=self.log,
            stderr=self.log, start_new_session=True,
        )  # fmt: skip


def submit_all(
    fleet: Fleet, key: str, clips: list[bytes], callback: str, count: int, pace: float, prefix: str = "kill"
) -> dict[str, str]:
    """Submit until each is accepted. Returns job id by Idempotency-Key."""
    accepted: dict[str, str] = {}
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(timeout=10) as client:
        for number in range(count):
            name = f"{prefix}-{number}"
            while name not in accepted:
                port = random.choice(fleet.ports)  # noqa: S311
                try:
                    answer = client.post(
                        f"http://127.0.0.1:{port}/v1/jobs", headers=headers | {"Idempotency-Key": name},
                        files={"file": (f"{name}.mp4", clips[number % len(clips)])}, data={"callback_url": callback},
                    )  # fmt: skip
                except httpx.HTTPError:
                    time.sleep(0.1)
                    continue
                if answer.status_code in (200, 202):
                    accepted[name] = answer.json()["id"]
                elif answer.status_code not in (429, 500, 503):
                    raise RuntimeError(f"{answer.status_code}: {answer.text}")
            time.sleep(pace)
    return accepted


def run(
    kind: str, folder: Path, *, jobs: int, every: float, seed: int, pace: float = 0.0, apis: int = 2, workers: int = 2,
    patience: float = 900.0, frames: int = 90, tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Do one run and return what was counted."""
    home = folder / kind
    home.mkdir()
    database = databases.fresh(kind, home)
    with database.write() as session:
        key = keys.create(session, name="client", scopes=["submit", "read"]).key
    receiver = Receiver().start()
    clips = [media.render(frames=frames + n, fps=30, size=(96, 64)) for n in range(4)]
    clips.append(clips[0][: len(clips[0]) // 3])
    started = time.monotonic()
    fleet = Fleet(database.url.render_as_string(hide_password=False), home, apis=apis, workers=workers)
    over = threading.Event()
    chance = random.Random(seed)  # noqa: S311

    def killer() -> None:
        while not over.wait(chance.uniform(0.5 * every, 1.5 * every)):
            fleet.kill_one(chance)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        callback = f"http://127.0.0.1:{receiver.port}/hook"
        accepted = submit_all(fleet, key, clips, callback, jobs, pace)
        tell(f"{kind}: {len(accepted)} accepted after {time.monotonic() - started:.0f} s")
        _wait(database, len(accepted) // 2, patience)  # half of them end under fire
        over.set()
        thread.join()
        _wait(database, len(accepted), patience)
        _wait_for_events(receiver, len(accepted), 120)
        seconds = time.monotonic() - started
    finally:
        over.set()
        thread.join()
        fleet.close()
    found = count(database, accepted, receiver)
    database.close()
    return found | {"kind": kind, "seconds": round(seconds, 1), "killed": dict(fleet.killed)}


def count(database: Database, accepted: dict[str, str], receiver: Receiver) -> dict[str, Any]:
    """Count, from the database and from the receiver, what became of the accepted jobs."""
    ids = set(accepted.values())
    with database.read() as session:
        status = dict(session.execute(select(Job.id, Job.status)).all())
        decision = Counter(session.scalars(select(Result.decision)))
        results = Counter(session.scalars(select(Result.job_id)))
        lines = Counter(session.scalars(select(ScoreHistory.job_id)))
        events = Counter(session.scalars(select(Delivery.job_id)))
        decided = Counter(session.scalars(select(AuditEntry.subject).where(AuditEntry.action == "job.decided")))
        again = session.scalar(select(func.count()).select_from(Job).where(Job.attempts > 1)) or 0
    told = {name: receiver.seen[name] for name in (f"evt_{job_id.removeprefix('job_')}" for job_id in ids)}
    return {
        "accepted": len(ids),
        "accepted_under_two_keys": len(accepted) - len(ids),
        "jobs_in_database": len(status),
        "not_ended": sum(status.get(job_id) not in ENDED for job_id in ids),
        "without_exactly_one_result": sum(results[job_id] != 1 for job_id in ids),
        "without_exactly_one_event": sum(events[job_id] != 1 for job_id in ids),
        "without_exactly_one_audit_entry": sum(decided[job_id] != 1 for job_id in ids),
        "without_exactly_one_history_line": sum(lines[job_id] != 1 for job_id in ids),
        "events_that_never_arrived": sum(number == 0 for number in told.values()),
        "events_that_arrived_more_than_once": sum(number > 1 for number in told.values()),
        "webhooks_refused_by_receiver": len(receiver.refused),
        "begun_more_than_once": again,
        "decisions": dict(decision),
        "audit_problems": sum(len(report.problems) for report in verify(database)),
    }


FAULTS = (
    "accepted_under_two_keys", "not_ended", "without_exactly_one_result", "without_exactly_one_event",
    "without_exactly_one_audit_entry", "without_exactly_one_history_line", "events_that_never_arrived",
    "audit_problems",
)  # fmt: skip
"""Counts that must be 0. An event may arrive twice: its id is the same, which is how a receiver knows."""


def _wait(database: Database, wanted: int, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        with database.read() as session:
            ended = session.scalar(select(func.count()).select_from(Job).where(Job.status.in_(ENDED))) or 0
        if ended >= wanted:
            return
        if time.monotonic() > until:
            raise TimeoutError(f"{ended} of {wanted} jobs ended in {patience:.0f} s")
        time.sleep(0.3)


def _wait_for_events(receiver: Receiver, wanted: int, patience: float) -> None:
    until = time.monotonic() + patience
    while len(receiver.seen) < wanted and time.monotonic() < until:
        time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--every", type=float, default=6.0, help="mean seconds between kills")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between submissions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="sqlite,postgresql")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds.split(","):
            found = run(
                kind, Path(folder), jobs=options.jobs, every=options.every, seed=options.seed, pace=options.pace,
                tell=lambda line: print(line, flush=True),
            )  # fmt: skip
            found["faults"] = sum(found[name] for name in FAULTS)
            runs.append(found)
            print(json.dumps(found, indent=2), flush=True)
    if options.out:
        kept = [] if not options.out.exists() else json.loads(options.out.read_text())["runs"]
        kept = [old for old in kept if old["kind"] not in {new["kind"] for new in runs}]
        machine = "2 cores x86-64, shared with other work"
        options.out.write_text(json.dumps({"machine": machine, "runs": kept + runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
