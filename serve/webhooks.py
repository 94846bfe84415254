"""Webhooks by Standard Webhooks (standardwebhooks.com, version 1): signatures, the form of events, when to try again.

Pure; `serve.deliveries` keeps and sends. A receiver checks `webhook-signature` over `webhook-id.webhook-timestamp.body`
with the secret it was given, refuses what is older than five minutes, and drops an id that it has seen: an id stays the
same over every retry, so delivering twice has one effect.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets as random_bytes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from guard.errors import UsageError

EVENTS = (
    "moderation.job.completed",
    "moderation.job.failed",
    "moderation.job.review_required",
    "moderation.review.decided",
    "moderation.review.undone",
    "moderation.appeal.resolved",
    "moderation.policy.updated",
    "moderation.ping",
)
SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
TOLERANCE_SECONDS = 300
MAX_BODY_BYTES = 20_000
_SECRET_BYTES = (24, 64)
_DELAYS_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""After the first try: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h. Ten tries over 75.6 hours."""
MAX_ATTEMPTS = len(_DELAYS_SECONDS) + 1
_JITTER = 0.2
_MAX_RETRY_AFTER = 86400.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")

State = Literal["delivered", "pending", "dead"]


class InvalidSignature(ValueError):  # noqa: N818 - what is wrong, as in `guard.errors`
    """A webhook was not signed with the secret, or is too old, or lacks a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of a delivery after a try."""

    state: State
    delay_seconds: float | None = None
    """Until the next try; None where there is none."""
    disable: str | None = None
    """Why the endpoint is switched off, where it is."""


def new_secret() -> str:
    """Return a new signing secret: `whsec_` and 32 random bytes."""
    return encode_secret(random_bytes.token_bytes(32))


def encode_secret(secret: bytes) -> str:
    """Return the form in which a secret is handed out."""
    return f"{SECRET_PREFIX}{base64.b64encode(secret).decode()}"


def secret_bytes(secret: str) -> bytes:
    """Return the key in a secret. Raises `UsageError` unless it holds 24 to 64 bytes in base64."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"A webhook secret is {SECRET_PREFIX} followed by base64.") from error
    least, most = _SECRET_BYTES
    if not least <= len(key) <= most:
        raise UsageError(f"A webhook secret holds {least} to {most} bytes; this one {len(key)}.")
    return key


def sign(secrets: Sequence[str], event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers. With several secrets (a rotation) each gives a signature, and one match is enough."""
    if not _ID.fullmatch(event_id):
        raise ValueError(f"an event id is 1 to 80 letters, digits, _ or -; got {event_id!r}")
    signatures = (f"v1,{base64.b64encode(_mac(secret, event_id, timestamp, body)).decode()}" for secret in secrets)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def verify(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> str:
    """Return the id of a webhook that was signed with one of `secrets` just now. For receivers in Python.

    The caller drops an id seen before: within the tolerance a copy has the same signature.

    Raises:
        InvalidSignature: a header is missing or malformed, no signature fits, or the time is too far off.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, signatures = given["webhook-id"], given["webhook-signature"].split()
        timestamp = int(given["webhook-timestamp"])
    except (KeyError, ValueError) as error:
        raise InvalidSignature("a header is missing or malformed") from error
    if abs((time.time() if now is None else now) - timestamp) > tolerance_seconds:
        raise InvalidSignature("the time is too far off")
    wanted = [base64.b64encode(_mac(secret, event_id, timestamp, body)) for secret in secrets]
    offered = [s.removeprefix("v1,").encode() for s in signatures if s.startswith("v1,")]
    if not any([hmac.compare_digest(w, o) for w in wanted for o in offered]):  # noqa: C419 - every pair, whatever fits
        raise InvalidSignature("no signature fits")
    return event_id


def event_body(event_type: str, event_id: str, data: Mapping[str, Any], at: datetime | None = None) -> str:
    """Return the body of an event: thin, with ids and addresses to ask for more, never content.

    Raises:
        ValueError: the type is not one of `EVENTS`, or the body is over 20 kB.
    """
    if event_type not in EVENTS:
        raise ValueError(f"an event is one of {', '.join(EVENTS)}; got {event_type!r}")
    moment = at or datetime.now(UTC)
    content = {
        "id": event_id,
        "object": "event",
        "type": event_type,
        "timestamp": moment.isoformat(timespec="milliseconds"),
        "created_at": int(moment.timestamp()),
        "data": dict(data),
    }
    body = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"the body of an event has at most {MAX_BODY_BYTES} bytes; this one has {len(body)}")
    return body


def delay_seconds(attempts: int, chance: float) -> float | None:
    """Return how long to wait after `attempts` tries, or None after the last. Pure.

    Args:
        attempts: tries so far, at least 1.
        chance: in [0, 1); spreads the wait over 80 to 120 %, so that what failed together does not return together.
    """
    if attempts > len(_DELAYS_SECONDS):
        return None
    return _DELAYS_SECONDS[attempts - 1] * (1 - _JITTER + 2 * _JITTER * chance)


def outcome(status: int | None, attempts: int, chance: float, retry_after: str | None = None) -> Outcome:
    """Return what follows from the answer to try number `attempts`. Only 2xx is success; a redirect is a failure.

    Args:
        status: HTTP status, or None where no answer came.
        attempts: tries so far, this one included.
        chance: see `delay_seconds`.
        retry_after: the header of that name; it can make the wait longer, up to a day, never shorter.
    """
    if status is not None and 200 <= status < 300:
        return Outcome(state="delivered")
    if status == 410:
        return Outcome(state="dead", disable="the receiver answered 410 Gone")
    wait = delay_seconds(attempts, chance)
    if wait is None:
        return Outcome(state="dead", disable=f"{MAX_ATTEMPTS} tries in a row failed")
    return Outcome(state="pending", delay_seconds=max(wait, _asked_for(retry_after)))


def _asked_for(retry_after: str | None) -> float:
    if retry_after is None:
        return 0.0
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return 0.0
    left = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, left), _MAX_RETRY_AFTER)


def _mac(secret: str, event_id: str, timestamp: int, body: bytes) -> bytes:
    return hmac.new(secret_bytes(secret), f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
