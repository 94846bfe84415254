"""`guard serve` and `guard worker`: the service, and more hands for its jobs."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from serve.terminal import fail_line

if TYPE_CHECKING:
    from guard.config import Settings
    from serve.store.session import Database

Policy = Annotated[str | None, typer.Option(help="Name of a policy, or a policy file, where a request names none.")]
Slow = Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible VLM server.")]
Workers = Annotated[int | None, typer.Option(min=1, max=256, help="Decoder processes each. Default: one a core.")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database", help="sqlite:///FILE or postgresql://... Default: a file in GUARD_HOME.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("serve")(serve)
    app.command("worker")(worker)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    processes: Annotated[int, typer.Option(min=1, max=64, help="API processes; each loads the models.")] = 1,
    jobs: Annotated[bool, typer.Option("--jobs/--no-jobs", help="Whether to judge jobs in these processes.")] = True,
    policy: Policy = None,
    slow: Slow = None,
    workers: Workers = None,
    database: DatabaseUrl = None,
) -> None:
    """Serve the moderation API. The first start makes a key with every scope and prints it once.

    Exit codes: 0 stopped by a signal; 2 usage; 4 the database or a folder cannot be used.
    """
    from serve.asgi import JOBS_VARIABLE

    _export({"GUARD_POLICY": policy, "GUARD_SLOW_URL": slow, "GUARD_WORKERS": workers, "GUARD_DATABASE_URL": database})
    _export({JOBS_VARIABLE: None if jobs else "1"})
    settings = _settings()
    _prepare(settings)
    _run_server(host, port, processes)


def worker(
    threads: Annotated[int | None, typer.Option(min=1, max=256, help="Jobs at once. Default: one a decoder.")] = None,
    policy: Policy = None,
    slow: Slow = None,
    workers: Workers = None,
    database: DatabaseUrl = None,
) -> None:
    """Judge jobs and send webhooks, beside any number of `guard serve` and other workers on the same database."""
    _export({"GUARD_POLICY": policy, "GUARD_SLOW_URL": slow, "GUARD_WORKERS": workers, "GUARD_DATABASE_URL": database})
    from serve.service import build_service
    from serve.settings import load_serve_settings
    from serve.workers import start_workers

    service = build_service(_settings(), load_serve_settings())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    running = start_workers(service, threads=threads)
    fail_line("working; stop with SIGTERM")
    stop.wait()
    service.stopping.set()
    running.close()
    service.close()


def _export(values: dict[str, object]) -> None:
    """Put options into the environment, where the processes that are started find them as well."""
    for name, value in values.items():
        if value is not None:
            os.environ[name] = str(value)


def _settings() -> Settings:
    """Return the settings; without an extra that the service needs, say which."""
    from guard import plugins
    from guard.config import load_settings

    try:
        import fastapi  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ModuleNotFoundError as error:
        raise plugins.missing_extra("`guard serve`", error.name or "fastapi") from error
    return load_settings()


def _prepare(settings: Settings) -> None:
    """Bring the database to this version, and see that there is a key: all before the port is open."""
    from serve.service import open_database

    database = open_database(settings)
    try:
        _first_key(database, settings)
    finally:
        database.close()


def _first_key(database: Database, settings: Settings) -> None:
    from serve import keys

    with database.write() as session:
        if settings.api_keys:
            keys.import_keys(session, settings.api_keys)
        if keys.listed(session):
            return
        made = keys.create(session, name="first key", scopes=keys.SCOPES, by="guard serve")
    fail_line("this database has no API key yet, so one was made, with every scope. It is shown only now:")
    print(f"\n    {made.key}\n", file=sys.stderr)


def _run_server(host: str, port: int, processes: int) -> None:
    import uvicorn

    from serve.protocol import HeadTimeoutProtocol

    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    uvicorn.run(
        "serve.asgi:create", factory=True, host=host, port=port, workers=processes, http=HeadTimeoutProtocol,
        log_config=None, access_log=False, server_header=False, timeout_keep_alive=15, timeout_graceful_shutdown=20,
        ws="none", backlog=512,
    )  # fmt: skip
