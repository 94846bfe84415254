"""The tables, on SQLite and on PostgreSQL: migrations, transactions, moments, and the log that cannot be changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import databases
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from guard.config import Settings
from guard.errors import BackendError, InvalidConfig
from serve.store.migrate import current, migrate
from serve.store.people import AuditEntry, Review
from serve.store.session import Database, database_url
from serve.store.tables import Base, Job, Result, Tenant, Usage


@pytest.fixture(params=databases.KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made = databases.fresh(request.param, tmp_path)
    yield made
    made.close()


def test_the_migrations_make_exactly_the_tables_of_the_models(database: Database) -> None:
    assert Review.__tablename__ in Base.metadata.tables
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_back_leaves_nothing_and_forward_again_everything(database: Database) -> None:
    from alembic import command

    from serve.store.migrate import _config

    with database.engine.begin() as connection:
        command.downgrade(_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
    assert migrate(database) is not None
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) >= set(Base.metadata.tables)


def test_processes_that_start_at_once_migrate_once(database: Database, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    url = databases.fresh_url("sqlite" if database.is_sqlite else "postgresql", tmp_path / "other")
    others = [Database(url) for _ in range(4)]
    reached: list[str | None] = []
    threads = [threading.Thread(target=lambda d=d: reached.append(migrate(d))) for d in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with others[0].engine.connect() as connection:
        assert reached == [current(connection)] * 4
    for other in others:
        other.close()


def test_a_database_of_newer_code_is_refused(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BackendError, match="9999"):
        migrate(database)


def test_moments_keep_their_zone_and_naive_ones_are_refused(database: Database) -> None:
    east = timezone(timedelta(hours=9))
    moment = datetime(2026, 3, 1, 8, 0, 0, 123456, tzinfo=east)
    with database.write() as session:
        session.add(Tenant(id="a", name="A", created_at=moment))
    with database.read() as session:
        found = session.get_one(Tenant, "a").created_at
        assert found == moment
        assert found.tzinfo is UTC
    with pytest.raises((ValueError, StatementError), match="zone"), database.write() as session:
        session.add(Tenant(id="b", name="B", created_at=datetime(2026, 3, 1)))


def test_a_write_that_raises_keeps_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            session.add(Tenant(id="a", name="A"))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as session:
        assert session.scalars(select(Tenant)).all() == []


def test_a_job_has_one_result(database: Database) -> None:
    row = {"tenant_id": "a", "decision": "allow", "risk": 0.1, "policy_name": "p", "policy_version": "1"}
    with database.write() as session:
        session.add(Tenant(id="a", name="A"))
        session.flush()
        job = Job(tenant_id="a", source="x")
        session.add(job)
        session.flush()
        session.add(Result(job_id=job.id, policy_hash="0" * 64, verdict={}, **row))
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(Result(job_id=job.id, policy_hash="0" * 64, verdict={}, **row))


def test_writers_that_race_lose_no_count(database: Database) -> None:
    """Eight threads add 1 a hundred times in all by read, then write: only a lock taken at the start keeps them all."""
    with database.write() as session:
        session.add(Tenant(id="a", name="A"))
        session.flush()
        session.add(Usage(tenant_id="a", day="2026-01-01"))

    def add() -> None:
        for _ in range(12):
            with database.write() as session:
                row = session.execute(select(Usage).with_for_update()).scalar_one()
                row.jobs += 1

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.execute(select(Usage.jobs)).scalar_one() == 96


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
def test_the_database_itself_keeps_the_audit_log(database: Database, statement: str) -> None:
    entry = {"at": "2026-01-01T00:00:00Z", "actor": "a", "action": "x", "subject": "s", "details": "{}"}
    with database.write() as session:
        session.add(AuditEntry(tenant_id="a", number=1, previous_hash="", hash="0" * 64, **entry))
    with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
        session.execute(text(statement))
    with database.read() as session:
        assert session.execute(select(AuditEntry.actor)).scalars().all() == ["a"]


@pytest.mark.parametrize("url", ["nonsense", "mysql://a/b", "sqlite://", "sqlite:///:memory:"])
def test_urls_that_cannot_serve_are_refused(url: str) -> None:
    with pytest.raises(InvalidConfig):
        Database(url)


def test_the_database_is_a_file_at_home_by_default(tmp_path: Path) -> None:
    assert database_url(Settings(home=tmp_path)) == f"sqlite:///{tmp_path / 'serve.sqlite3'}"
    assert database_url(Settings(database_url="postgresql://db/x")) == "postgresql://db/x"
