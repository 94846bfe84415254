"""Batches of moderation requests: every line answered once, in order, whoever dies in between."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import media
import pytest
import serving

from serve.batches import CHUNK, BatchWorker, claim, rows_of
from serve.keys import Principal
from serve.store.tables import Batch, utc_now
from serve.workers import start_workers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    home = tmp_path_factory.mktemp("batches")
    with serving.running(home, run=start_workers, poll_seconds=0.05, max_batch_lines=60) as made:
        yield made


@pytest.fixture
def client(server: serving.Running) -> Iterator[httpx.Client]:
    with server.client("submit", "read") as made:
        yield made


def line(custom_id: str, body: Any, **changes: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/moderations", "body": body} | changes)


def ended(client: httpx.Client, batch_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (batch := client.get(f"/v1/batches/{batch_id}").json())["status"] == "in_progress":
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
    found: dict[str, Any] = batch
    return found


def output(client: httpx.Client, batch_id: str) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/batches/{batch_id}/output")
    assert answer.headers["content-type"].startswith("application/jsonl")
    return [json.loads(row) for row in answer.text.splitlines()]


def test_every_line_is_answered_and_a_bad_one_does_not_stop_the_others(client: httpx.Client) -> None:
    url = f"data:video/mp4;base64,{base64.b64encode(media.render(frames=15)).decode()}"
    lines = [
        line("nice", {"input": "have a nice day"}),
        line("rude", {"input": "you stupid worthless idiot"}),
        "{not json",
        line("empty", {}),
        line("elsewhere", {"input": "x"}, url="/v1/chat/completions"),
        line("policy", {"input": "x", "policy": "nonsense"}),
        line("clip", {"input": [{"type": "video_url", "video_url": {"url": url}}]}),
        "[1]",
        "",
    ]
    made = client.post("/v1/batches", content="\n".join(lines), headers={"Content-Type": "application/jsonl"})
    assert made.status_code == 202, made.text
    assert made.json()["request_counts"]["total"] == 8
    batch = ended(client, made.json()["id"])
    assert batch["request_counts"] == {"total": 8, "completed": 3, "failed": 5}
    rows = output(client, batch["id"])
    assert [row["custom_id"] for row in rows] == ["nice", "rude", "", "empty", "elsewhere", "policy", "clip", ""]
    assert [row["response"]["status_code"] for row in rows] == [200, 200, 422, 422, 422, 404, 200, 422]
    assert [row["response"]["body"]["results"][0]["flagged"] for row in rows[:2]] == [False, True]
    assert rows[5]["error"]["code"] == "policy_not_found"
    assert rows[0]["error"] is None


def test_a_batch_goes_on_where_a_dead_worker_left_it(tmp_path: Path) -> None:
    total = 2 * CHUNK + 5
    with serving.running(tmp_path) as server, server.client("submit", "read") as client:
        body = "\n".join(line(str(n), {"input": f"text {n}"}) for n in range(total))
        batch_id = client.post("/v1/batches", content=body).json()["id"]
        service = server.service
        dead, living = BatchWorker(service), BatchWorker(service)
        with service.database.write() as session:
            batch = claim(session, dead._owner, 60)
        assert batch is not None
        who = Principal(tenant_id="default", key_id=batch_id, name="x", scopes=frozenset({"submit"}))
        lines = islice(rows_of(service.blobs.path(batch.blob or "")), CHUNK)
        assert dead._keep(batch_id, [dead._answer(row, who, None) for row in lines])
        assert not living.run_one()  # it is still held
        with service.database.write() as session:
            session.get_one(Batch, batch_id).lease_until = utc_now() - timedelta(seconds=1)
        assert living.run_one()
        assert not dead._keep(batch_id, [])  # it comes back too late
        found = ended(client, batch_id)
        assert found["request_counts"] == {"total": total, "completed": total, "failed": 0}
        assert [row["custom_id"] for row in output(client, batch_id)] == [str(n) for n in range(total)]


def test_what_is_no_batch_is_refused_and_leaves_nothing(server: serving.Running, client: httpx.Client) -> None:
    before = len(list(server.service.blobs.folder.rglob("*")))
    for body in ("", "\n\n", "\n".join("{}" for _ in range(61))):
        answer = client.post("/v1/batches", content=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len([p for p in server.service.blobs.folder.rglob("*") if p.is_file()]) <= before
    assert client.post("/v1/batches?policy=nonsense", content="{}").status_code == 404


def test_a_batch_is_cancelled_and_nobody_elses(server: serving.Running, client: httpx.Client) -> None:
    with server.service.database.write() as session:
        batch = Batch(
            tenant_id="default", blob="0" * 32, total=1, lease_owner="x", lease_until=utc_now() + timedelta(hours=1)
        )
        session.add(batch)
        session.flush()
        batch_id = batch.id
    with server.client("submit", "read", tenant="stranger") as stranger:
        for method, path in (("GET", ""), ("GET", "/output"), ("POST", "/cancel")):
            assert stranger.request(method, f"/v1/batches/{batch_id}{path}").status_code == 404
        assert stranger.get("/v1/batches").json()["data"] == []
    assert client.post(f"/v1/batches/{batch_id}/cancel").status_code == 202
    with server.service.database.write() as session:
        session.get_one(Batch, batch_id).lease_until = utc_now() - timedelta(seconds=1)
    assert ended(client, batch_id)["status"] == "cancelled"
    with server.service.database.read() as session:
        assert session.get_one(Batch, batch_id).purge_at is not None  # the requests hold content, and go
    assert client.post(f"/v1/batches/{batch_id}/cancel").status_code == 409


def test_a_batch_keeps_its_lease_through_lines_that_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving.running(tmp_path) as server, server.client("submit", "read") as client:
        batch_id = client.post("/v1/batches", content=line("1", {"input": "text"})).json()["id"]
        first, second = BatchWorker(server.service), BatchWorker(server.service)
        monkeypatch.setattr(BatchWorker, "_lease_seconds", 0.6)
        answer, taken = first._answer, []

        def slow(*args: Any) -> Any:
            time.sleep(1.5)
            taken.append(second.run_one())
            return answer(*args)

        monkeypatch.setattr(first, "_answer", slow)
        assert first.run_one()
        assert taken == [False]
        assert client.get(f"/v1/batches/{batch_id}").json()["status"] == "completed"


def test_a_line_that_would_never_find_room_is_refused(tmp_path: Path) -> None:
    with serving.running(tmp_path, max_pending_media=1) as server, server.client("submit", "read") as client:
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        batch_id = client.post("/v1/batches", content=line("1", {"input": [picture, picture]})).json()["id"]
        assert BatchWorker(server.service).run_one()
        (row,) = output(client, batch_id)
        assert (row["response"]["status_code"], row["error"]["code"]) == (422, "invalid_request")


def test_a_line_is_no_larger_than_a_request(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join([line("1", {"input": "x" * 3000}), line("2", {"input": "short"})]))
    first, second = rows_of(path, 2000)
    assert (first.error.code if first.error else None, second.error, second.number) == ("too_large", None, 2)


def test_a_line_that_a_shutdown_met_is_answered_by_the_next_worker(tmp_path: Path) -> None:
    with serving.running(tmp_path) as server, server.client("submit", "read") as client:
        batch_id = client.post("/v1/batches", content=line("1", {"input": "text"})).json()["id"]
        server.service.stopping.set()
        server.service.engine._texts._max_pending = 0
        assert BatchWorker(server.service).run_one()
        assert output(client, batch_id) == []
        server.service.stopping.clear()
        server.service.engine._texts._max_pending = 100
        assert BatchWorker(server.service).run_one()
        assert [row["response"]["status_code"] for row in output(client, batch_id)] == [200]
