"""Requests made from the OpenAPI document, on SQLite and PostgreSQL: no 5xx, no status that is not documented."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import databases
import httpx
import pytest
import schemathesis
import serving
from hypothesis import HealthCheck, given, settings
from schemathesis.schemas import APIOperation

from serve.workers import start_workers

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "4"))
BINARY = ("application/jsonl", "application/offset+octet-stream")
"""Bodies that the tool cannot write; they go as bytes."""


@pytest.fixture(scope="module", params=databases.KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    home: Path = tmp_path_factory.mktemp("schema")
    url = {"database_url": databases.fresh_url(request.param, home)}
    options = {"poll_seconds": 0.1, "sync_seconds": 10.0, "max_wait_seconds": 0.1, "max_upload_bytes": 200_000}
    with serving.running(home, run=start_workers, settings=url, **options) as made:
        yield made


def operations(url: str) -> list[APIOperation]:
    for kind in BINARY:
        schemathesis.serializer(kind)(
            lambda _context, value: value if isinstance(value, bytes) else str(value).encode()
        )
    return [found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]


@pytest.mark.slow
def test_no_request_from_the_document_is_answered_with_5xx_or_an_undocumented_status(server: serving.Running) -> None:
    headers = {"Authorization": f"Bearer {server.key('submit', 'read', 'review', 'admin')}"}
    answers = [answer for operation in operations(server.url) for answer in asked(operation, headers)]
    assert len(answers) > EXAMPLES * 25
    assert [answer for answer in answers if answer[2] >= 500 or not answer[3]] == []


def asked(operation: APIOperation, headers: dict[str, str]) -> list[tuple[str, str, int, bool, str]]:
    """Make requests for one operation; returns method, path, status, whether that is documented, and the answer."""
    found: list[tuple[str, str, int, bool, str]] = []
    documented = set(operation.definition.raw["responses"])

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy())
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(headers=headers)
        known = str(answer.status_code) in documented
        found.append((case.method, case.path, answer.status_code, known, answer.text[:200]))

    ask()
    return found


def test_every_operation_refuses_a_request_without_a_key(server: serving.Running) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    opened = []
    for path, methods in document["paths"].items():
        for method in methods:
            status = httpx.request(method, f"{server.url}{path}").status_code
            if status != 401:
                opened.append((path, status))
    assert {path for path, _ in opened} == {
        "/healthz", "/readyz", "/metrics", "/version", "/v1/evidence-signed/{name}.jpg"
    }  # fmt: skip
