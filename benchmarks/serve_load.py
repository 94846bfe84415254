"""Load a real server on loopback with wrk: texts, images and 10 s clips at 1, 8, 64 and 256 clients; then a soak.

    python benchmarks/serve_load.py --seconds 5 --soak 1200 --out benchmarks/serve_load.json

Beside it the same inputs go straight through `Guard`, in one process of their own, so that the cost of the service is a
difference within one run. A refusal with 503 or 429 is counted apart: that is how a full line answers.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import media  # noqa: E402

CLIENTS = (1, 8, 64, 256)
MACHINE = "2 cores x86-64, shared with other work; wrk on the same cores"
TEXT = "have a nice day and see you all tomorrow at the lake"
LUA = """
local file = io.open(os.getenv("LOAD_BODY"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("LOAD_KEY")
local refused, wrong, threads = 0, 0, {}
function setup(thread) table.insert(threads, thread) end
function init() refusals, failures = 0, 0 end
function response(status)
  if status == 503 or status == 429 then refusals = refusals + 1 elseif status ~= 200 then failures = failures + 1 end
end
function done(summary, latency)
  for _, thread in ipairs(threads) do
    refused, wrong = refused + thread:get("refusals"), wrong + thread:get("failures")
  end
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.3f, "refused": %d, "wrong": %d, "timeouts": %d, "socket_errors": %d, ' ..
    '"p50_ms": %.2f, "p95_ms": %.2f, "p99_ms": %.2f}\\n',
    summary.requests, summary.duration / 1e6, refused, wrong, summary.errors.timeout,
    summary.errors.connect + summary.errors.read + summary.errors.write,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


def inputs() -> dict[str, Any]:
    """Return what is sent: a text, a picture, and a clip of ten seconds."""
    return {"text": TEXT, "image": media.still(size=(320, 240)), "clip": media.render(frames=300, fps=30)}


def body(kind: str, content: Any) -> bytes:
    if kind == "text":
        return json.dumps({"input": content}).encode()
    part, mime = ("image_url", "image/png") if kind == "image" else ("video_url", "video/mp4")
    url = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return json.dumps({"input": [{"type": part, part: {"url": url}}]}).encode()


class Server:
    """`guard serve` in a process of its own."""

    def __init__(self, home: Path, **serve: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        values = {"rate_per_second": 1e6, "rate_burst": 10**6, "sync_seconds": 60} | serve
        environment = {**os.environ, "GUARD_HOME": str(home)} | {
            f"GUARD_SERVE_{name.upper()}": str(value) for name, value in values.items()
        }
        self.log = (home / "log").open("wb+")
        command = [sys.executable, "-m", "serve.cli", "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{self.port}"
        self._await()
        found = re.search(rb"vg_[\w-]+", (home / "log").read_bytes())
        assert found
        self.key = found[0].decode()

    def _await(self) -> None:
        until = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)

    def memory_mib(self) -> float:
        """Return the resident memory of the server and its decoder processes; shared pages are counted once each."""
        top = psutil.Process(self.process.pid)
        total = 0
        for process in [top, *top.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        return round(total / 2**20, 1)

    def cpu_seconds(self) -> float:
        return tree_cpu_seconds(self.process.pid)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.log.close()


def load(server: Server, folder: Path, kind: str, content: Any, clients: int, seconds: float) -> dict[str, Any]:
    """Load the server with wrk and return what it measured."""
    (folder / "post.lua").write_text(LUA)
    (folder / "body").write_bytes(body(kind, content))
    environment = {**os.environ, "LOAD_BODY": str(folder / "body"), "LOAD_KEY": server.key}
    command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s",
               str(folder / "post.lua"), f"{server.url}/v1/moderations"]  # fmt: skip
    before = server.cpu_seconds()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    used = server.cpu_seconds() - before
    found: dict[str, Any] = json.loads(next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))[7:])
    answered = found["requests"] - found["refused"] - found["wrong"]
    found["cpu_ms_per_request"] = round(used * 1e3 / max(1, found["requests"]), 2)
    return {"clients": clients, "answered_per_second": round(answered / found["seconds"], 2), **found}


def tree_cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and of those below it: what a busy machine does not change."""
    top, total = psutil.Process(pid), 0.0
    for process in [top, *top.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def direct(contents: dict[str, Any], seconds: float) -> dict[str, dict[str, float]]:
    """Return what the pipeline does without the service: one at a time, and as many at once as there are decoders."""
    from guard.api import Guard
    from serve.scan import share_cores

    found: dict[str, dict[str, float]] = {}
    with Guard.load() as guard:
        share_cores(guard.settings.workers)
        for kind, content in contents.items():

            def ask(_: int, kind: str = kind, content: Any = content) -> float:
                started = time.perf_counter()
                if kind == "text":
                    guard.check_text(content)
                else:
                    guard.check(content, name=kind)
                return (time.perf_counter() - started) * 1e3

            for number in range(4):
                ask(number)
            before = tree_cpu_seconds(os.getpid())
            alone = _for(ask, seconds, 1)
            used = tree_cpu_seconds(os.getpid()) - before
            together = _for(ask, seconds, 1 if kind == "text" else guard.settings.workers)
            found[kind] = {
                "p50_ms": round(statistics.median(alone[0]), 2),
                "cpu_ms_per_request": round(used * 1e3 / len(alone[0]), 2),
                "per_second": round(together[1], 2),
            }
    return found


def _for(ask: Any, seconds: float, at_once: int) -> tuple[list[float], float]:
    started, until, times = time.perf_counter(), time.perf_counter() + seconds, []

    def work(_: int) -> None:
        while time.perf_counter() < until:
            times.append(ask(0))

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, range(at_once)))
    return times, len(times) / (time.perf_counter() - started)


def soak(server: Server, contents: dict[str, Any], seconds: float, pause: float) -> dict[str, Any]:
    """Mix all kinds from six clients, with a pause after each answer, and watch the memory."""
    over = threading.Event()
    counts = dict.fromkeys(contents, 0)
    wrong: list[int] = []
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}

    def work(kind: str) -> None:
        content = body(kind, contents[kind])
        with httpx.Client(headers=headers, timeout=120) as client:
            while not over.is_set():
                status = client.post(f"{server.url}/v1/moderations", content=content).status_code
                counts[kind] += 1
                over.wait(pause)
                if status not in (200, 503):
                    wrong.append(status)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in (*contents, *contents)]
    for thread in threads:
        thread.start()
    samples: list[tuple[float, float]] = []
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        samples.append((round(elapsed, 1), server.memory_mib()))
        time.sleep(min(10.0, seconds / 20))
    over.set()
    for thread in threads:
        thread.join()
    settled = [mib for at, mib in samples if at >= seconds / 4]
    half = len(settled) // 2
    halves = (settled[:half], settled[half:])
    return {
        "seconds": round(seconds),
        "requests": counts,
        "wrong": len(wrong),
        "memory_mib_at_seconds": samples[:: max(1, len(samples) // 24)],
        "memory_mib_after_the_first_quarter": [round(statistics.median(values), 1) for values in halves],
    }


def measure(server: Server, folder: Path, kind: str, content: Any, seconds: float) -> tuple[Any, Any, Any]:
    """Return the rows of one kind, what the pipeline does alone right after, and the difference."""
    load(server, folder, kind, content, 2, 2)
    rows = [load(server, folder, kind, content, clients, seconds) for clients in CLIENTS]
    alone = direct({kind: content}, seconds)[kind]
    again = load(server, folder, kind, content, 1, seconds)  # before and after, since the machine is shared
    served_ms = statistics.mean([rows[0]["p50_ms"], again["p50_ms"]])
    best = max(row["answered_per_second"] for row in rows)
    overhead = {
        "p50_ms": round(served_ms - alone["p50_ms"], 2),
        "cpu_ms_per_request": round(again["cpu_ms_per_request"] - alone["cpu_ms_per_request"], 2),
        "throughput_ratio": round(best / alone["per_second"], 3),
    }
    return rows, alone, overhead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement; 0 for none")
    parser.add_argument("--soak", type=float, default=0.0, help="seconds; 0 for none")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between requests of a soaking client")
    parser.add_argument("--kinds", default="text,image,clip")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    contents = {kind: content for kind, content in inputs().items() if kind in options.kinds.split(",")}
    old = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    found: dict[str, Any] = {"load": {}, "direct": {}, "overhead": {}} | old | {"machine": MACHINE}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(folder)
        try:
            for kind, content in contents.items() if options.seconds else ():
                found["load"][kind], found["direct"][kind], found["overhead"][kind] = measure(
                    server, folder, kind, content, options.seconds
                )
                print(kind, found["load"][kind], found["direct"][kind], found["overhead"][kind], flush=True)
            if options.soak:
                found["soak"] = soak(server, contents, options.soak, options.pause)
                print(found["soak"], flush=True)
        finally:
            server.close()
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
