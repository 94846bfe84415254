"""API keys: 256 random bits each, of which the database holds a hash. Scopes say what a key may do, its tenant to whom.

A fast hash is right here: nobody can try 2^256 keys, while a slow hash would be a way to keep the server busy.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from guard.errors import BackendError, InvalidConfig, UsageError
from serve.audit import append
from serve.store.session import Database
from serve.store.tables import ApiKey, Tenant, utc_now

PREFIX = "vg_"
"""Marks a key for secret scanners and for people."""
SCOPES = ("submit", "read", "review", "admin")
DEFAULT_TENANT = "default"
_REMEMBER_SECONDS = 5.0
"""A key that was revoked works this much longer, in exchange for a query less on every request."""
_REMEMBERED = 10_000
_USED_EVERY = timedelta(minutes=1)
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_LEAST_CHARACTERS = 32
_KEY = re.compile(r"[\x21-\x7e]{1,512}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks."""

    tenant_id: str
    key_id: str
    name: str
    """Who holds the key, as pages show it; records name the key by its id, which never changes hands."""
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the key has `scope`; admin has them all."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made: the only time that it is seen."""

    id: str
    key: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]


def generate() -> str:
    """Return a new key, such as `vg_Zk3...` with 43 characters after the prefix."""
    return f"{PREFIX}{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """Return what the database holds of a key: hex SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def checked_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes in their usual order. Raises `UsageError` for none, or one that there is not."""
    wanted = [scope.strip() for scope in scopes if scope.strip()]
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise UsageError(f"Scopes are {', '.join(SCOPES)}; got {', '.join(unknown) or 'none'}.")
    return tuple(scope for scope in SCOPES if scope in wanted)


def create(
    session: Session,
    *,
    name: str,
    scopes: Iterable[str],
    tenant: str = DEFAULT_TENANT,
    key: str | None = None,
    expires_at: datetime | None = None,
    by: str = "system",
) -> NewKey:
    """Make a key, and its tenant where there is none of that name.

    Raises:
        UsageError: a scope or the name of the tenant is not allowed, or the key given is too short or there already.
    """
    if not _TENANT.fullmatch(tenant):
        raise UsageError(f"A tenant is named in a-z, 0-9, _ and -, at most 63 characters; got {tenant!r}.")
    if not name.strip() or len(name) > 200:
        raise UsageError("A key needs the name of who holds it, at most 200 characters.")
    allowed, secret = checked_scopes(scopes), key or generate()
    if len(secret) < _LEAST_CHARACTERS or not _KEY.fullmatch(secret):
        raise UsageError(f"A key has at least {_LEAST_CHARACTERS} printable characters and no blanks.")
    if session.scalar(select(ApiKey.id).where(ApiKey.hash == hash_key(secret))) is not None:
        raise UsageError("That key is there already.")
    if session.get(Tenant, tenant) is None:
        session.add(Tenant(id=tenant, name=tenant))
        session.flush()
    row = ApiKey(
        tenant_id=tenant, name=name.strip(), hash=hash_key(secret), scopes=list(allowed), expires_at=expires_at
    )
    session.add(row)
    session.flush()
    append(
        session, tenant, actor=by, action="key.created", subject=row.id, details={"name": row.name, "scopes": allowed}
    )
    return NewKey(id=row.id, key=secret, tenant_id=tenant, name=row.name, scopes=allowed)


def revoke(session: Session, key_id: str, *, tenant: str | None = None, by: str = "system") -> None:
    """End a key for good; ending it twice does nothing more. Raises `UsageError` where the tenant has none such."""
    row = session.get(ApiKey, key_id)
    if row is None or (tenant is not None and row.tenant_id != tenant):
        raise UsageError(f"There is no key {key_id!r}.", hint="List the keys with `guard keys list`.")
    if row.revoked_at is None:
        row.revoked_at = utc_now()
        append(session, row.tenant_id, actor=by, action="key.revoked", subject=row.id, details={"name": row.name})


def listed(session: Session, tenant: str | None = None) -> list[ApiKey]:
    """Return the keys of one tenant, or of all, the oldest first."""
    query = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)
    return list(session.scalars(query if tenant is None else query.where(ApiKey.tenant_id == tenant)))


def state(row: ApiKey) -> str:
    """Return whether a key is `active`, `expired` or `revoked`."""
    over = row.expires_at is not None and row.expires_at <= utc_now()
    return "revoked" if row.revoked_at else "expired" if over else "active"


def parse_keys(text: str) -> list[tuple[str, tuple[str, ...], str]]:
    """Return (tenant, scopes, key) for each entry of `GUARD_API_KEYS`: `KEY` or `TENANT:SCOPE+SCOPE:KEY`, by commas.

    A bare key is that of the default tenant, with every scope. Raises `InvalidConfig`, without the key in its message.
    """
    found = []
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        parts = entry.split(":")
        if len(parts) not in (1, 3):
            raise InvalidConfig(f"Entry {number} of GUARD_API_KEYS is neither KEY nor TENANT:SCOPE+SCOPE:KEY.")
        tenant, scopes, key = (DEFAULT_TENANT, "+".join(SCOPES), entry) if len(parts) == 1 else parts
        if len(key) < _LEAST_CHARACTERS:
            raise InvalidConfig(
                f"The key in entry {number} of GUARD_API_KEYS has fewer than {_LEAST_CHARACTERS} characters."
            )
        found.append((tenant, checked_scopes(scopes.split("+")), key))
    return found


def import_keys(session: Session, text: str) -> int:
    """Make the keys of `GUARD_API_KEYS` that are not there yet, and return how many. A revoked one stays revoked."""
    made = 0
    for number, (tenant, scopes, key) in enumerate(parse_keys(text), 1):
        if session.scalar(select(ApiKey.id).where(ApiKey.hash == hash_key(key))) is None:
            create(session, name=f"environment {number}", scopes=scopes, tenant=tenant, key=key, by="environment")
            made += 1
    return made


class KeyRing:
    """Finds out whose key it is. Safe for threads."""

    def __init__(
        self, database: Database, *, clock: Callable[[], float] = time.monotonic, remember: float = _REMEMBER_SECONDS
    ) -> None:
        self._database, self._clock, self._seconds = database, clock, remember
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, Principal]] = OrderedDict()

    def principal(self, presented: str | None) -> Principal | None:
        """Return whose key `presented` is, or None where it is nobody's, revoked, expired, or of a disabled tenant."""
        if not presented or not _KEY.fullmatch(presented):
            return None
        known = self.remembered(presented)
        if known is not None:
            return known
        digest = hash_key(presented)
        found = self._look_up(digest)
        with self._lock:
            if found is None:
                self._known.pop(digest, None)  # what is wrong is not remembered: guesses must not push keys out
            else:
                self._known[digest] = (self._clock(), found)
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return found

    def remembered(self, presented: str | None) -> Principal | None:
        """Return whose key it is where that was found out a moment ago; asks no database."""
        with self._lock:
            at, known = self._known.get(hash_key(presented or ""), (0.0, None))
        return known if known is not None and self._clock() - at < self._seconds else None

    def by_id(self, key_id: str) -> Principal | None:
        """Return whose key has this id, under the same conditions: for sessions that outlive one request."""
        with self._database.read() as session:
            row = session.get(ApiKey, key_id)
            return None if row is None else _principal(session, row)

    def _look_up(self, digest: str) -> Principal | None:
        with self._database.read() as session:
            row = session.scalar(select(ApiKey).where(ApiKey.hash == digest))
            if row is None or not hmac.compare_digest(row.hash, digest):
                return None
            found, used = _principal(session, row), row.last_used_at
        if found is not None and (used is None or utc_now() - used > _USED_EVERY):
            with suppress(BackendError), self._database.write() as session:  # a note; a busy disk refuses nobody for it
                session.execute(update(ApiKey).where(ApiKey.id == found.key_id).values(last_used_at=utc_now()))
        return found


def _principal(session: Session, row: ApiKey) -> Principal | None:
    tenant = session.get(Tenant, row.tenant_id)
    if state(row) != "active" or tenant is None or tenant.disabled_at is not None:
        return None
    return Principal(tenant_id=row.tenant_id, key_id=row.id, name=row.name, scopes=frozenset(row.scopes))
