"""Policies, taxonomy, records and webhooks over the API."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import media
import openai
import pytest
import serving
import web

from guard import taxonomy
from serve.demo_clips import flashing, write_clip
from serve.store.people import Review
from serve.workers import start_workers

INSULT = "you stupid worthless idiot"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    home = tmp_path_factory.mktemp("policies")
    options: dict[str, Any] = {"poll_seconds": 0.05, "allowed_networks": ("127.0.0.0/8",)}
    with serving.running(home, run=start_workers, **options) as made:
        yield made


@pytest.fixture
def admin(server: serving.Running) -> Iterator[httpx.Client]:
    with server.client("submit", "read", "review", "admin") as made:
        yield made


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clips") / "flash.mp4"
    write_clip(path, flashing, 1.5)
    return path.read_bytes()


def judged(client: httpx.Client, data: bytes, **fields: str) -> str:
    job_id: str = client.post("/v1/jobs", files={"file": ("clip.mp4", data)}, data=fields).json()["id"]
    for _ in range(10):
        if client.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()["status"] in ("succeeded", "failed"):
            return job_id
    raise AssertionError(job_id)


def test_the_taxonomy_is_all_there(admin: httpx.Client) -> None:
    found = admin.get("/v1/taxonomy").json()
    assert [category["id"] for category in found["categories"]] == list(taxonomy.categories())
    assert len(found["openai_keys"]) == 13


def test_a_layer_is_made_edited_read_and_reverted(admin: httpx.Client) -> None:
    made = admin.post("/v1/policies/house/unblock", json={"name": "toxicity", "below": "screen-text"}).json()
    assert (made["policy"], made["version"], made["changed"]) == ("layer:house", 1, ["toxicity"])
    verdicts = [
        admin.post("/v1/moderations", json={"input": INSULT, "policy": name}).json()["results"][0]
        for name in ("screen-text", "layer:house")
    ]
    assert "toxicity" in verdicts[0]["taxonomy"]
    assert "toxicity" not in verdicts[1]["taxonomy"]
    assert verdicts[1]["policy"] == {
        "name": "layer:house",
        "version": verdicts[1]["policy"]["version"],
        "hash": made["hash"],
    }
    body = {"name": "Roof running", "definition": "People run or jump across roofs.", "note": "asked for"}
    second = admin.post("/v1/policies/house/block", json=body).json()
    assert second["version"] == 2
    history = admin.get("/v1/policies/layer:house/versions").json()["data"]
    assert [(x["version"], x["action"], x["note"]) for x in history] == [(1, "unblock", ""), (2, "block", "asked for")]
    old = admin.get("/v1/policies/layer:house/versions/1").json()
    assert old["hash"] == made["hash"]
    assert second["changed"][0] in admin.get("/v1/policies/layer:house").json()["rules"]
    third = admin.post("/v1/policies/house/revert", json={"number": 2}).json()
    assert third["hash"] == made["hash"]
    listed = {row["name"]: row for row in admin.get("/v1/policies").json()["data"]}
    assert listed["layer:house"]["hash"] == made["hash"]
    assert listed["default"]["kind"] == "library"


def test_layers_of_two_tenants_share_a_name_and_nothing_else(server: serving.Running, admin: httpx.Client) -> None:
    admin.post("/v1/policies/shared/unblock", json={"name": "spam", "below": "screen-text"})
    with server.client("read", "admin", tenant="stranger") as stranger:
        assert stranger.get("/v1/policies/layer:shared").status_code == 404
        assert not [x for x in stranger.get("/v1/policies").json()["data"] if x["kind"] == "layer"]
        stolen = stranger.post("/v1/policies/mine/unblock", json={"name": "spam", "below": "layer:shared"})
        assert (stolen.status_code, stolen.json()["code"]) == (404, "policy_not_found")
        store_name = server.service.policies.layer("default", "shared")
        for name in (f"layer:{store_name}", store_name):
            assert stranger.get(f"/v1/policies/{name}").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("block", {"name": "violence.figthing", "definition": "x"}, 422),
        ("block", {"name": "New thing"}, 422),
        ("block", {"name": "x", "definition": "x", "examples": [{"violates": True}]}, 422),
        ("block", {"name": "x", "examples": [{"job_id": "job_none"}]}, 404),
        ("unblock", {"name": "sexual.minors"}, 403),
        ("extend", {"name": "nothing like it", "variants": ["x"]}, 422),
        ("revert", {"number": 99}, 422),
        ("unblock", {"name": "spam", "below": "/etc/passwd"}, 404),
    ],
)
def test_an_edit_that_cannot_be_is_refused(admin: httpx.Client, path: str, body: dict[str, Any], status: int) -> None:
    answer = admin.post(f"/v1/policies/bad/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert "t-" not in answer.json()["detail"]


def test_edits_need_the_scope_admin(server: serving.Running) -> None:
    with server.client("submit", "read", "review") as client:
        assert client.post("/v1/policies/x/unblock", json={"name": "spam"}).status_code == 403
        assert client.get("/v1/audit").status_code == 403
        assert client.get("/v1/webhooks").status_code == 403


def test_a_tenant_chooses_its_own_policy(server: serving.Running) -> None:
    with server.client("submit", "read", "admin", tenant="chooser") as client:
        assert client.put("/v1/policy", json={"policy": "nonsense"}).status_code == 404
        assert client.put("/v1/policy", json={"policy": "spam"}).json() == client.get("/v1/policy").json()
        found = client.post("/v1/moderations", json={"input": "hello"}).json()["results"][0]
        assert found["policy"]["name"] == "spam"
        client.put("/v1/policy", json={"policy": None})
        time.sleep(2.1)
        again = client.post("/v1/moderations", json={"input": "hello"}).json()["results"][0]
        assert again["policy"]["name"] == "screen-text"
    with server.client("submit", "read", tenant="chooser") as client:
        assert client.put("/v1/policy", json={"policy": "spam"}).status_code == 403


def test_a_policy_is_held_against_cases_and_tried_on_recent_jobs(admin: httpx.Client, flash: bytes) -> None:
    job_id = judged(admin, flash, policy="flashing")
    cases = [
        {"text": "have a nice day", "decision": "allow"}, {"text": INSULT, "decision": "allow"},
        {"job_id": job_id, "decision": "block"},
    ]  # fmt: skip
    held = admin.post("/v1/policies/screen-text/test", json={"cases": cases[:2]}).json()
    assert [case["right"] for case in held["cases"]] == [True, False]
    assert admin.post("/v1/policies/flashing/test", json={"cases": cases[2:]}).json()["right"] == 1
    admin.post("/v1/policies/calm/unblock", json={"name": "flashing.general", "below": "flashing"})
    tried = admin.post(
        "/v1/policies/layer:calm/dry-run", json={"against": "flashing", "category": "flashing.general"}
    ).json()
    assert tried["looked_at"] >= 1
    assert tried["before"]["block"] >= 1
    assert job_id in [row["job_id"] for row in tried["changed"]] or tried["after"] == tried["before"]


def test_blocked_jobs_become_statements_of_reasons(server: serving.Running, admin: httpx.Client, flash: bytes) -> None:
    job_id = judged(admin, flash, policy="flashing")
    allowed = judged(admin, media.still(), policy="flashing")
    with server.service.database.write() as session:
        session.add(
            Review(tenant_id="default", job_id=job_id, reviewer="r", decision="block", machine_decision="block",
                   categories=["flashing.general"])
        )  # fmt: skip
    found = {row["puid"]: row for row in admin.get("/v1/exports/dsa").json()["statements"]}
    mine = found[job_id]
    assert allowed not in found
    required = {
        "decision_ground", "content_type", "category", "content_date", "application_date", "decision_facts",
        "source_type", "automated_detection", "automated_decision", "puid", "decision_visibility",
    }  # fmt: skip
    assert required <= set(mine)
    assert mine["automated_decision"] == "AUTOMATED_DECISION_PARTIALLY"
    assert mine["incompatible_content_explanation"] == "flashing.general"
    assert len(mine["decision_facts"]) <= 5000
    assert admin.get("/v1/exports/dsa", params={"since": "2100-01-01T00:00:00Z"}).json()["statements"] == []
    assert admin.get("/v1/exports/dsa", params={"since": "2100-01-01T00:00:00"}).status_code == 422


def test_the_audit_log_is_read_in_pages_and_by_tenant(server: serving.Running, admin: httpx.Client) -> None:
    admin.post("/v1/policies/audited/unblock", json={"name": "spam", "below": "screen-text"})
    numbers, cursor = [], None
    while True:
        page = admin.get("/v1/audit", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        numbers += [row["number"] for row in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert numbers == list(range(1, len(numbers) + 1))
    (entry,) = admin.get("/v1/audit", params={"subject": "audited"}).json()["data"]
    assert entry["action"] == "policy.unblock"
    with server.client("admin", tenant="stranger") as stranger:
        assert all(row["subject"] != "audited" for row in stranger.get("/v1/audit").json()["data"])


def test_a_webhook_arrives_and_the_openai_verifier_accepts_it(admin: httpx.Client, flash: bytes) -> None:
    with web.serving({"/hook": web.body(b"", 204)}) as receiver:
        made = admin.post("/v1/webhooks", json={"url": f"{receiver.url}/hook", "events": ["moderation.job.completed"]})
        assert made.status_code == 201, made.text
        job_id = judged(admin, flash, policy="flashing")
        deadline = time.monotonic() + 20
        while not (mine := [x for x in receiver.seen if job_id.encode() in x.body]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (request,) = mine
        client = openai.OpenAI(api_key="x", webhook_secret=made.json()["secret"])
        client.webhooks.verify_signature(request.body, request.headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.verify_signature(request.body.replace(b"block", b"allow"), request.headers)
        where = f"/v1/webhooks/{made.json()['id']}"
        rotated = admin.post(f"{where}/rotate").json()["secret"]
        assert rotated != made.json()["secret"]
        (delivery,) = admin.get("/v1/webhooks/deliveries", params={"job_id": job_id}).json()["data"]
        assert (delivery["type"], delivery["attempts"]) == ("moderation.job.completed", 1)
        assert admin.post(f"/v1/webhooks/deliveries/{delivery['id']}/redeliver").status_code == 202
        while len(again := [x for x in receiver.seen if job_id.encode() in x.body]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len({x.headers["webhook-id"] for x in again}) == 1
        client.webhooks.verify_signature(again[1].body, again[1].headers)  # the old secret signs for a day
        assert admin.delete(where).status_code == 204
        assert admin.get("/v1/webhooks").json()["data"] == []


def test_webhooks_of_others_and_inside_addresses_are_refused(server: serving.Running, admin: httpx.Client) -> None:
    assert admin.post("/v1/webhooks", json={"url": "http://10.0.0.1/"}).json()["code"] == "url_blocked"
    assert admin.post("/v1/webhooks", json={"url": "http://169.254.169.254/latest"}).status_code == 422
    assert admin.post("/v1/webhooks", json={"url": "https://example.org/", "events": ["nonsense"]}).status_code == 400
    made = admin.post("/v1/webhooks", json={"url": "https://example.org/hook"}).json()
    with server.client("admin", tenant="stranger") as stranger:
        for method, path in (("DELETE", ""), ("POST", "/rotate"), ("POST", "/ping")):
            assert stranger.request(method, f"/v1/webhooks/{made['id']}{path}").status_code == 404
        assert stranger.get("/v1/webhooks/callback-secret").json() != admin.get("/v1/webhooks/callback-secret").json()
    assert admin.delete(f"/v1/webhooks/{made['id']}").status_code == 204


def test_content_is_fetched_where_that_is_switched_on(tmp_path: Path) -> None:
    clip = media.render(frames=15)
    with (
        web.serving({"/a.mp4": web.body(clip), "/inside": web.redirect("http://169.254.169.254/latest")}) as site,
        serving.running(
            tmp_path, run=start_workers, poll_seconds=0.05, fetch_urls=True, allowed_networks=("127.0.0.0/8",)
        ) as server,
        server.client("submit", "read") as client,
    ):
        part = {"type": "video_url", "video_url": {"url": f"{site.url}/a.mp4"}}
        url = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
        inline = {"type": "video_url", "video_url": {"url": url}}
        both = [client.post("/v1/moderations", json={"input": [p]}).json()["results"][0] for p in (part, inline)]
        assert both[0]["sha256"] == both[1]["sha256"]
        assert both[0]["decision"] == both[1]["decision"]
        job = client.post("/v1/jobs", json={"url": f"{site.url}/a.mp4"}).json()
        done = client.get(f"/v1/jobs/{job['id']}", params={"wait": 30}).json()
        assert (done["status"], done["sha256"]) == ("succeeded", both[0]["sha256"])
        part["video_url"]["url"] = f"{site.url}/inside"  # type: ignore[index]
        refused = client.post("/v1/moderations", json={"input": [part]})
        assert (refused.status_code, refused.json()["code"]) == (422, "url_blocked")


def test_slow_hosts_hold_up_nobody_who_brings_the_content(tmp_path: Path) -> None:
    clip, go = media.render(frames=15), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        go.wait(30)
        web.body(clip)(handler)

    with (
        web.serving({"/slow.mp4": slow}) as site,
        serving.running(tmp_path, fetch_urls=True, allowed_networks=("127.0.0.0/8",)) as server,
        server.client("submit") as client,
        ThreadPoolExecutor(8) as crowd,
    ):
        far = {"input": [{"type": "video_url", "video_url": {"url": f"{site.url}/slow.mp4"}}]}
        url = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
        waiting = [crowd.submit(client.post, "/v1/moderations", json=far) for _ in range(8)]
        try:
            deadline = time.monotonic() + 20
            while not server.service.fetching.locked():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            full = client.post("/v1/moderations", json=far)
            assert (full.status_code, full.json()["code"]) == (503, "capacity")
            near = {"input": [{"type": "video_url", "video_url": {"url": url}}]}
            assert client.post("/v1/moderations", json=near).status_code == 200
        finally:
            go.set()
        assert [one.result().status_code for one in waiting] == [200] * 8
