"""The review over the API: what a program does that brings its own page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import databases
import httpx
import pytest
import serving
from review_cases import FIGHT, add_job, sha, verdict
from serving import Running
from sqlalchemy import select

from guard.types import PolicyRef
from serve.store.people import Override

REVIEWER = ("review", "read", "submit")


@pytest.fixture(scope="module", params=databases.KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("api")
    settings = {"policy": "screen", "database_url": databases.fresh_url(request.param, home)}
    with serving.running(home, settings=settings) as run:
        yield run


@pytest.fixture
def ana(server: Running, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a tenant that this test has for itself."""
    with server.client(*REVIEWER, tenant=f"t{abs(hash(request.node.name)) % 10**9}") as client:
        client.headers["x-test-tenant"] = f"t{abs(hash(request.node.name)) % 10**9}"
        yield client


def job(server: Running, ana: httpx.Client, number: int = 1, score: float = 0.62, **changes: object) -> str:
    options = {name: changes.pop(name) for name in ("age", "queued") if name in changes}
    found = verdict({FIGHT: score}, number=number, **changes)  # type: ignore[arg-type]
    return add_job(server.service.database, found, tenant=ana.headers["x-test-tenant"], **options)  # type: ignore[arg-type]


def test_claim_decide_and_undo(server: Running, ana: httpx.Client) -> None:
    job_id = job(server, ana)
    queue = ana.get("/v1/queue").json()
    assert queue["counts"]["waiting"] == 1
    assert queue["data"][0]["job"]["id"] == job_id
    assert ana.post("/v1/reviews", json={"job_id": job_id, "decision": "block"}).status_code == 409
    item = ana.post("/v1/queue/claim", json={}).json()
    assert item["job_id"] == job_id
    made = ana.post(
        "/v1/reviews",
        json={"job_id": job_id, "decision": "block", "categories": [FIGHT], "reason": "a brawl", "seconds_spent": 12.5,
              "segments": [{"start_seconds": 2, "end_seconds": 6, "category": FIGHT}]},
    )  # fmt: skip
    assert made.status_code == 201
    review = made.json()
    assert (review["agrees"], review["machine_decision"]) == (True, "review")
    assert ana.get("/v1/reviews", params={"job_id": job_id}).json()["data"] == [review]
    assert ana.get(f"/v1/jobs/{job_id}/result").json()["final_decision"] == "block"
    undone = ana.post(f"/v1/reviews/{review['id']}/undo").json()
    assert undone["undone_at"] is not None
    assert ana.get(f"/v1/jobs/{job_id}/result").json()["final_decision"] == "review"
    assert ana.get("/v1/queue").json()["data"][0]["held"] is True
    assert ana.post(f"/v1/queue/{item['id']}/skip", json={"reason": "not sure"}).json()["skips"] == 1
    assert ana.post("/v1/queue/claim", json={}).status_code == 204


def test_what_a_relabelling_came_to_is_the_final_decision(server: Running, ana: httpx.Client) -> None:
    job_id = job(server, ana, 31, score=0.02, decision="allow", queued=False)
    body = {"job_id": job_id, "decision": "relabel", "categories": [FIGHT], "reason": "a brawl after all"}
    assert ana.post("/v1/reviews", json=body).status_code == 201
    with server.service.database.read() as session:
        assert session.scalar(select(Override.decision).where(Override.job_id == job_id)) == "block"
    assert ana.get(f"/v1/jobs/{job_id}/result").json()["final_decision"] == "block"
    assert [s["puid"] for s in ana.get("/v1/exports/dsa").json()["statements"]] == [job_id]
    ana.post("/v1/appeals", json={"job_id": job_id, "statement": "It is a dance."}).raise_for_status()
    ana.headers["authorization"] = f"Bearer {server.key('review', 'read', tenant=ana.headers['x-test-tenant'])}"
    ana.post("/v1/queue/claim", json={}).raise_for_status()
    ana.post("/v1/reviews", json={"job_id": job_id, "decision": "allow"}).raise_for_status()
    assert ana.get("/v1/appeals").json()["data"][0]["status"] == "accepted"
    assert ana.get(f"/v1/jobs/{job_id}/result").json()["final_decision"] == "allow"


def test_a_policy_that_has_gone_cannot_say_what_a_relabelling_means(server: Running, ana: httpx.Client) -> None:
    gone = PolicyRef(name="layer:gone", version="1", hash="e" * 64)
    job_id = job(server, ana, 32, policy=gone, queued=False)
    body = {"job_id": job_id, "decision": "relabel", "categories": [FIGHT], "reason": "a brawl"}
    answer = ana.post("/v1/reviews", json=body)
    assert answer.status_code in (400, 422)
    assert "not there any more" in answer.json()["detail"]
    assert ana.post("/v1/reviews", json=body | {"decision": "block"}).status_code == 201


def test_the_queue_is_read_in_pages_by_reason(server: Running, ana: httpx.Client) -> None:
    for number in range(5):
        job(server, ana, number, score=0.2 + number / 10, age=timedelta(minutes=number))
    job(server, ana, 9, decision="undecided")
    first = ana.get("/v1/queue", params={"limit": 2}).json()["data"]
    rest = ana.get("/v1/queue", params={"limit": 10, "offset": 2}).json()["data"]
    assert len({line["id"] for line in first + rest}) == 6
    assert [line["reason"] for line in ana.get("/v1/queue", params={"reason": "undecided"}).json()["data"]] == [
        "undecided"
    ]
    for wrong in ({"limit": 0}, {"limit": 201}, {"offset": -1}):
        assert ana.get("/v1/queue", params=wrong).status_code == 422


def test_an_example_is_confirmed_by_another_key(server: Running, ana: httpx.Client) -> None:
    tenant = ana.headers["x-test-tenant"]
    job_id = job(server, ana, 7, queued=False)
    body = {"job_id": job_id, "decision": "block", "rule": FIGHT, "reason": "Seen from above.", "layer": "house"}
    assert ana.post("/v1/reviews", json=body | {"reason": ""}).status_code in (400, 422)
    ana.post("/v1/reviews", json=body)
    (example,) = ana.get("/v1/examples").json()["data"]
    assert (example["sha256"], example["exemplar_status"], example["decision"]) == (sha(7), "pending", "block")
    assert ana.post(f"/v1/examples/{example['id']}/confirm").status_code == 409
    with server.client("review", "admin", tenant=tenant) as bo:
        assert bo.post(f"/v1/examples/{example['id']}/confirm").json()["exemplar_status"] == "confirmed"
        assert ana.get("/v1/examples").json()["data"] == []
        policy = ana.get("/v1/policies/layer:house").json()
        assert "Seen from above." in str(policy)
        assert bo.delete(f"/v1/overrides/{example['id']}").status_code == 204
        assert bo.delete(f"/v1/overrides/{example['id']}").status_code in (204, 404)
    assert ana.delete(f"/v1/overrides/{example['id']}").status_code == 403


def test_an_appeal_and_feedback(server: Running, ana: httpx.Client) -> None:
    job_id = job(server, ana, 8, decision="block", queued=False)
    filed = ana.post("/v1/appeals", json={"job_id": job_id, "statement": "It is a dance.", "reporter_ref": "u7"})
    assert (filed.status_code, filed.json()["status"]) == (201, "open")
    assert ana.post("/v1/appeals", json={"job_id": job_id, "statement": "Again."}).status_code == 409
    ana.post("/v1/queue/claim", json={})
    ana.post("/v1/reviews", json={"job_id": job_id, "decision": "allow", "reason": "A dance."})
    (appeal,) = ana.get("/v1/appeals", params={"status": "accepted"}).json()["data"]
    assert (appeal["resolution"], appeal["reporter_ref"]) == ("A dance.", "u7")
    said = ana.post("/v1/feedback", json={"job_id": job_id, "correct": False, "label": FIGHT})
    assert said.status_code == 201
    assert ana.post("/v1/feedback", json={"job_id": job_id, "correct": False, "label": "x.y"}).status_code in (400, 422)


@pytest.mark.parametrize(
    "body",
    [{"decision": "block"}, {"job_id": "x", "decision": "burn"}, {"job_id": "x", "decision": "allow", "extra": 1},
     {"job_id": "x", "decision": "allow", "segments": [{"start_seconds": -1, "end_seconds": 1, "category": "a"}]},
     {"job_id": "../x", "decision": "allow"}, {"job_id": "x", "decision": "allow", "layer": "../x"}],
)  # fmt: skip
def test_malformed_decisions_are_refused_with_their_field(ana: httpx.Client, body: dict[str, object]) -> None:
    answer = ana.post("/v1/reviews", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["error"]["param"]


def test_reviewers_need_their_scope_and_admins_may_withdraw(server: Running, ana: httpx.Client) -> None:
    with server.client("submit", "read", tenant=ana.headers["x-test-tenant"]) as client:
        for method, path in (("GET", "/v1/queue"), ("POST", "/v1/queue/claim"), ("GET", "/v1/examples")):
            assert client.request(method, path, json={} if method == "POST" else None).status_code == 403
