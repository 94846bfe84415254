"""Databases for tests: a SQLite file each, or a fresh database of one throw-away PostgreSQL cluster per test run."""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import psycopg
import pytest

from serve.store.migrate import migrate
from serve.store.session import Database

KINDS = ("sqlite", "postgresql")


def fresh_url(kind: str, folder: Path) -> str:
    """Return the URL of an empty database."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'test.sqlite3'}"
    port = _cluster()
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(f"postgresql://guard@127.0.0.1:{port}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
    return f"postgresql://guard@127.0.0.1:{port}/{name}"


def fresh(kind: str, folder: Path) -> Database:
    """Return an empty database at the newest version. Close it after use."""
    database = Database(fresh_url(kind, folder))
    migrate(database)
    return database


@cache
def _cluster() -> int:
    """Start PostgreSQL on a free port and return the port. It refuses to run as root, so root lends it a user."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("no PostgreSQL here: `apt-get install postgresql`, with its bin folder on PATH")
    folder = Path(tempfile.mkdtemp(prefix="guard-pg-"))
    user = _user()
    if user is not None:
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    _run(["initdb", "-D", data, "-U", "guard", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"], user, folder)
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=200"
    )
    _run(["pg_ctl", "-D", data, "-w", "-t", "60", "-l", str(folder / "log"), "-o", options, "start"], user, folder)
    atexit.register(_stop, data, user, folder)
    return port


def _stop(data: str, user: str | None, folder: Path) -> None:
    _run(["pg_ctl", "-D", data, "-m", "immediate", "stop"], user, folder)
    shutil.rmtree(folder, ignore_errors=True)


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _run(command: list[str], user: str | None, folder: Path) -> None:
    done = subprocess.run(
        command,
        user=user,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if "start" in command else subprocess.PIPE,
        stderr=subprocess.DEVNULL if "start" in command else subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
