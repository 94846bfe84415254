"""Connections to the database: SQLite in one file by default, PostgreSQL by its URL.

Reads and writes are asked for by name, because SQLite wants to know at the start of a transaction: one that begins with
a read and then writes fails where another process wrote meanwhile, while `BEGIN IMMEDIATE` waits its turn.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from guard import plugins
from guard.config import Settings
from guard.errors import BackendError, Capacity, InvalidConfig
from serve.request_errors import InvalidRequest

BUSY_MS = 15_000
"""How long a SQLite writer waits for another; each holds the lock for milliseconds."""
POOL_SECONDS = 10.0
"""How long a request waits for a connection before it is told to come back."""
FILE = "serve.sqlite3"


def database_url(settings: Settings) -> str:
    """Return the URL that `settings` ask for, by default of a SQLite file in the home of video-guard."""
    return settings.database_url or f"sqlite:///{settings.home / FILE}"


class Database:
    """One database and its pool of connections. Safe for threads; each process makes its own."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        """Prepare connections; none is opened yet.

        Args:
            url: `sqlite:///FILE`, or `postgresql://USER:PASSWORD@HOST/NAME`.
            pool_size: most connections at once.

        Raises:
            InvalidConfig: the URL is of neither kind.
        """
        self.url = _parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _engine(self.url, pool_size)
        immediate = self.engine.execution_options(begin_immediate=True)
        self._readers = sessionmaker(self.engine, expire_on_commit=False)
        self._writers = sessionmaker(immediate, expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session to read with; what it changes is not kept."""
        with _reported(), self._readers() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session in a transaction: kept whole when the block ends, dropped whole when it raises."""
        with _reported(), self._writers() as session, session.begin():
            yield session

    def ping(self) -> None:
        """Ask for one row. Raises `BackendError` where the database does not answer."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


@contextmanager
def _reported() -> Iterator[None]:
    """Turn the loss of the database into an error to retry, and text that it cannot hold into one that is not.

    PostgreSQL has no NUL in text, and neither has lone surrogates.
    """
    try:
        yield
    except (DataError, UnicodeEncodeError) as error:
        raise InvalidRequest("The request holds a character or a number that cannot be kept.") from error
    except PoolTimeout as error:
        raise Capacity("All connections to the database are in use.") from error
    except OperationalError as error:
        raise BackendError("The database does not answer.", hint="Try again; see `/readyz`.") from error


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, SQLAlchemyError) as error:
        raise InvalidConfig("GUARD_DATABASE_URL is not a database URL.", hint=_URL_HINT) from error
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise InvalidConfig("A SQLite database must be a file: several connections share it.", hint=_URL_HINT)
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        return parsed
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise InvalidConfig(f"GUARD_DATABASE_URL is of kind {backend!r}; sqlite and postgresql are kept.", hint=_URL_HINT)


_URL_HINT = "Such as sqlite:////var/lib/guard/serve.sqlite3 or postgresql://guard:secret@db/guard."


def _engine(url: URL, pool_size: int) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            connect_args={"timeout": BUSY_MS / 1000},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return create_engine(
            url, pool_size=pool_size, max_overflow=0, pool_timeout=POOL_SECONDS, pool_pre_ping=True, pool_recycle=1800
        )
    except ModuleNotFoundError as error:
        raise plugins.missing_extra("PostgreSQL", error.name or "psycopg") from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin its own transactions, and never an immediate one
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("begin_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
