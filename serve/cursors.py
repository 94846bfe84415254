"""Pages by cursor: where the next page begins, signed, for one tenant and one question only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from serve.keys import Principal
from serve.request_errors import InvalidRequest
from serve.service import Service
from serve.signing import TokenError


def seal(service: Service, who: Principal, question: Mapping[str, Any], place: list[Any]) -> str:
    """Return the cursor of a place in the answers to `question`."""
    payload = {"q": _digest(who, question), "at": place}
    return service.signer.seal("cursor", payload, seconds=service.serve.cursor_seconds)


def open_cursor(service: Service, who: Principal, question: Mapping[str, Any], cursor: str | None) -> list[Any] | None:
    """Return the place that a cursor stands for, None for the beginning.

    Raises:
        InvalidRequest: it is not ours, has expired, or was made for another tenant or another question.
    """
    if cursor is None:
        return None
    try:
        payload = service.signer.open("cursor", cursor)
    except TokenError as error:
        raise InvalidRequest(f"The cursor cannot be used: {error}.", param="cursor") from error
    if payload.get("q") != _digest(who, question):
        raise InvalidRequest("The cursor belongs to another question.", param="cursor")
    return list(payload["at"])


def _digest(who: Principal, question: Mapping[str, Any]) -> str:
    plain = json.dumps([who.tenant_id, dict(question)], sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]
