"""Everything that one process of the service holds, built once and closed in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from guard.config import Settings
from policies.store import PolicyStore, default_path
from serve.addresses import parse_networks
from serve.blobs import Blobs
from serve.engine import Engine
from serve.fetch import FetchRules
from serve.history import HistoryWriter
from serve.keys import KeyRing
from serve.metrics import Metrics
from serve.outbound import Reach
from serve.overrides import OverrideBook
from serve.policy_access import PolicyAccess
from serve.ratelimit import Rate, RateLimiter
from serve.settings import ServeSettings
from serve.signing import Signer, load_secret
from serve.store.migrate import migrate
from serve.store.session import Database, database_url

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts that routes and workers share."""

    settings: Settings
    serve: ServeSettings
    database: Database
    engine: Engine
    keyring: KeyRing
    limiter: RateLimiter
    signer: Signer
    blobs: Blobs
    policies: PolicyAccess
    overrides: OverrideBook
    history: HistoryWriter
    metrics: Metrics
    reach: Reach
    on_job: list[Callable[[], None]] = field(default_factory=list)
    """Called when this process has taken a job in."""
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))
    """Requests whose content is decoded at once: a crowd of them would keep the interpreter from those who judge."""
    fetching: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
    """Requests whose content is fetched at once: each holds a thread for as long as the other side takes."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process is about to end: long polls return, workers take no more."""

    def fetch_rules(self, max_bytes: int) -> FetchRules:
        """Return how content that is named by URL is fetched."""
        serve = self.serve
        return FetchRules(
            enabled=serve.fetch_urls, allowed_hosts=serve.fetch_hosts, max_bytes=max_bytes, reach=self.reach
        )

    def close(self) -> None:
        """Finish what is under way and give everything back."""
        self.stopping.set()
        with ExitStack() as stack:  # each is closed even where another fails
            stack.callback(self.database.close)
            stack.callback(self.history.close)
            stack.callback(self.engine.close)


def build_service(settings: Settings, serve: ServeSettings) -> Service:
    """Build all parts and bring the database to the version of this code.

    Raises:
        UsageError: a setting is not valid.
        BackendError: the database or a folder cannot be used.
    """
    database = open_database(settings)
    reach = reach_of(serve)
    secret = load_secret(serve.secret or settings.home / "serve.secret")
    return Service(
        settings=settings,
        serve=serve,
        database=database,
        engine=Engine(settings, serve),
        keyring=KeyRing(database),
        limiter=RateLimiter(Rate(per_second=serve.rate_per_second, burst=serve.rate_burst)),
        signer=Signer(secret),
        blobs=Blobs(serve.blobs or settings.home / "blobs", max_bytes=serve.max_blob_bytes),
        policies=PolicyAccess(database, PolicyStore(default_path(settings))),
        overrides=OverrideBook(database),
        history=HistoryWriter(database),
        metrics=Metrics(),
        reach=reach,
    )


def open_database(settings: Settings) -> Database:
    """Return the database of `settings`, at the version of this code."""
    database = Database(database_url(settings))
    migrate(database)
    return database


def reach_of(serve: ServeSettings) -> Reach:
    """Return what fetches and webhooks may reach. Raises `InvalidConfig` for what is no network."""
    return Reach(allowed_networks=parse_networks(serve.allowed_networks))
