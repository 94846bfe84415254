"""Bring a database to the version of this code. Many processes may start at once: one migrates, the others wait."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from guard.errors import BackendError
from serve.store.session import Database

_LOCK = 0x67756172  # "guar": any number that nobody else takes
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database, *, to: str = "head") -> str | None:
    """Run the migrations that are missing, and return the version reached.

    Raises:
        BackendError: the database was written by newer code.
    """
    with _alone(database), database.engine.execution_options(begin_immediate=True).begin() as connection:
        config = _config(connection)
        _refuse_newer(connection, config)
        command.upgrade(config, to)
        return current(connection)


def current(connection: Connection) -> str | None:
    """Return the version of the database, or None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _refuse_newer(connection: Connection, config: Config) -> None:
    have = current(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if have is not None and have not in known:
        raise BackendError(
            f"The database is at version {have!r}, which this version of video-guard does not know.",
            hint="Run the version that wrote it, or a newer one.",
        )


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    if database.is_sqlite:
        lock = Path(f"{database.url.database}.migrating")
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
