"""A real server on loopback for tests: uvicorn in a thread, SQLite in a temporary folder, real models."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from guard.config import Settings
from serve import keys
from serve.app import make_app
from serve.service import Service, build_service
from serve.settings import ServeSettings

FREE = {"rate_per_second": 1e6, "rate_burst": 10**6}
"""Rates that no test meets by accident."""


@dataclass
class Running:
    """A server that answers."""

    url: str
    service: Service
    keys: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)

    def key(self, *scopes: str, tenant: str = "default") -> str:
        """Return a key with these scopes; the same for the same question."""
        wanted = scopes or ("submit", "read")
        if (tenant, wanted) not in self.keys:
            with self.service.database.write() as session:
                made = keys.create(session, name="-".join(wanted), scopes=wanted, tenant=tenant)
            self.keys[tenant, wanted] = made.key
        return self.keys[tenant, wanted]

    def client(self, *scopes: str, tenant: str = "default", **options: Any) -> httpx.Client:
        """Return a client with a key."""
        headers = {"Authorization": f"Bearer {self.key(*scopes, tenant=tenant)}"} | options.pop("headers", {})
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)


@contextmanager
def running(
    home: Path, *, run: Callable[[Service], Any] | None = None, settings: dict[str, Any] | None = None, **serve: Any
) -> Iterator[Running]:
    """Serve until the block ends. `settings` go to `guard.config.Settings`, the others to `ServeSettings`."""
    guard_settings = Settings(home=home, workers=2, **(settings or {}))
    serve_settings = ServeSettings(**(FREE | serve))
    app = make_app(lambda: build_service(guard_settings, serve_settings), serve_settings, run=run)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Running(url=f"http://127.0.0.1:{listening.getsockname()[1]}", service=app.state.service)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
