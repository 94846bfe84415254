"""Jobs over the API with a real worker, and the leases underneath on SQLite and on PostgreSQL."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import databases
import httpx
import media
import pytest
import serving
from sqlalchemy import func, select

from guard.types import ErrorInfo, PolicyRef, Verdict
from serve import jobs
from serve.demo_clips import flashing, write_clip
from serve.finishing import Outcome, finish
from serve.request_errors import Conflict
from serve.settings import ServeSettings
from serve.store.people import AuditEntry, Delivery, ReviewItem
from serve.store.session import Database
from serve.store.tables import (
    Batch,
    BatchLine,
    Evidence,
    Job,
    Result,
    ScoreHistory,
    Tenant,
    Usage,
    utc_now,
)
from serve.sweeping import sweep
from serve.workers import start_workers

SERVE = ServeSettings(lease_seconds=10, max_attempts=3, tenant_running=2)


@pytest.fixture(params=databases.KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made = databases.fresh(request.param, tmp_path)
    with made.write() as session:
        session.add_all([Tenant(id="a", name="A"), Tenant(id="b", name="B")])
    yield made
    made.close()


def add(database: Database, count: int = 1, **values: Any) -> list[str]:
    with database.write() as session:
        rows = [Job(**({"tenant_id": "a", "source": f"clip {n}", "blob": "0" * 32} | values)) for n in range(count)]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def claim(database: Database, owner: str, *, late: float = 0.0, serve: ServeSettings = SERVE) -> str | None:
    with database.write() as session:
        job = jobs.claim(session, owner, serve, utc_now() + timedelta(seconds=late))
        return job.id if job else None


def verdict(decision: str = "allow", **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "decision": decision, "source": "clip", "sha256": "a" * 64, "rationale": "because",
        "policy": PolicyRef(name="test", version="1", hash="f" * 64),
        "error": ErrorInfo(code="undecodable", message="broken") if decision == "undecided" else None,
    }  # fmt: skip
    return Verdict(**(values | changes))


def end(database: Database, job_id: str, owner: str, decision: str = "allow") -> bool:
    with database.write() as session:
        return finish(session, SERVE, job_id, owner, Outcome(verdict=verdict(decision), elapsed_ms=1.0)) is not None


def count(database: Database, table: Any, *where: Any) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table).where(*where)) or 0


def test_workers_that_race_never_claim_one_job_twice(database: Database) -> None:
    ids = add(database, 24)
    serve = ServeSettings(tenant_running=100)
    claimed: list[str] = []

    def work(owner: str) -> None:
        while (job_id := claim(database, owner, serve=serve)) is not None:
            claimed.append(job_id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)


def test_priority_goes_first_then_the_tenant_with_less_then_the_oldest(database: Database) -> None:
    flood = add(database, 3)
    (other,) = add(database, tenant_id="b")
    (urgent,) = add(database, priority=5)
    assert claim(database, "w") == urgent
    assert claim(database, "w") == other  # the flood's tenant has one running already
    assert claim(database, "w") in flood


def test_one_tenant_runs_no_more_than_its_share(database: Database) -> None:
    add(database, 3)
    assert [claim(database, "w") is not None for _ in range(3)] == [True, True, False]


def test_a_lease_that_is_renewed_is_kept_and_one_that_runs_out_is_taken_over(database: Database) -> None:
    (job_id,) = add(database)
    assert claim(database, "first") == job_id
    with database.write() as session:
        assert jobs.heartbeat(session, "first", SERVE, utc_now() + timedelta(seconds=8)) == {job_id: False}
        assert jobs.reap(session, "second", SERVE, utc_now() + timedelta(seconds=12)) == []
    assert claim(database, "second") is None
    with database.write() as session:
        assert jobs.reap(session, "second", SERVE, utc_now() + timedelta(seconds=19)) == []
        assert jobs.heartbeat(session, "first", SERVE, utc_now()) == {}
    assert claim(database, "second") == job_id
    assert not end(database, job_id, "first")  # the slow one comes back: nothing of it counts
    assert end(database, job_id, "second")
    assert not end(database, job_id, "second")
    assert count(database, Result) == 1
    assert count(database, ScoreHistory) == 1
    assert count(database, AuditEntry, AuditEntry.action == "job.decided") == 1


def test_a_job_that_kills_its_workers_is_given_up_and_goes_to_a_person(database: Database) -> None:
    (job_id,) = add(database, callback_url="https://example.org/hook")
    for attempt in range(SERVE.max_attempts):
        assert claim(database, f"w{attempt}") == job_id
        with database.write() as session:
            lost = jobs.reap(session, "reaper", SERVE, utc_now() + timedelta(seconds=11))
    assert lost == [job_id]
    assert end(database, job_id, "reaper", "undecided")
    with database.read() as session:
        assert session.get_one(Job, job_id).status == "failed"
        assert session.scalars(select(ReviewItem.reason)).all() == ["undecided"]
        assert session.scalars(select(Delivery.event_type)).all() == ["moderation.job.failed"]


def test_a_worker_that_stops_gives_its_jobs_back_unharmed(database: Database) -> None:
    (job_id,) = add(database)
    claim(database, "w")
    with database.write() as session:
        assert jobs.release(session, "w") == 1
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.attempts, job.lease_owner) == ("queued", 0, None)


def test_a_later_try_waits_its_time(database: Database) -> None:
    (job_id,) = add(database)
    claim(database, "w")
    with database.write() as session:
        assert jobs.postpone(session, job_id, "w", utc_now())
    assert claim(database, "w") is None
    assert claim(database, "w", late=6) == job_id


def test_a_job_that_is_cancelled_while_it_runs_has_no_result(database: Database) -> None:
    (job_id,) = add(database)
    claim(database, "w")
    with database.write() as session:
        assert not jobs.cancel(session, session.get_one(Job, job_id), utc_now())
    assert end(database, job_id, "w")
    with database.read() as session:
        assert session.get_one(Job, job_id).status == "canceled"
    assert count(database, Result) == count(database, Delivery) == 0


def test_a_job_that_is_cancelled_is_not_begun_again(database: Database) -> None:
    tried, dropped = add(database, 2)
    for job_id in (tried, dropped):
        assert claim(database, "w") == job_id
        with database.write() as session:
            jobs.cancel(session, session.get_one(Job, job_id), utc_now())
    with database.write() as session:
        assert not jobs.postpone(session, tried, "w", utc_now())
    assert end(database, tried, "w", "undecided")
    with database.write() as session:
        assert jobs.reap(session, "other", SERVE, utc_now() + timedelta(seconds=11)) == []
    with database.read() as session:
        for job_id in (tried, dropped):
            job = session.get_one(Job, job_id)
            assert (job.status, job.lease_owner, job.purge_at is not None) == ("canceled", None, True)
    assert count(database, Result) == count(database, Delivery) == 0


def test_a_hold_that_came_since_the_job_was_read_keeps_it(database: Database) -> None:
    (job_id,) = add(database, status="succeeded")
    with database.read() as session:
        seen = jobs.own_job(session, "a", job_id)
    with database.write() as session:
        session.get_one(Job, job_id).hold = True
    with pytest.raises(Conflict, match="legal hold"), database.write() as session:
        jobs.bury(session, seen, actor="w", reason="requested", now=utc_now())


def test_a_sweep_takes_old_deliveries_and_answers_as_well(tmp_path: Path) -> None:
    old, new = utc_now() - timedelta(days=200), utc_now()
    with serving.running(tmp_path) as run:
        with run.service.database.write() as session:
            session.add(Tenant(id="a", name="A"))
            session.flush()
            for number, at in enumerate((old, new)):
                for status in ("delivered", "pending"):
                    session.add(
                        Delivery(
                            tenant_id="a", event_id=f"evt_{number}", event_type="moderation.ping", target=status,
                            url="https://hooks.example/", body="{}", status=status, created_at=at,
                            next_attempt_at=new + timedelta(hours=1),
                        )
                    )  # fmt: skip
                batch = Batch(tenant_id="a", status="completed", finished_at=at, total=1)
                session.add(batch)
                session.flush()
                session.add(BatchLine(batch_id=batch.id, number=1, custom_id="1", status=200, response={}))
        done = sweep(run.service)
        assert (done["deliveries"], done["answers"]) == (1, 1)
        assert [count(run.service.database, table) for table in (Delivery, Batch, BatchLine)] == [3, 1, 1]


def test_what_a_tenant_uses_adds_up_over_threads(database: Database) -> None:
    def use() -> None:
        for _ in range(10):
            with database.write() as session:
                jobs.use(session, "a", utc_now(), {"media_seconds": 0.5, "jobs": 1})

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        row = session.scalars(select(Usage)).one()
    assert (row.media_seconds, row.jobs) == (20.0, 40)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    home = tmp_path_factory.mktemp("jobs")
    options: dict[str, Any] = {"poll_seconds": 0.05, "max_upload_bytes": 2_000_000, "max_resumable_bytes": 4_000_000}
    with serving.running(home, run=start_workers, **options) as made:
        yield made


@pytest.fixture(scope="module")
def clip() -> bytes:
    return media.render(frames=45)


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clips") / "flash.mp4"
    write_clip(path, flashing, 1.5)
    return path.read_bytes()


@pytest.fixture
def client(server: serving.Running) -> Iterator[httpx.Client]:
    with server.client("submit", "read") as made:
        yield made


def submit(client: httpx.Client, data: bytes, **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", {})
    name = fields.pop("name", "clip.mp4")
    return client.post("/v1/jobs", files={"file": (name, data)}, data=fields, headers=headers)


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    for _ in range(10):
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
        if job["status"] not in ("queued", "running"):
            return job
    raise AssertionError(job)


def test_a_clip_goes_in_and_its_verdict_comes_out(client: httpx.Client, server: serving.Running, clip: bytes) -> None:
    answer = submit(client, clip, client_ref="upload 7", metadata=json.dumps({"uploader": "x"}))
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    job = ended(client, job_id)
    assert (job["status"], job["client_ref"], job["metadata"]) == ("succeeded", "upload 7", {"uploader": "x"})
    result = client.get(f"/v1/jobs/{job_id}/result").json()
    own = server.service.engine.guard.check(clip, name="clip.mp4")
    assert (result["decision"], result["verdict"]["rationale"]) == (own.decision, own.rationale)
    assert result["verdict"]["sha256"] == job["sha256"] == own.sha256


def test_the_scores_come_in_pages_whose_cursors_cannot_be_forged(client: httpx.Client, clip: bytes) -> None:
    job_id = submit(client, clip).json()["id"]
    ended(client, job_id)
    where = f"/v1/jobs/{job_id}/result"
    whole = client.get(where, params={"aggregate": "timestamps"}).json()["timestamps"]
    assert len(whole) > 5
    pages, cursor = [], None
    while True:
        asked = {"aggregate": "timestamps", "limit": 4} | ({"cursor": cursor} if cursor else {})
        page = client.get(where, params=asked).json()
        pages += page["timestamps"]
        if (cursor := page["next_cursor"]) is None:
            break
        last = cursor
    assert pages == whole
    other = client.get(where, params={"aggregate": "timestamps", "limit": 4, "min_score": 0.5, "cursor": last})
    forged = client.get(where, params={"aggregate": "timestamps", "cursor": last[:-2] + "AA"})
    assert other.status_code == forged.status_code == 422
    ranked = client.get(where, params={"aggregate": "timestamps", "sort": "score"}).json()["timestamps"]
    assert [x["score"] for x in ranked] == sorted((x["score"] for x in whole), reverse=True)


def test_the_same_key_and_request_make_one_job_and_another_request_is_refused(
    client: httpx.Client, clip: bytes
) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = submit(client, clip, headers=headers), submit(client, clip, headers=headers)
    other = submit(client, clip, headers=headers, priority="3")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_requests_with_one_key_that_race_make_one_job(
    client: httpx.Client, server: serving.Running, clip: bytes
) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: made.append(submit(client, clip, headers={"Idempotency-Key": "race"}).json()["id"])
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1


def test_a_flashing_clip_is_blocked_with_pictures_whose_addresses_expire(
    client: httpx.Client, server: serving.Running, flash: bytes
) -> None:
    job_id = submit(client, flash, policy="flashing").json()["id"]
    assert ended(client, job_id)["decision"] == "block"
    assert client.get(f"/v1/jobs/{job_id}/evidence").status_code == 403
    with server.client("review") as reviewer:
        (first, *_) = reviewer.get(f"/v1/jobs/{job_id}/evidence").json()
        part = reviewer.get(f"/v1/jobs/{job_id}/content", headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, flash[:10])
    picture = httpx.get(f"{server.url}{first['url']}")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content.startswith(b"\xff\xd8\xff")
    assert httpx.get(f"{server.url}{first['url'][:-3]}AAA").status_code == 404
    with server.service.database.read() as session:
        actions = set(session.scalars(select(AuditEntry.action).where(AuditEntry.subject == job_id)))
    assert actions >= {"job.submitted", "job.decided", "evidence.listed", "content.read"}


def test_a_broken_clip_is_undecided_and_waits_for_a_person(
    client: httpx.Client, server: serving.Running, clip: bytes
) -> None:
    job_id = submit(client, clip[: len(clip) // 3]).json()["id"]
    job = ended(client, job_id)
    assert (job["status"], job["decision"]) == ("failed", "undecided")
    assert job["error"]["code"] in ("undecodable", "truncated")
    with server.service.database.read() as session:
        assert session.scalars(select(ReviewItem.reason).where(ReviewItem.job_id == job_id)).all() == ["undecided"]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "undecodable"),
        (b"#EXTM3U\nfile:///etc/passwd", 415, "unsupported_media_type"),
        (b"\x00\x00\x00\x18ftypmp42" + b"x" * 2_100_000, 413, "too_large"),
    ],
)
def test_files_that_are_no_media_are_refused_at_once(client: httpx.Client, data: bytes, status: int, code: str) -> None:
    answer = submit(client, data)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    "body",
    [
        {}, [], {"url": "http://a/b", "upload_id": "x"}, {"upload_id": "upl_0", "unknown": 1},
        {"url": "x", "priority": 99}, {"url": "x", "metadata": {str(n): "x" for n in range(17)}},
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_is_refused(client: httpx.Client, body: Any) -> None:
    answer = client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_callback_inside_is_refused_before_the_job_is_taken(client: httpx.Client, clip: bytes) -> None:
    answer = submit(client, clip, callback_url="http://169.254.169.254/latest")
    assert (answer.status_code, answer.json()["code"]) == (422, "url_blocked")


def test_a_job_by_url_ends_undecided_where_fetching_is_off(client: httpx.Client) -> None:
    job_id = client.post("/v1/jobs", json={"url": "https://example.org/a.mp4"}).json()["id"]
    job = ended(client, job_id)
    assert (job["decision"], job["error"]["code"]) == ("undecided", "url_blocked")


def test_a_file_name_is_text_and_never_a_path(client: httpx.Client, server: serving.Running, clip: bytes) -> None:
    name = "../../../etc/<b>cron\u202e.d"
    job = ended(client, submit(client, clip, name=name).json()["id"])
    assert job["source"] == name
    folder = server.service.blobs.folder
    assert all(len(path.name) >= 32 for path in folder.rglob("*") if path.is_file())


def test_large_files_come_in_pieces_and_go_on_where_they_broke_off(client: httpx.Client, clip: bytes) -> None:
    made = client.post("/v1/uploads", json={"size_bytes": len(clip), "source": "big.mp4"})
    where, half = made.headers["location"], len(clip) // 2
    kind = {"Content-Type": "application/offset+octet-stream"}

    def broken() -> Iterator[bytes]:
        yield clip[:half]
        time.sleep(0.5)  # what the server has not read when the line breaks is lost, and sent again
        raise ConnectionError("the line broke")

    with pytest.raises(ConnectionError):
        client.patch(where, content=broken(), headers=kind | {"Upload-Offset": "0"})
    deadline = time.monotonic() + 10
    while (at := int(client.get(where).headers["upload-offset"])) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 0 < at <= half
    wrong = client.patch(where, content=clip, headers=kind | {"Upload-Offset": str(at + 1)})
    assert (wrong.status_code, wrong.json()["code"]) == (409, "conflict")
    early = client.post("/v1/jobs", json={"upload_id": made.json()["id"]})
    assert early.status_code == 409
    over = client.patch(where, content=clip[at:] + b"more", headers=kind | {"Upload-Offset": str(at)})
    assert over.status_code == 413
    at = int(client.get(where).headers["upload-offset"])
    done = client.patch(where, content=clip[at:], headers=kind | {"Upload-Offset": str(at)})
    assert done.json()["offset_bytes"] == len(clip)
    job = ended(client, client.post("/v1/jobs", json={"upload_id": made.json()["id"]}).json()["id"])
    assert job["status"] == "succeeded"
    assert job["size_bytes"] == len(clip)


def test_an_upload_is_one_jobs_content_and_its_request_can_be_repeated(
    server: serving.Running, client: httpx.Client, clip: bytes
) -> None:
    made = client.post("/v1/uploads", json={"size_bytes": len(clip)})
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    assert client.patch(made.headers["location"], content=clip, headers=kind).status_code == 200
    asked: dict[str, Any] = {"json": {"upload_id": made.json()["id"]}, "headers": {"Idempotency-Key": "pieces"}}
    first = client.post("/v1/jobs", **asked)
    assert first.status_code == 202
    second = client.post("/v1/jobs", json=asked["json"])
    assert (second.status_code, second.json()["code"]) in ((409, "conflict"), (410, "gone"))
    ended(client, first.json()["id"])
    sweep(server.service)
    again = client.post("/v1/jobs", **asked)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = client.post("/v1/jobs", json=asked["json"] | {"priority": 1}, headers=asked["headers"])
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_one_tenant_cannot_announce_all_the_room_there_is(tmp_path: Path) -> None:
    options = {"max_blob_bytes": 40 << 20, "max_resumable_bytes": 8 << 20}
    with serving.running(tmp_path, **options) as run, run.client("submit") as one:
        answers = [one.post("/v1/uploads", json={"size_bytes": 6 << 20}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 429]
        with run.client("submit", tenant="other") as two:
            assert two.post("/v1/uploads", json={"size_bytes": 6 << 20}).status_code == 201


def test_an_upload_over_the_bound_is_refused(client: httpx.Client) -> None:
    assert client.post("/v1/uploads", json={"size_bytes": 4_000_001}).status_code == 413


def test_jobs_are_listed_in_pages_newest_first(client: httpx.Client, clip: bytes) -> None:
    mine = [submit(client, clip, client_ref="listed").json()["id"] for _ in range(5)]
    found, cursor = [], None
    while True:
        asked = {"client_ref": "listed", "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/jobs", params=asked).json()
        found += [job["id"] for job in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == mine[::-1]


def test_nobody_sees_another_tenants_job(client: httpx.Client, server: serving.Running, clip: bytes) -> None:
    job_id = submit(client, clip).json()["id"]
    with server.client("submit", "read", "review", "admin", tenant="stranger") as stranger:
        for method, path in [
            ("GET", ""), ("GET", "/result"), ("GET", "/evidence"), ("GET", "/content"), ("POST", "/cancel"),
            ("DELETE", ""),
        ]:  # fmt: skip
            answer = stranger.request(method, f"/v1/jobs/{job_id}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        assert stranger.get("/v1/jobs").json()["data"] == []
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


def test_a_deleted_job_leaves_a_tombstone_and_nothing_else(
    client: httpx.Client, server: serving.Running, flash: bytes
) -> None:
    job_id = submit(client, flash, policy="flashing").json()["id"]
    ended(client, job_id)
    with server.service.database.read() as session:
        blobs = [
            *session.scalars(select(Evidence.blob).where(Evidence.job_id == job_id)),
            session.get_one(Job, job_id).blob,
        ]
    assert all(server.service.blobs.path(blob or "").exists() for blob in blobs)
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert not any(server.service.blobs.path(blob or "").exists() for blob in blobs)
    gone = client.get(f"/v1/jobs/{job_id}")
    assert (gone.status_code, gone.json()["code"]) == (410, "gone")


def test_a_waiting_job_is_cancelled_and_cannot_be_twice(server: serving.Running, client: httpx.Client) -> None:
    with server.service.database.write() as session:
        job = Job(tenant_id="default", source="later", not_before=utc_now() + timedelta(hours=1))
        session.add(job)
        session.flush()
        job_id = job.id
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "canceled"
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 409
    assert client.get(f"/v1/jobs/{job_id}/result").status_code == 409


def test_the_audit_log_names_whoever_acts_by_the_id_of_the_key(server: serving.Running, clip: bytes) -> None:
    tenant = "actors"
    with server.client("submit", "read", "review", "admin", tenant=tenant) as who:
        job_id = submit(who, clip).json()["id"]
        ended(who, job_id)
        who.get(f"/v1/jobs/{job_id}/evidence")
        who.put("/v1/policy", json={"policy": "default"})
        who.post("/v1/policies/house/unblock", json={"name": "violence"}).raise_for_status()
        who.delete(f"/v1/jobs/{job_id}")
        actors = {e["action"]: e["actor"] for e in who.get("/v1/audit").json()["data"]}
    key = server.service.keyring.principal(server.key("submit", "read", "review", "admin", tenant=tenant))
    assert key is not None
    assert {actors.pop("job.decided"), actors.pop("key.created")} == {"machine", "system"}
    assert len(actors) >= 5
    assert set(actors.values()) == {key.key_id}


def test_an_unchanged_job_is_not_sent_again(client: httpx.Client, clip: bytes) -> None:
    job_id = submit(client, clip).json()["id"]
    ended(client, job_id)
    time.sleep(0.1)
    tag = client.get(f"/v1/jobs/{job_id}").headers["etag"]
    assert client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": tag}).status_code == 304


def test_a_queue_that_is_full_says_so(tmp_path: Path, clip: bytes) -> None:
    with serving.running(tmp_path, tenant_queued=2, max_queued=3) as full:
        with full.client("submit") as one, full.client("submit", tenant="other") as two:
            answers = [submit(one, clip) for _ in range(3)] + [submit(two, clip) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202, 429, 202, 503]
        assert all(answer.headers["retry-after"] for answer in answers[2::2])
        assert len([path for path in full.service.blobs.folder.rglob("*") if path.is_file()]) == 3


def test_a_sweep_takes_what_is_over_and_leaves_what_is_held(tmp_path: Path, clip: bytes) -> None:
    with (
        serving.running(tmp_path, run=start_workers, poll_seconds=0.05, review_content_seconds=60) as kept,
        kept.client("submit", "read") as client,
    ):
        first, held = (submit(client, clip[:-200]).json()["id"] for _ in range(2))
        for job_id in (first, held):
            ended(client, job_id)
        upload = client.post("/v1/uploads", json={"size_bytes": 10}).json()["id"]
        with kept.client("admin") as admin:
            assert admin.post(f"/v1/jobs/{held}/hold", json={"hold": True, "reason": "asked for"}).status_code == 200
        assert not sweep(kept.service)
        assert sweep(kept.service, utc_now() + timedelta(days=2))["uploads"] == 1
        assert client.get(f"/v1/uploads/{upload}").status_code == 404
        done = sweep(kept.service, utc_now() + timedelta(days=200))
        assert done["jobs"] == 1
        assert client.get(f"/v1/jobs/{first}").status_code == 410
        assert client.get(f"/v1/jobs/{held}").status_code == 200
        assert client.delete(f"/v1/jobs/{held}").status_code == 409
        left = [path for path in kept.service.blobs.folder.rglob("*") if path.is_file()]
        assert [path.read_bytes() for path in left if path.suffix == ""] == [clip[:-200]]


def test_a_clip_that_takes_too_long_goes_on_as_a_job(tmp_path: Path, clip: bytes) -> None:
    with (
        serving.running(tmp_path, run=start_workers, poll_seconds=0.05, sync_seconds=0.001) as hasty,
        hasty.client("submit", "read") as client,
    ):
        url = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
        body = {"input": [{"type": "video_url", "video_url": {"url": url}}]}
        answer = client.post("/v1/moderations", json=body)
        assert (answer.status_code, answer.json()["code"]) == (504, "sync_timeout")
        assert answer.headers["x-should-retry"] == "false"
        assert ended(client, answer.headers["location"].rsplit("/", 1)[1])["status"] == "succeeded"


def test_what_the_vlm_should_have_settled_goes_to_review_degraded_when_it_is_down(tmp_path: Path, clip: bytes) -> None:
    down = {"slow_url": "http://127.0.0.1:9/v1", "slow_model": "nobody", "policy": "default"}
    with (
        serving.running(tmp_path, run=start_workers, settings=down, poll_seconds=0.05) as server,
        server.client("submit", "read", "review") as client,
    ):
        job = ended(client, submit(client, clip).json()["id"])
        assert (job["status"], job["decision"], job["degraded"]) == ("succeeded", "review", True)
        result = client.get(f"/v1/jobs/{job['id']}/result").json()
        assert result["verdict"]["error"]["code"] == "vlm_unavailable"
        url = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
        body = {"input": [{"type": "video_url", "video_url": {"url": url}}]}
        now = client.post("/v1/moderations", json=body).json()["results"][0]
        assert (now["decision"], now["degraded"], now["flagged"]) == ("review", True, True)
        with server.service.database.read() as session:
            assert session.scalars(select(ReviewItem.reason)).all() == ["degraded"]


def test_a_server_that_is_told_to_stop_puts_its_jobs_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.worker.GRACE_SECONDS", 0.1)
    long = media.render(frames=900)
    with (
        serving.running(tmp_path, run=start_workers, poll_seconds=0.05) as server,
        server.client("submit", "read") as client,
    ):
        job_id = submit(client, long).json()["id"]
        while client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued":
            time.sleep(0.02)
        url = server.service.settings.home / "serve.sqlite3"
    database = Database(f"sqlite:///{url}")
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.lease_owner, job.attempts) == ("queued", None, 0)
        assert session.get(Result, job_id) is None
    database.close()


def test_a_tenant_that_has_used_up_its_day_is_told_so(tmp_path: Path, clip: bytes) -> None:
    with (
        serving.running(tmp_path, run=start_workers, poll_seconds=0.05, tenant_media_seconds_per_day=1.0) as server,
        server.client("submit", "read") as client,
    ):
        ended(client, submit(client, clip).json()["id"])
        answer = submit(client, clip)
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")


def test_a_policy_that_has_gone_since_ends_in_undecided(
    client: httpx.Client, server: serving.Running, clip: bytes
) -> None:
    stored = server.service.blobs.put(clip)
    with server.service.database.write() as session:
        job = Job(tenant_id="default", source="x", policy="layer:gone", blob=stored.name, sha256=stored.sha256)
        session.add(job)
        session.flush()
        job_id = job.id
    found = ended(client, job_id)
    assert (found["decision"], found["error"]["code"]) == ("undecided", "policy_not_found")


def test_a_body_that_stops_coming_is_ended(tmp_path: Path) -> None:
    import socket
    from urllib.parse import urlsplit

    with serving.running(tmp_path, body_seconds=0.3) as server:
        where = urlsplit(server.url)
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as raw:
            head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key('submit')}\r\n"
            kind = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x\r\n"
            raw.sendall((head + kind).encode())
            assert raw.recv(65536).startswith(b"HTTP/1.1 4")
