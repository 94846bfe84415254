"""`guard keys` and `guard verify-audit`, as they are run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from serve.cli import app
from serve.failures import Exit
from serve.keys import KeyRing
from serve.store.session import Database


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("GUARD_DATABASE_URL", f"sqlite:///{tmp_path}/serve.sqlite3")
    return Database(f"sqlite:///{tmp_path}/serve.sqlite3")


def test_a_key_is_made_shown_once_and_ended(database: Database) -> None:
    made = json.loads(run("keys", "create", "ana", "--scopes", "review,read", "--tenant", "acme", "--json"))
    principal = KeyRing(database).principal(made["key"])
    assert principal is not None
    assert (principal.tenant_id, principal.scopes) == ("acme", {"read", "review"})
    assert made["key"] not in run("keys", "list") + run("keys", "list", "--json")
    run("keys", "revoke", made["id"])
    assert KeyRing(database).principal(made["key"]) is None
    assert json.loads(run("keys", "list", "--json"))[0]["state"] == "revoked"
    assert json.loads(run("keys", "list", "--tenant", "other", "--json")) == []


def test_the_log_is_whole_until_somebody_touches_it(database: Database, tmp_path: Path) -> None:
    anchors = tmp_path / "anchors.jsonl"
    for name in ("ana", "bo", "cy"):
        run("keys", "create", name)
    assert "whole" in run("verify-audit", "--write-anchors", str(anchors))
    assert json.loads(run("verify-audit", "--anchors", str(anchors), "--json"))["ok"] is True
    with database.write() as session:
        for name in session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            session.execute(text(f"DROP TRIGGER {name}"))
        session.execute(text("DELETE FROM audit_log WHERE number = 3"))
    run("verify-audit")
    found = json.loads(run("verify-audit", "--anchors", str(anchors), "--json", code=Exit.FAIL_ON_MATCHED))
    assert [problem["kind"] for problem in found["chains"][0]["problems"]] == ["truncated"]
    kept = anchors.read_text()
    run("verify-audit", "--anchors", str(anchors), "--write-anchors", str(anchors), code=Exit.FAIL_ON_MATCHED)
    assert anchors.read_text() == kept, "a broken log is not noted as the truth"
