"""Tokens that only this service can make: cursors, short-lived evidence addresses, secrets of callbacks.

One secret, one derived key for each purpose: a cursor can never pass as an evidence address. A token is readable by
whoever holds it, and cannot be altered; what must stay hidden does not belong in one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from guard.errors import InvalidConfig

SECRET_BYTES = 32
_MAX_TOKEN = 4096
EVIDENCE_SECONDS = 300.0
"""A page loads its pictures at once; a copied address is dead five minutes later."""


class TokenError(ValueError):
    """A token is not ours, was altered, was made for something else, or has expired. Says no more than that."""


class Signer:
    """Makes and opens tokens. The same secret on every machine, or each refuses the others' tokens."""

    def __init__(self, secret: bytes) -> None:
        """Use `secret`. Raises `InvalidConfig` where it has fewer than 32 bytes."""
        if len(secret) < SECRET_BYTES:
            raise InvalidConfig(f"A signing secret has at least {SECRET_BYTES} bytes; this one has {len(secret)}.")
        self._secret = secret

    def __repr__(self) -> str:
        return "Signer(...)"

    def key(self, purpose: str) -> bytes:
        """Return the 32-byte key of one purpose, by HMAC-SHA-256 (the extract step of RFC 5869)."""
        return hmac.new(self._secret, f"video-guard/1/{purpose}".encode(), hashlib.sha256).digest()

    def seal(self, purpose: str, payload: Mapping[str, Any], *, seconds: float, now: float | None = None) -> str:
        """Return a token that carries `payload`, for `seconds` from now."""
        until = int((time.time() if now is None else now) + seconds)
        body = json.dumps([until, payload], separators=(",", ":"), sort_keys=True).encode()
        return f"{_encode(body)}.{_encode(self._mac(purpose, body))}"

    def open(self, purpose: str, token: str, *, now: float | None = None) -> dict[str, Any]:
        """Return what `seal` put in. Raises `TokenError`."""
        if len(token) > _MAX_TOKEN or token.count(".") != 1:
            raise TokenError("malformed")
        body, mac = (_decode(part) for part in token.split("."))
        if not hmac.compare_digest(mac, self._mac(purpose, body)):
            raise TokenError("not ours")
        until, payload = json.loads(body)
        if (time.time() if now is None else now) > until:
            raise TokenError("expired")
        return dict(payload)

    def sign_path(self, path: str, *, tenant: str, seconds: float = EVIDENCE_SECONDS, now: float | None = None) -> str:
        """Return `path` with a query that opens it to whoever holds it, for `seconds`."""
        until = int((time.time() if now is None else now) + seconds)
        query = {"tenant": tenant, "expires": until, "signature": self._path_mac(path, tenant, until)}
        return f"{path}?{urlencode(query)}"

    def check_path(self, path: str, *, tenant: str, expires: str, signature: str, now: float | None = None) -> None:
        """Raise `TokenError` unless `sign_path` gave this very path and tenant this signature, and it is still time."""
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12 and signature.isascii()):
            raise TokenError("malformed")
        if not hmac.compare_digest(signature, self._path_mac(path, tenant, int(expires))):
            raise TokenError("not ours")
        if (time.time() if now is None else now) > int(expires):
            raise TokenError("expired")

    def _mac(self, purpose: str, body: bytes) -> bytes:
        return hmac.new(self.key(purpose), body, hashlib.sha256).digest()

    def _path_mac(self, path: str, tenant: str, until: int) -> str:
        return _encode(self._mac("path", json.dumps([path, tenant, until]).encode()))


def load_secret(path: Path) -> bytes:
    """Return the secret in `path`, made on the first call; readable by this user only.

    Raises:
        InvalidConfig: the file cannot be read or made, is too short, or others may read it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path)
        if path.stat().st_mode & 0o077:
            raise InvalidConfig(f"Others may read {str(path)!r}.", hint=f"chmod 600 {path}")
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"The signing secret {str(path)!r} cannot be used: {error}.") from error
    if len(secret) < SECRET_BYTES:
        raise InvalidConfig(f"The signing secret {str(path)!r} has fewer than {SECRET_BYTES} bytes.")
    return secret


def _make(path: Path) -> None:
    """Write a new secret whole or not at all: of two processes that start at once, both read what the first linked."""
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(SECRET_BYTES))
        try:
            os.link(partial, path)
        except FileExistsError:
            return
    finally:
        partial.unlink()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenError("malformed") from error
    if _encode(data) != text:  # one spelling only: the last character has spare bits
        raise TokenError("malformed")
    return data
