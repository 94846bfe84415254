"""The front of the service, and `/v1/moderations` as the official `openai` client sees it, over a real server."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import media
import openai
import pytest
import serving
from sqlalchemy import select

from guard import taxonomy
from guard.config import Settings
from serve.commands.serve import _prepare
from serve.keys import KeyRing
from serve.review.overrides import set_override
from serve.service import open_database
from serve.store.tables import ApiKey

INSULT = "you stupid worthless idiot"


def data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    with serving.running(tmp_path_factory.mktemp("serve"), max_json_bytes=1 << 20, max_inputs=8) as made:
        yield made


@pytest.fixture(scope="module")
def clip() -> bytes:
    return media.render(frames=45)


@pytest.fixture
def client(server: serving.Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key("submit"), max_retries=0) as made:
        yield made


def test_a_text_has_all_13_keys_and_our_own_findings(client: openai.OpenAI) -> None:
    answer = client.moderations.create(input=INSULT, model="omni-moderation-latest")
    assert answer.id.startswith("modr-")
    (result,) = answer.results
    assert result.flagged
    assert result.categories.harassment
    assert result.category_scores.harassment > 0.8
    shown = {
        key: getattr(result.category_scores, key.replace("/", "_").replace("-", "_")) for key in taxonomy.OPENAI_KEYS
    }
    assert len(shown) == 13
    assert result.category_applied_input_types.harassment == ["text"]
    assert result.category_applied_input_types.sexual_minors == []  # not assessed, which is not safe
    own = result.model_extra
    assert own is not None
    assert own["decision"] == "block"
    assert own["taxonomy"]["harassment"]["flagged"]
    assert len(own["policy"]["hash"]) == 64
    assert own["versions"]["video_guard"]
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_a_list_of_texts_has_one_result_each_in_order(client: openai.OpenAI) -> None:
    results = client.moderations.create(input=["have a nice day", INSULT, "see you tomorrow"]).results
    assert [result.flagged for result in results] == [False, True, False]


def test_a_clip_an_image_and_a_text_are_one_item(client: openai.OpenAI, clip: bytes) -> None:
    parts = [
        {"type": "video_url", "video_url": {"url": data_url(clip, "video/mp4")}},
        {"type": "image_url", "image_url": {"url": data_url(media.still(), "image/png")}},
        {"type": "text", "text": "have a nice day"},
    ]
    (result,) = client.moderations.create(input=parts).results  # type: ignore[arg-type]
    own = result.model_extra
    assert own is not None
    assert [part["input_type"] for part in own["parts"]] == ["video", "image", "text"]
    gravity = ["allow", "review", "undecided", "block"]
    assert own["decision"] == max((part["decision"] for part in own["parts"]), key=gravity.index)
    assert result.flagged == (own["decision"] != "allow")
    assert "video" in result.category_applied_input_types.violence
    assert own["parts"][0]["coverage"]["frames_scored"] > 0


def test_the_same_clip_gives_the_same_answer_as_the_guard(
    client: openai.OpenAI, server: serving.Running, clip: bytes
) -> None:
    (result,) = client.moderations.create(
        input=[{"type": "video_url", "video_url": {"url": data_url(clip, "video/mp4")}}],  # type: ignore[list-item]
        extra_body={"detail": True},
    ).results
    verdict = server.service.engine.guard.check(clip, name="video")
    own = result.model_extra
    assert own is not None
    assert (own["decision"], own["sha256"], own["rationale"]) == (verdict.decision, verdict.sha256, verdict.rationale)
    assert own["timeline"]["moment_seconds"] == list(verdict.timeline.moment_seconds if verdict.timeline else [])


def test_what_cannot_be_judged_is_flagged_and_says_why(client: openai.OpenAI, clip: bytes) -> None:
    cut = data_url(clip[: len(clip) // 3], "video/mp4")
    (result,) = client.moderations.create(
        input=[{"type": "video_url", "video_url": {"url": cut}}],  # type: ignore[list-item]
        extra_body={"flag_on": "block"},
    ).results
    own = result.model_extra
    assert own is not None
    assert result.flagged
    assert own["decision"] == "undecided"
    assert own["error"]["code"] in ("undecodable", "truncated")


def test_a_policy_by_name_decides(client: openai.OpenAI) -> None:
    (result,) = client.moderations.create(input=INSULT, extra_body={"policy": "firearms"}).results
    own = result.model_extra
    assert own is not None
    assert own["policy"]["name"] == "firearms"
    assert own["decision"] == "review"  # nobody here judges firearms in texts


@pytest.mark.parametrize("name", ["nonsense", "../../etc/passwd", "layer:nobody", "policies/library/default.yaml"])
def test_a_policy_that_is_not_there_is_404_and_no_path_is_opened(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.moderations.create(input="x", extra_body={"policy": name})
    assert caught.value.code == "policy_not_found"


def test_what_a_person_decided_holds_for_the_same_content_and_tenant_only(server: serving.Running) -> None:
    text = "have a nice day"
    with server.client("submit", tenant="people") as people, server.client("submit", tenant="others") as others:
        first = people.post("/v1/moderations", json={"input": text}).json()["results"][0]
        assert first["decision"] == "allow"
        with server.service.database.write() as session:
            set_override(
                session, tenant_id="people", sha256=first["sha256"], decision="block", categories=["harassment"],
                rationale="It mocks somebody.", by="reviewer",
            )  # fmt: skip
        server.service.overrides._none_until.clear()
        again = people.post("/v1/moderations", json={"input": text}).json()["results"][0]
        assert again["decision"] == "block"
        assert again["categories"]["harassment"]
        assert others.post("/v1/moderations", json={"input": text}).json()["results"][0]["decision"] == "allow"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": "x", "polcy": "default"}, "polcy"),
        ({"input": [{"type": "audio_url"}]}, "input"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:text/html;base64,AAAA"}}]}, "input.0"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@@"}}]}, "input.0"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:image/png,plain"}}]}, "input.0"),
        ({"input": ["x"] * 9}, "input"),
    ],
)
def test_a_bad_request_names_the_field(server: serving.Running, body: dict[str, object], param: str) -> None:
    with server.client("submit") as client:
        answer = client.post("/v1/moderations", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == problem["error"]["code"] == "invalid_request"
    assert problem["error"]["param"].startswith(param)
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_urls_are_not_fetched_unless_it_is_switched_on(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.moderations.create(input=[{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}])
    assert caught.value.code == "url_blocked"
    assert "169.254" not in str(caught.value.body)


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer vg_nobody"}, {"X-API-Key": "x"}, {"Authorization": "Basic YTpi"}]
)
def test_without_a_key_nothing_is_read(server: serving.Running, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{server.url}/v1/moderations", json={"input": "x"}, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_without_the_scope_is_refused(server: serving.Running) -> None:
    with server.client("read") as client:
        answer = client.post("/v1/moderations", json={"input": "x"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: serving.Running) -> None:
    """The size is announced and nothing sent: an answer can only come from the header."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as raw:
        head = f"POST /v1/moderations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key('submit')}\r\n"
        raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n".encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_body_that_grows_without_a_length_is_cut_off(server: serving.Running) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"input": "'
        for _ in range(64):
            yield b"x" * 65536
        yield b'"}'

    with server.client("submit") as client:
        answer = client.post("/v1/moderations", content=pieces(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_only_files_may_be_as_large_as_files(server: serving.Running) -> None:
    large = b'{"upload_id": "' + b"x" * (2 << 20) + b'"}'
    with server.client("submit", "read", "admin") as client:
        for path in ("/v1/jobs", "/v1/jobs/job_1/hold", "/v1/batches/batch_1/cancel"):
            answer = client.post(path, content=large, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), path
        for method in ("PROPFIND", "OPTIONS", "MKCOL"):
            assert client.request(method, "/v1/jobs").status_code == 405


def test_bodies_in_memory_are_bounded_together(server: serving.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    tight = server.service.serve.model_copy(update={"max_bodies_bytes": 4096})
    asked = {"input": "x" * 5000}
    with server.client("submit") as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(server.service), "serve", property(lambda self: tight), raising=True)
            full = client.post("/v1/moderations", json=asked)
            assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (503, "capacity", "1")
            grows = client.post("/v1/moderations", content=iter([b'{"input": "', b"x" * 5000, b'"}']))
            assert grows.status_code == 503
            for _ in range(5):  # what is answered makes room again
                assert client.post("/v1/moderations", json={"input": "x" * 2000}).status_code == 200
        assert client.post("/v1/moderations", json=asked).status_code == 200


def test_json_that_is_none_is_400(server: serving.Running) -> None:
    with server.client("submit") as client:
        answer = client.post("/v1/moderations", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_an_unknown_address_and_a_wrong_method_have_the_same_form(server: serving.Running) -> None:
    with server.client("submit") as client:
        missing, wrong = client.get("/v1/nothing"), client.get("/v1/moderations")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_a_request_id_is_taken_over_only_where_it_is_harmless(server: serving.Running) -> None:
    with server.client("submit") as client:
        kept = client.get("/healthz", headers={"X-Request-Id": "trace-7"})
        made = client.get("/healthz", headers={"X-Request-Id": "a b<script>"})
    assert kept.headers["x-request-id"] == "trace-7"
    assert made.headers["x-request-id"].startswith("req_")


def test_health_readiness_version_metrics_and_limits(server: serving.Running) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{server.url}/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert httpx.get(f"{server.url}/version").json()["video_guard"]
    assert httpx.get(f"{server.url}/limits").status_code == 401
    with server.client("read", "submit") as client:
        limits = client.get("/limits").json()
        client.post("/v1/moderations", json={"input": "hello"})
    assert limits["service"]["max_json_bytes"] == 1 << 20
    assert limits["media"]["max_seconds"] > 0
    text = httpx.get(f"{server.url}/metrics").text
    assert 'guard_requests_total{method="POST",route="/v1/moderations",status="200"}' in text
    assert 'guard_verdicts_total{decision="allow"' in text


def test_every_answer_carries_the_security_headers(server: serving.Running) -> None:
    for path in ("/healthz", "/v1/nothing"):
        headers = httpx.get(f"{server.url}{path}").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"


def test_an_error_inside_tells_nothing(server: serving.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(type(server.service.policies), "resolve", broken)
    with server.client("submit") as client:
        answer = client.post("/v1/moderations", json={"input": "x"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text


def test_a_key_that_asks_too_often_is_told_when_to_come_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving.running(tmp_path_factory.mktemp("rate"), rate_per_second=0.5, rate_burst=2) as slow:
        with slow.client("submit") as client:
            answers = [client.get("/v1/nothing") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [404, 404, 429]
        assert answers[2].json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(answers[2].headers["retry-after"]) <= 2
        assert answers[0].headers["ratelimit"].startswith('"key";r=1')


def test_a_full_line_is_503_with_a_time_to_come_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        serving.running(tmp_path_factory.mktemp("full"), max_pending_texts=4) as small,
        small.client("submit") as client,
    ):
        answer = client.post("/v1/moderations", json={"input": ["x"] * 5})
        assert (answer.status_code, answer.json()["code"]) == (503, "capacity")
        assert answer.headers["retry-after"]
        assert client.post("/v1/moderations", json={"input": ["x"] * 4}).status_code == 200


def test_the_document_is_openapi_3_1_with_our_errors_only(server: serving.Running) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "HTTPValidationError" not in json.dumps(document)
    answers = document["paths"]["/v1/moderations"]["post"]["responses"]
    assert set(answers) >= {"200", "401", "403", "413", "422", "429", "503", "504"}


def test_the_first_start_prints_a_key_once_and_takes_over_those_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "k" * 40
    for number, settings in enumerate([Settings(home=tmp_path / "a"), Settings(home=tmp_path / "b", api_keys=own)]):
        for start in range(2):
            _prepare(settings)
            printed = "vg_" in capsys.readouterr().err
            assert printed == (number == 0 and start == 0)
        database = open_database(settings)
        with database.read() as session:
            (row,) = session.scalars(select(ApiKey)).all()
        assert set(row.scopes) == {"submit", "read", "review", "admin"}
        assert own not in (row.hash, row.name)
        if number:
            found = KeyRing(database).principal(own)
            assert found is not None
            assert found.tenant_id == "default"
        database.close()


def test_an_answer_that_is_remembered_needs_no_database(
    server: serving.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick way of a text: once key and policy are known, no query is made before the answer."""
    service = server.service
    with server.client("submit") as client:
        for _ in range(2):
            assert client.post("/v1/moderations", json={"input": "hello"}).status_code == 200
        assert service.overrides.none_for("default")
        asked: list[str] = []
        real = type(service.database).read
        monkeypatch.setattr(type(service.database), "read", lambda self: asked.append("read") or real(self))
        assert client.post("/v1/moderations", json={"input": "hello"}).status_code == 200
    assert asked == []
