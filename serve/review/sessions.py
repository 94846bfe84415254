"""Browser sessions of the review page: an API key of scope review comes in once, a random cookie stays.

The database holds a hash of the cookie. Every request asks anew whether the key still holds, so revoking the key ends
the session. Each session has a token of its own against forged requests, which every form carries.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from serve.audit import append
from serve.keys import KeyRing, Principal
from serve.request_errors import Forbidden, Unauthorized
from serve.store.people import SignIn
from serve.store.session import Database
from serve.store.tables import utc_now

COOKIE = "guard_review"
LASTS = timedelta(hours=12)
KEEP = timedelta(days=30)
"""How long an ended session is kept for the preferences that it remembers."""
SCOPE = "review"
PREFERENCES: Mapping[str, bool] = {"blur": True, "grey": True, "mute": True, "keys": True}
"""What a page does to what it shows, and whether single keys act, until a person says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who looks at a page."""

    principal: Principal
    csrf: str
    preferences: Mapping[str, bool]
    session_hash: str


def sign_in(database: Database, keyring: KeyRing, key: str) -> str:
    """Begin a session and return its cookie.

    Raises:
        Unauthorized: the key is nobody's.
        Forbidden: it lacks the scope review.
    """
    principal = keyring.principal(key.strip())
    if principal is None:
        raise Unauthorized("That is no valid key.")
    if not principal.may(SCOPE):
        raise Forbidden(f"This needs a key with the scope {SCOPE!r}.")
    cookie = secrets.token_urlsafe(32)
    with database.write() as session:
        session.execute(delete(SignIn).where(SignIn.expires_at < utc_now() - KEEP))
        session.add(
            SignIn(
                hash=_hash(cookie), tenant_id=principal.tenant_id, key_id=principal.key_id,
                csrf=secrets.token_urlsafe(32), preferences=_remembered(session, principal),
                expires_at=utc_now() + LASTS,
            )
        )  # fmt: skip
        append(session, principal.tenant_id, actor=principal.key_id, action="page.signed_in", subject=principal.key_id)
    return cookie


def visitor(database: Database, keyring: KeyRing, cookie: str | None) -> Visitor:
    """Return who the cookie stands for. Raises `Unauthorized` where nobody."""
    if not cookie or len(cookie) > 100:
        raise Unauthorized("Please sign in.")
    with database.read() as session:
        row = session.get(SignIn, _hash(cookie))
    if row is None or row.expires_at <= utc_now():
        raise Unauthorized("Please sign in.")
    principal = keyring.by_id(row.key_id)
    if principal is None or principal.tenant_id != row.tenant_id or not principal.may(SCOPE):
        raise Unauthorized("That key does not hold any more.")
    return Visitor(principal=principal, csrf=row.csrf, preferences=_complete(row.preferences), session_hash=row.hash)


def check_form(visiting: Visitor, token: str) -> None:
    """Raise `Forbidden` unless a form came from one of our pages in this session."""
    if not hmac.compare_digest(visiting.csrf.encode(), token.encode("utf-8", "replace")):
        raise Forbidden("This form is out of date.", hint="Open the page again and repeat it.")


def sign_out(database: Database, visiting: Visitor) -> None:
    """End a session. What it remembers of preferences is found again by the next one of the same key."""
    with database.write() as session:
        row = session.get(SignIn, visiting.session_hash)
        if row is not None:
            row.expires_at = utc_now()


def set_preference(database: Database, visiting: Visitor, name: str, value: bool) -> None:
    """Remember a preference. One that there is not is ignored."""
    if name in PREFERENCES:
        with database.write() as session:
            row = session.get(SignIn, visiting.session_hash)
            if row is not None:
                row.preferences = {**_complete(row.preferences), name: value}


def _remembered(session: Session, principal: Principal) -> dict[str, bool]:
    newest = select(SignIn.preferences).where(SignIn.key_id == principal.key_id).order_by(SignIn.created_at.desc())
    return _complete(session.scalar(newest.limit(1)) or {})


def _complete(given: Mapping[str, object]) -> dict[str, bool]:
    return {name: bool(given.get(name, default)) for name, default in PREFERENCES.items()}


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
