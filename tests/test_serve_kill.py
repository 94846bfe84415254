"""SIGKILL at the worst moment: a worker in the middle of a job, an API right after it has accepted one."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import databases
import httpx
import media
import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import jobs_kill

from serve import keys
from serve.store.tables import Job, Result

API, WORKER = 0, 1
JOBS = 5


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", databases.KINDS)
def test_nothing_is_lost_or_done_twice_when_processes_die(kind: str, tmp_path: Path) -> None:
    database = databases.fresh(kind, tmp_path)
    with database.write() as session:
        key = keys.create(session, name="client", scopes=["submit", "read"]).key
    receiver = jobs_kill.Receiver().start()
    clips = [media.render(frames=240 + n) for n in range(JOBS)]
    url = database.url.render_as_string(hide_password=False)
    fleet = jobs_kill.Fleet(url, tmp_path, apis=1, workers=1)

    def statuses() -> dict[str, str]:
        with database.read() as session:
            return dict(session.execute(select(Job.id, Job.status)).all())

    try:
        accepted: dict[str, str] = {}
        for number, clip in enumerate(clips):  # the API dies after each answer
            callback = f"http://127.0.0.1:{receiver.port}/hook"
            random.seed(number)
            accepted |= {
                f"{number}": next(
                    iter(jobs_kill.submit_all(fleet, key, [clip], callback, 1, 0.0, f"n{number}").values())
                )
            }
            if number < 2:
                fleet.kill(API)
        killed: set[str] = set()
        for _ in range(2):  # the worker dies while it has a job
            until(lambda: "running" in statuses().values())
            killed |= {job_id for job_id, status in statuses().items() if status == "running"}
            fleet.kill(WORKER)
        until(lambda: all(status in jobs_kill.ENDED for status in statuses().values()))
        until(lambda: len(receiver.seen) == JOBS)
        found = jobs_kill.count(database, accepted, receiver)
    finally:
        fleet.close()
    assert found["accepted"] == found["jobs_in_database"] == JOBS
    assert {name: found[name] for name in jobs_kill.FAULTS} == dict.fromkeys(jobs_kill.FAULTS, 0)
    assert killed
    with database.read() as session:
        assert all(session.get_one(Job, job_id).attempts > 1 for job_id in killed)
        assert set(session.scalars(select(Result.job_id))) == set(accepted.values())
    database.close()


def test_the_server_refuses_a_half_open_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that never ends costs the client its connection, not the server a socket."""
    import asyncio
    import socket
    import threading

    import uvicorn

    from serve.protocol import HeadTimeoutProtocol

    async def app(scope: object, receive: object, send: Callable[..., object]) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[misc]
        await send({"type": "http.response.body"})  # type: ignore[misc]

    monkeypatch.setattr(HeadTimeoutProtocol, "head_seconds", 0.5)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=HeadTimeoutProtocol, log_config=None, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    until(lambda: server.started)
    port = listening.getsockname()[1]
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ")
            started = time.monotonic()
            assert slow.recv(100) == b""  # closed by the server
            assert time.monotonic() - started < 5
        with httpx.Client() as client:  # one that is kept open and used again is not hurt
            for _ in range(3):
                assert client.get(f"http://127.0.0.1:{port}/").status_code == 204
                time.sleep(0.3)
    finally:
        server.should_exit = True
        thread.join()
