"""Attacks on the service as it runs, each refused or contained. docs/serve-security.md lists them with these tests.

What concerns one part alone is tested beside it: addresses and fetches in `test_serve_fetch.py`, signatures in
`test_serve_webhooks.py`, the audit log in `test_serve_audit.py`, pages in `test_serve_review_pages.py`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import media
import pytest
import serving
import uvicorn
from media import render
from review_cases import FIGHT, add_content, add_job, item_of, verdict
from serving import Running
from sqlalchemy import select
from web import PUBLIC, FakeNetwork, body, redirect
from web import serving as web_serving

from guard.types import Judgement, Observation
from serve import service as service_module
from serve import webhooks
from serve.outbound import Reach, resolve_host
from serve.protocol import HeadTimeoutProtocol
from serve.results import escape_cell
from serve.store.people import Delivery, Override, Review
from serve.store.tables import Evidence, Job
from serve.workers import start_workers

CLIP = render(frames=30)
ALL = ("submit", "read", "review", "admin")


@pytest.fixture(scope="module")
def net() -> FakeNetwork:
    """Names as an attacker sets them up; public addresses lead to a server on loopback, if any."""
    names = {
        "public.example": [[PUBLIC]],
        "inside.example": [["10.0.0.5"]],
        "metadata.example": [["169.254.169.254"]],
        "rebind.example": [[PUBLIC], ["127.0.0.1"]],
    }
    return FakeNetwork(names=names, port=9)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, net: FakeNetwork) -> Iterator[Running]:
    def resolve(host: str, port: int) -> Any:
        return net.resolve(host, port) if host in net.names else resolve_host(host, port)

    patch = pytest.MonkeyPatch()
    patch.setattr(service_module, "reach_of", lambda _: Reach(resolve=resolve, connect=net.connect))
    options = {"fetch_urls": True, "max_json_bytes": 1 << 20, "max_upload_bytes": 2 << 20, "body_seconds": 0.5,
               "content_seconds": 3600}  # fmt: skip
    with serving.running(
        tmp_path_factory.mktemp("attacks"), run=start_workers, settings={"policy": "screen"}, **options
    ) as run:  # type: ignore[arg-type]
        yield run
    patch.undo()


@pytest.fixture(scope="module")
def victim(server: Running) -> dict[str, str]:
    """Something of every kind that tenant `victim` has, by the name of the path parameter."""
    database = server.service.database
    with server.client(*ALL, tenant="victim") as http:
        batch = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/moderations", "body": {"input": "hi"}})
        made_batch = http.post("/v1/batches", files={"file": ("b.jsonl", batch)}).json()
        upload = http.post("/v1/uploads", json={"size_bytes": 10, "source": "x"}).json()
        endpoint = http.post("/v1/webhooks", json={"url": "http://public.example/"}).json()
        http.post("/v1/policies/house/block", json={"name": "Roof running", "definition": "People run over roofs."})
        job = add_job(database, verdict({FIGHT: 0.62}, source="victims-secret.mp4"), tenant="victim")
        add_content(server.service, database, job, CLIP)
        decided = add_job(database, verdict({FIGHT: 0.62}, number=2), tenant="victim", queued=False)
        review = http.post("/v1/reviews", json={
            "job_id": decided, "decision": "block", "reason": "a brawl", "rule": FIGHT}).json()  # fmt: skip
    with database.read() as session:
        override = session.scalars(select(Override.id).where(Override.tenant_id == "victim")).one()
        delivery = session.scalars(select(Delivery.id).where(Delivery.tenant_id == "victim")).first()
        frame = session.scalars(select(Evidence.id).where(Evidence.job_id == job)).first()
    return {
        "job_id": job, "batch_id": made_batch["id"], "upload_id": upload["id"], "endpoint_id": endpoint["id"],
        "layer": "house", "name": "layer:house", "item_id": item_of(database, job).id, "review_id": review["id"],
        "override_id": override, "delivery_id": str(delivery), "version": "1", "answer": "confirm", "frame": str(frame),
    }  # fmt: skip


BODIES: dict[str, Any] = {
    "/v1/jobs/{job_id}/hold": {"hold": True, "reason": "x"},
    "/v1/policies/{name}/dry-run": {"category": FIGHT},
    "/v1/policies/{name}/test": {"cases": [{"text": "x", "decision": "block"}]},
    "/v1/queue/{item_id}/skip": {"reason": "x"},
}
OWN_NAMESPACE = "/v1/policies/{layer}/"
"""An edit of a layer makes it where the tenant has none: `house` of one tenant is not that of another."""


def test_another_tenants_ids_are_not_found_on_any_path(server: Running, victim: dict[str, str]) -> None:
    """Every path of the OpenAPI document that takes an id: a route that is added later is attacked as well."""
    tried = 0
    with server.client(*ALL, tenant="eve") as eve, server.client(*ALL, tenant="victim") as owner:
        document = eve.get("/openapi.json").json()
        for path, operations in document["paths"].items():
            if "{" not in path or path.startswith((OWN_NAMESPACE, "/v1/evidence-signed/")):
                continue
            address = path.format(**victim)
            for method in operations:
                headers = {"Upload-Offset": "0"} if method == "patch" else {}
                answer = eve.request(method, address, json=BODIES.get(path), headers=headers)
                assert answer.status_code == 404, (method, path, answer.text)
                assert "victims-secret" not in answer.text
                tried += 1
        assert tried >= 20
        for address in ("/v1/jobs/{job_id}", "/v1/jobs/{job_id}/evidence", "/v1/batches/{batch_id}"):
            assert owner.get(address.format(**victim)).status_code == 200, "the owner finds it"


def test_lists_hold_nothing_of_another_tenant(server: Running, victim: dict[str, str]) -> None:
    with server.client(*ALL, tenant="eve") as eve:
        for path in ("/v1/jobs", "/v1/queue", "/v1/reviews", "/v1/examples", "/v1/appeals", "/v1/audit", "/v1/webhooks",
                     "/v1/webhooks/deliveries", "/v1/policies", "/v1/exports/dsa", "/v1/batches"):  # fmt: skip
            text = eve.get(path).text
            for value in (victim["job_id"], victim["item_id"], victim["endpoint_id"], "victims-secret", "layer:house"):
                assert value not in text, path
        assert eve.get("/v1/reviews", params={"job_id": victim["job_id"]}).json()["data"] == []
        assert eve.get("/v1/webhooks/deliveries", params={"job_id": victim["job_id"]}).status_code == 404


def test_writing_about_another_tenants_job_is_not_found(server: Running, victim: dict[str, str]) -> None:
    job = {"job_id": victim["job_id"]}
    with server.client(*ALL, tenant="eve") as eve:
        for path, fields in {
            "/v1/reviews": {"decision": "allow"}, "/v1/feedback": {"correct": True}, "/v1/appeals": {"statement": "x"},
        }.items():  # fmt: skip
            assert eve.post(path, json=job | fields).status_code == 404, path
        assert eve.post("/v1/queue/claim", json={"item_id": victim["item_id"]}).status_code == 404
        example = {"name": "Mine", "examples": [job | {"rationale": "x"}]}
        assert eve.post("/v1/policies/own/block", json=example).status_code == 404


def test_a_layer_of_the_same_name_is_another_one(server: Running, victim: dict[str, str]) -> None:
    with server.client(*ALL, tenant="eve") as eve, server.client(*ALL, tenant="victim") as owner:
        before = owner.get("/v1/policies/layer:house").json()["hash"]
        eve.post("/v1/policies/house/block", json={"name": "Juggling", "definition": "People juggle."})
        assert owner.get("/v1/policies/layer:house").json()["hash"] == before


@pytest.mark.parametrize(
    ("scopes", "path", "method"),
    [(("read",), "/v1/moderations", "post"), (("submit",), "/v1/jobs", "get"), (("submit", "read"), "/v1/queue", "get"),
     (("submit", "read", "review"), "/v1/audit", "get"), (("review",), "/v1/webhooks", "get")],
)  # fmt: skip
def test_a_key_does_no_more_than_its_scopes(server: Running, scopes: tuple[str, ...], path: str, method: str) -> None:
    with server.client(*scopes, tenant="eve") as eve:
        answer = eve.request(method, path, json={"input": "x"} if method == "post" else None)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer vg_" + "A" * 43},
    {"Authorization": "Basic dXNlcjpwYXNz"}, {"X-API-Key": "' OR 1=1 --"}, {"X-API-Key": "x" * 4000}])  # fmt: skip
def test_no_key_no_answer_and_no_key_in_the_address(server: Running, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=server.url, headers=headers) as http:
        for path in ("/v1/jobs", "/v1/audit", f"/v1/jobs?api_key={server.key()}", "/limits"):
            answer = http.get(path)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/pwned.mp4", "/etc/passwd", "..\\..\\pwned.mp4", "a/../../b.mp4", "-rf", "x" * 3000,
     "\u202e4pm.exe", "con.mp4", ".", "..", "~/x", "a\nb.mp4", "=cmd()|x.mp4"],
)  # fmt: skip
def test_a_file_name_never_becomes_a_path(server: Running, name: str) -> None:
    home = server.service.settings.home
    with server.client("submit", "read") as http:
        answer = http.post("/v1/jobs", files={"file": (name, CLIP, "video/mp4")})
    assert answer.status_code in (202, 422), answer.text
    stored = [path for path in home.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[0-9a-f]{32}(\.\w{1,5})?(\.part)?", p.name) for p in stored if "blobs" in p.parts)
    assert not any("pwned" in path.name for path in stored)


def test_no_id_or_name_reaches_the_file_system(server: Running, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text("schema: 1\nname: mine\nversion: '1'\nrules: {violence: {state: off}}\n")
    with server.client(*ALL) as http:
        for name in (str(policy), f"../../../..{policy}", "default.yaml", "layer:../x", f"file://{policy}"):
            answer = http.post("/v1/moderations", json={"input": "hello", "policy": name})
            assert answer.status_code == 404, (name, answer.text)
        for path in ("/v1/jobs/..%2f..%2fetc%2fpasswd", "/v1/jobs/%2e%2e/%2e%2e/etc/passwd", "/v1/policies/..%2Fx",
                     "/v1/evidence-signed/..%2f..%2fserve.secret.jpg", "/review/static/..%2f..%2fkeys.py",
                     "/v1/batches/%00", "/review/media/..%2f..%2fserve.secret"):  # fmt: skip
            answer = http.get(path, follow_redirects=False)
            assert answer.status_code in (303, 400, 404, 422), (path, answer.status_code)
            assert "root:" not in answer.text
        edit = {"name": "x y", "definition": "d", "below": str(policy)}
        assert http.post("/v1/policies/mine/block", json=edit).status_code in (404, 422)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/secret", "http://localhost:{port}/secret", "http://[::ffff:127.0.0.1]/secret",
     "http://inside.example/secret", "http://metadata.example/latest/meta-data", "http://2130706433/secret",
     "http://public.example/redirect-inside", "http://public.example/redirect-metadata", "file:///etc/passwd",
     "http://public.example:22/", "http://u:p@public.example/"],
)  # fmt: skip
def test_ssrf_by_url_redirect_and_dns(server: Running, net: FakeNetwork, url: str) -> None:
    routes = {
        "/secret": body(CLIP),
        "/redirect-inside": redirect("http://inside.example/secret"),
        "/redirect-metadata": redirect("http://169.254.169.254/latest/meta-data"),
    }
    with web_serving(routes) as web, server.client("submit", "read") as http:
        net.port = web.port
        answer = http.post("/v1/jobs", json={"url": url.format(port=web.port)})
        if answer.status_code == 202:
            job = wait_for(http, answer.json()["id"])
            assert (job["status"], job["error"]["code"]) == ("failed", "url_blocked"), job
            assert "10.0.0.5" not in json.dumps(job)
        else:
            assert (answer.status_code, answer.json()["code"]) == (422, "url_blocked"), answer.text
        part = [{"type": "video_url", "video_url": {"url": url.format(port=web.port)}}]
        assert http.post("/v1/moderations", json={"input": part}).status_code == 422
        assert "/secret" not in [request.path for request in web.seen]


def test_dns_rebinding_between_the_check_and_the_connection(server: Running, net: FakeNetwork) -> None:
    """The first answer is used as it was checked; the second, private, comes too late for it."""
    with web_serving({"/clip": body(CLIP)}) as web, server.client("submit", "read") as http:
        net.port, net.names["rebind.example"] = web.port, [[PUBLIC], ["127.0.0.1"]]
        before = len(net.connections)
        job = wait_for(http, http.post("/v1/jobs", json={"url": "http://rebind.example/clip"}).json()["id"])
        assert job["status"] == "succeeded"
        assert set(net.connections[before:]) == {(PUBLIC, 80)}  # a webhook of another test may be sent meanwhile
        job = wait_for(http, http.post("/v1/jobs", json={"url": "http://rebind.example/clip"}).json()["id"])
        assert job["error"]["code"] == "url_blocked"
        assert [request.path for request in web.seen].count("/clip") == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "gopher://x/",
    "http://localhost/hook", "http://public.example:6379/", "javascript:alert(1)"])  # fmt: skip
def test_callbacks_and_webhooks_are_no_way_in(server: Running, url: str) -> None:
    with server.client(*ALL) as http:
        assert http.post("/v1/webhooks", json={"url": url}).status_code == 422
        form = {"callback_url": url}
        answer = http.post("/v1/jobs", files={"file": ("a.mp4", CLIP, "video/mp4")}, data=form)
        assert (answer.status_code, answer.json()["code"]) == (422, "url_blocked")


def test_a_callback_to_a_name_that_leads_inside_is_never_sent(server: Running, net: FakeNetwork) -> None:
    with web_serving({"/hook": body(b"")}) as web, server.client(*ALL) as http:
        net.port = web.port
        form = {"callback_url": "http://inside.example/hook"}
        job = http.post("/v1/jobs", files={"file": ("a.mp4", CLIP, "video/mp4")}, data=form).json()
        wait_for(http, job["id"])
        for _ in range(100):
            (delivery,) = http.get("/v1/webhooks/deliveries", params={"job_id": job["id"]}).json()["data"]
            if delivery["status"] == "dead":
                break
            time.sleep(0.1)
        assert [one["error"] for one in delivery["tries"]] == ["url_blocked"]
        assert [one for one in web.seen if one.path == "/hook"] == []  # others may come late, from earlier tests


def test_a_replayed_or_altered_webhook_is_known_as_such(server: Running, net: FakeNetwork) -> None:
    with web_serving({"/hook": body(b"")}) as web, server.client(*ALL, tenant="hooked") as http:
        net.port = web.port
        endpoint = http.post("/v1/webhooks", json={"url": "http://public.example/hook"}).json()
        http.post(f"/v1/webhooks/{endpoint['id']}/ping")

        def pings() -> list[Any]:  # deliveries of earlier tests to the same name may still come in
            return [one for one in web.seen if b"moderation.ping" in one.body]

        until(pings)
        sent, now = pings()[0], time.time()
        seen: set[str] = set()

        def receive(content: bytes, at: float, **changes: str) -> str:
            event = webhooks.verify([endpoint["secret"]], sent.headers | changes, content, now=at)
            if event in seen:
                return "known"
            seen.add(event)
            return "new"

        assert [receive(sent.body, now), receive(sent.body, now + 60)] == ["new", "known"]
        for at, content, changes in (
            (now + 400, sent.body, {}), (now, sent.body + b" ", {}), (now, sent.body, {"webhook-id": "evt_other"}),
            (now + 400, sent.body, {"webhook-timestamp": str(int(now + 400))}),
        ):  # fmt: skip
            with pytest.raises(webhooks.InvalidSignature):
                receive(content, at, **changes)


def test_bodies_are_bounded_before_they_are_read(server: Running) -> None:
    with server.client(*ALL) as http:
        huge = {"Content-Type": "application/json", "Content-Length": str(50 << 20)}
        assert _raw(server, "/v1/moderations", huge, server.key(*ALL)).startswith(b"HTTP/1.1 413")

        def endless() -> Iterator[bytes]:
            for _ in range(300):
                yield b"x" * 65536

        answer = http.post("/v1/moderations", content=endless(), headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        big = http.post("/v1/jobs", files={"file": ("a.mp4", CLIP + bytes(3 << 20), "video/mp4")})
        assert big.status_code == 413
        deep = b'{"input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        answer = http.post("/v1/moderations", content=deep, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        many = "&".join(f"f{n}=1" for n in range(2000))
        answer = http.post(
            "/review/sign-in", content=many, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 422
        assert http.get("/healthz").status_code == 200


def test_a_body_from_somebody_without_a_key_is_not_read(server: Running) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": str(100 << 20)}
    started = time.monotonic()
    assert _raw(server, "/v1/moderations", headers, "vg_wrong").startswith(b"HTTP/1.1 401")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("every", [0.1, 5.0])
def test_a_body_that_drips_is_ended(server: Running, every: float) -> None:
    """Nothing for `body_seconds`, or a byte now and then: both end."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as connection:
        head = (
            f"POST /v1/moderations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key(*ALL)}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        )
        connection.sendall(head.encode())
        connection.settimeout(0.05)
        started, next_byte = time.monotonic(), 0.0
        while time.monotonic() - started < 8:
            if time.monotonic() - started >= next_byte:
                next_byte += every
                try:
                    connection.sendall(b" ")
                except OSError:
                    break
            try:
                answer = connection.recv(4096)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 422"), answer
        assert time.monotonic() - started < 5


def test_a_head_that_drips_is_ended() -> None:
    class Quick(HeadTimeoutProtocol):
        head_seconds = 0.3

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("no request was ever complete")

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Quick, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until(lambda: server.started)
    with socket.create_connection(listening.getsockname()) as connection:
        connection.settimeout(5)
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        started, ended = time.monotonic(), False
        while time.monotonic() - started < 4 and not ended:
            time.sleep(0.1)
            try:
                connection.sendall(b"a")
                connection.settimeout(0.01)
                ended = connection.recv(100) in (b"",) or True
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
    server.should_exit = True
    thread.join()
    listening.close()


def test_forged_cursors_are_refused(server: Running, victim: dict[str, str]) -> None:
    for number in range(3):
        add_job(server.service.database, verdict({FIGHT: 0.5}, number=50 + number), tenant="victim", queued=False)
    with server.client(*ALL, tenant="victim") as owner, server.client(*ALL, tenant="eve") as eve:
        cursor = owner.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"]
        assert owner.get("/v1/jobs", params={"limit": 1, "cursor": cursor}).status_code == 200
        payload = base64.urlsafe_b64decode(cursor.split(".")[0] + "==")
        forged = base64.urlsafe_b64encode(payload.replace(b"job_", b"joc_")).rstrip(b"=").decode()
        attempts = [
            (eve, {"cursor": cursor}), (owner, {"cursor": cursor, "status": "failed"}),
            (owner, {"cursor": cursor[:-1]}),
            (owner, {"cursor": f"{forged}.{cursor.split('.')[1]}"}), (owner, {"cursor": "' OR 1=1 --"}),
            (owner, {"cursor": base64.urlsafe_b64encode(b'{"at": 0}').decode()}), (owner, {"cursor": "a.b"}),
        ]  # fmt: skip
        for client, params in attempts:
            answer = client.get("/v1/jobs", params=params)
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, "cursor"), params


def test_sql_in_parameters_is_only_text(server: Running, victim: dict[str, str]) -> None:
    attempts = [
        "' OR '1'='1",
        "1; DROP TABLE jobs --",
        '" OR 1=1',
        "%",
        "_",
        "\\",
        "x' UNION SELECT hash FROM api_keys --",
    ]
    with server.client(*ALL, tenant="eve") as eve:
        for text in attempts:
            for path, name in (("/v1/jobs", "client_ref"), ("/v1/audit", "subject"), ("/v1/reviews", "job_id")):
                answer = eve.get(path, params={name: text})
                assert answer.status_code in (200, 422), (path, text)
                assert victim["job_id"] not in answer.text
        assert eve.get("/v1/jobs").status_code == 200


def test_an_evidence_address_opens_one_picture_for_a_while(server: Running, victim: dict[str, str]) -> None:
    with server.client(*ALL, tenant="victim") as owner, httpx.Client(base_url=server.url) as anybody:
        url = owner.get(f"/v1/jobs/{victim['job_id']}/evidence").json()[0]["url"]
        assert anybody.get(url).headers["content-type"] == "image/jpeg"
        path, _, query = url.partition("?")
        late = server.service.signer.sign_path(path, tenant="victim", seconds=-1)
        other = server.service.signer.sign_path(path, tenant="eve")
        wrong = [
            late,
            other,
            path,
            url.replace("tenant=victim", "tenant=eve"),
            url[:-2],
            f"/v1/evidence-signed/{victim['item_id']}.jpg?{query}",
            re.sub(r"expires=\d+", "expires=9999999999", url),
        ]
        for address in wrong:
            assert anybody.get(address).status_code == 404, address


FORMULAS = ["=cmd|' /C calc'!A0.mp4", "+1+1.mp4", "-2.mp4", "@SUM(1).mp4", "\t=1.mp4"]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_export_carries_a_formula_to_a_spreadsheet(server: Running, name: str) -> None:
    """Exports of the service are JSON; the CSV of scans escapes every cell by the same rule."""
    assert str(escape_cell(name)).startswith("'")
    add_job(
        server.service.database,
        verdict({FIGHT: 0.95}, decision="block", source=name, number=90),
        tenant="csv",
        queued=False,
    )
    with server.client(*ALL, tenant="csv") as http:
        for path in ("/v1/exports/dsa", "/v1/jobs", "/v1/audit"):
            answer = http.get(path)
            assert answer.headers["content-type"].startswith("application/json"), path
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_html_in_names_and_on_screen_text_stays_text(server: Running) -> None:
    hostile = "<script>alert(1)</script>"
    sign = Observation(start_seconds=0.0, end_seconds=1.0, text=f"A sign says {hostile}")
    seen = Judgement(status="ok", engine="vlm", reason=hostile, observations=(sign,))
    job_id = add_job(server.service.database, verdict({FIGHT: 0.62}, source=hostile, judgement=seen), tenant="default")
    item = item_of(server.service.database, job_id)
    with httpx.Client(base_url=server.url, follow_redirects=True) as browser:
        page = browser.post("/review/sign-in", data={"key": server.key("review", "read")})
        page = browser.get(f"/review/items/{item.id}")
        assert "A sign says" in page.text
        assert hostile not in page.text
        assert "'unsafe-inline'" not in page.headers["content-security-policy"]
    with server.client(*ALL) as http:
        answer = http.get(f"/v1/jobs/{job_id}")
        assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == (
            "application/json",
            "nosniff",
        )
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_page_of_another_site_cannot_act_for_a_reviewer(server: Running, victim: dict[str, str]) -> None:
    with httpx.Client(base_url=server.url) as browser:
        cookie = browser.post("/review/sign-in", data={"key": server.key(*ALL, tenant="victim")}).headers["set-cookie"]
        assert "samesite=strict" in cookie.lower()
        target = f"/review/items/{victim['item_id']}/decide"
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = browser.post(target, data={"decision": "allow", "csrf": "guess"}, headers=headers)
            assert answer.status_code == 403
    with server.service.database.read() as session:
        assert session.scalars(select(Review).where(Review.job_id == victim["job_id"])).all() == []


def hostile_media() -> dict[str, bytes]:
    """Files that are not what they say, end early, promise too much, or hold nothing."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(10_000_000))
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    return {
        "empty": b"", "one byte": b"\x00", "text": b"just some text, long enough to be sure\n" * 4,
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n" * 4,
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n" * 4,
        "html": b"<html><script>alert(1)</script></html>" * 4, "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 4,
        "zip bomb": bomb.getvalue(), "elf": b"\x7fELF" + bytes(500), "png bomb": header + bytes(200),
        "box soup": b"\x00\x00\x00\x18ftypisom" + bytes(range(256)) * 8, "cut in half": CLIP[: len(CLIP) // 2],
        "no index": CLIP.replace(b"moov", b"free"), "sound only": media.audio_only(),
        "flipped": bytes(b ^ 0x5A if 900 < n < len(CLIP) - 900 else b for n, b in enumerate(CLIP)),
        "matroska noise": b"\x1aE\xdf\xa3" + bytes(range(255, -1, -1)) * 8,
    }  # fmt: skip


@pytest.mark.parametrize("name", list(hostile_media()))
def test_hostile_media_is_refused_or_undecided_and_never_allowed(server: Running, name: str) -> None:
    content = hostile_media()[name]
    with server.client(*ALL) as http:
        answer = http.post("/v1/jobs", files={"file": ("a.mp4", content, "video/mp4")})
        if answer.status_code == 202:
            job = wait_for(http, answer.json()["id"])
            assert job["decision"] in ("undecided", "review", "block"), job
            if job["status"] == "failed":
                assert job["error"]["code"] != "internal", job
                assert "/" not in job["error"]["message"], "no path of ours"
        else:
            assert answer.status_code in (413, 415, 422), answer.text
        url = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
        sync = http.post("/v1/moderations", json={"input": [{"type": "video_url", "video_url": {"url": url}}]})
        if sync.status_code == 200:
            (result,) = sync.json()["results"]
            assert result["flagged"] or result["decision"] == "undecided", result
        else:
            assert sync.status_code in (413, 415, 422), sync.text
        assert http.get("/readyz").status_code == 200


def test_headers_of_a_client_come_back_only_where_they_are_harmless(server: Running) -> None:
    with server.client(*ALL) as http:
        for given in ("a b", "x" * 100, "<script>", "../x", "ok-1.2_3"):
            got = http.get("/version", headers={"X-Request-Id": given}).headers["x-request-id"]
            assert (got == given) == (given == "ok-1.2_3")
        answer = http.get("/v1/jobs/none", headers={"Host": "evil.example"})
        assert "evil.example" not in answer.text + str(answer.headers)


def test_errors_tell_nothing_of_the_inside(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail at /srv/app/x.py")

    monkeypatch.setattr("serve.routes.jobs.jobs.own_job", broken)
    with server.client(*ALL) as http:
        answer = http.get("/v1/jobs/job_x")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text


def wait_for(http: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
        if job["status"] in ("succeeded", "failed", "canceled"):
            return job
    raise AssertionError(job)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _raw(server: Running, path: str, headers: dict[str, str], key: str) -> bytes:
    """Send a head without its body, and return the beginning of the answer."""
    where = urlsplit(server.url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{lines}\r\n".encode())
        return connection.recv(4096)


def test_the_victims_job_is_as_it_was(server: Running, victim: dict[str, str]) -> None:
    """After everything above, in whatever order it ran."""
    with server.service.database.read() as session:
        assert session.get_one(Job, victim["job_id"]).source == "victims-secret.mp4"


def test_every_test_that_the_document_names_is_there() -> None:
    root = Path(__file__).parent
    text = (root.parent / "docs" / "serve-security.md").read_text(encoding="utf-8")
    defined = set(
        re.findall(r"def (test_\w+)", "".join(p.read_text(encoding="utf-8") for p in root.glob("test_serve_*.py")))
    )
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 30
    assert named - defined == set()
