"""API keys: who may do what, and what the database holds of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from guard.errors import InvalidConfig, UsageError
from serve import keys
from serve.keys import KeyRing
from serve.store.migrate import migrate
from serve.store.people import AuditEntry
from serve.store.session import Database
from serve.store.tables import ApiKey, Tenant, utc_now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/keys.sqlite3")
    migrate(made)
    yield made
    made.close()


def make(database: Database, **changes: object) -> keys.NewKey:
    values = {"name": "ana", "scopes": ["read", "submit"]} | changes
    with database.write() as session:
        return keys.create(session, **values)  # type: ignore[arg-type]


def test_a_key_opens_its_tenant_and_scopes_and_only_its_hash_is_kept(database: Database) -> None:
    made = make(database, tenant="acme")
    principal = KeyRing(database).principal(made.key)
    assert principal is not None
    assert (principal.tenant_id, principal.name, principal.key_id) == ("acme", "ana", made.id)
    assert [principal.may(scope) for scope in keys.SCOPES] == [True, True, False, False]
    assert made.key.startswith("vg_")
    assert len(made.key) == 46
    with database.read() as session:
        rows = [*session.execute(text("SELECT * FROM api_keys")), *session.execute(text("SELECT * FROM audit_log"))]
    kept = " ".join(str(row) for row in rows)
    assert made.key not in kept
    assert keys.hash_key(made.key) in kept


@pytest.mark.parametrize(
    "presented", [None, "", "vg_", "x" * 600, "vg_" + "A" * 43, "vg_\x00", "vg_ü", "a b", "\ud800"]
)
def test_nothing_else_opens_anything(database: Database, presented: str | None) -> None:
    make(database)
    assert KeyRing(database).principal(presented) is None


def test_admin_may_everything(database: Database) -> None:
    principal = KeyRing(database).principal(make(database, scopes=["admin"]).key)
    assert principal is not None
    assert all(principal.may(scope) for scope in keys.SCOPES)


def test_revoked_expired_and_disabled_keys_end_within_the_time_promised(database: Database) -> None:
    now = [0.0]
    ring = KeyRing(database, clock=lambda: now[0], remember=5)
    made, expired = make(database), make(database, expires_at=utc_now() - timedelta(seconds=1))
    other = make(database, tenant="other")
    assert ring.principal(expired.key) is None
    with database.read() as session:
        assert {keys.state(row) for row in keys.listed(session)} == {"active", "expired"}
    assert ring.principal(made.key)
    assert ring.principal(other.key)
    with database.write() as session:
        keys.revoke(session, made.id)
        tenant = session.get(Tenant, "other")
        assert tenant is not None
        tenant.disabled_at = utc_now()
    assert ring.by_id(made.id) is None
    now[0] = 5.0
    assert ring.principal(made.key) is None
    assert ring.principal(other.key) is None


def test_use_is_noted_once_a_minute(database: Database) -> None:
    made = make(database)
    for _ in range(3):
        assert KeyRing(database, remember=0).principal(made.key)
    with database.write() as session:
        row = session.get(ApiKey, made.id)
        assert row is not None
        first = row.last_used_at
        assert first is not None
        row.last_used_at = first - timedelta(minutes=2)
    KeyRing(database).principal(made.key)
    with database.read() as session:
        row = session.get(ApiKey, made.id)
        assert row is not None
        assert row.last_used_at is not None
        assert row.last_used_at >= first


@pytest.mark.parametrize(
    "wrong",
    [{"scopes": []}, {"scopes": ["root"]}, {"tenant": "A/../b"}, {"tenant": ""}, {"name": " "}, {"key": "short"},
     {"key": "has blanks in it and is long enough"}],
)  # fmt: skip
def test_a_wrong_key_is_not_made(database: Database, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        make(database, **wrong)
    with database.read() as session:
        assert session.scalars(select(ApiKey)).all() == []


def test_a_key_of_another_tenant_cannot_be_revoked(database: Database) -> None:
    made = make(database, tenant="acme")
    with pytest.raises(UsageError, match="no key"), database.write() as session:
        keys.revoke(session, made.id, tenant="other")
    assert KeyRing(database).principal(made.key)


def test_making_and_ending_are_on_record(database: Database) -> None:
    made = make(database)
    for _ in range(2):
        with database.write() as session:
            keys.revoke(session, made.id, by="bo")
    with database.read() as session:
        assert [(e.action, e.actor) for e in session.scalars(select(AuditEntry))] == [
            ("key.created", "system"),
            ("key.revoked", "bo"),
        ]
        assert [(row.name, keys.state(row)) for row in keys.listed(session)] == [("ana", "revoked")]


def test_keys_of_the_environment_are_made_once_and_stay_revoked(database: Database) -> None:
    given = f"{'a' * 40}, acme:submit+read:{'b' * 40}"
    for made in (2, 0):
        with database.write() as session:
            assert keys.import_keys(session, given) == made
    principal = KeyRing(database).principal("b" * 40)
    assert principal is not None
    assert (principal.tenant_id, principal.scopes) == ("acme", {"submit", "read"})
    with database.write() as session:
        keys.revoke(session, principal.key_id)
        keys.import_keys(session, given)
    assert KeyRing(database).principal("b" * 40) is None


@pytest.mark.parametrize("given", ["short", "a:b", "acme:submit:short", "a:b:c:d"])
def test_a_malformed_environment_names_the_entry_and_not_the_key(given: str) -> None:
    with pytest.raises(InvalidConfig, match="ntry 2") as caught:
        keys.parse_keys(f"{'k' * 40},{given}")
    assert "k" * 40 not in caught.value.message


def test_a_key_opens_where_its_use_cannot_be_noted(database: Database) -> None:
    made = make(database)
    with database.write() as session:  # what a full disk says of every write
        session.execute(text("PRAGMA query_only=ON"))
    found = KeyRing(database, remember=0).principal(made.key)
    assert found is not None
    with database.read() as session:
        session.execute(text("PRAGMA query_only=OFF"))
        assert session.get_one(ApiKey, made.id).last_used_at is None
