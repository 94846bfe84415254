"""Content that comes inside a request: data URLs, and addresses where fetching is switched on."""

from __future__ import annotations

import base64
import binascii
import io
import re

from guard.errors import TooLarge, UrlBlocked
from serve.fetch import FetchRules, fetch
from serve.request_errors import InvalidRequest

_DATA = re.compile(
    r"data:(?P<type>[a-z]+/[a-z0-9.+-]{1,60})?(?P<parameters>(?:;[a-z0-9=_.-]{1,60}){0,4});base64,", re.I
)


def content_of(url: str, rules: FetchRules, *, param: str) -> bytes:
    """Return the bytes that a URL stands for. What they are is for the decoder to find out: a type is only claimed.

    Raises:
        InvalidRequest: a data URL is malformed.
        TooLarge: more than `rules.max_bytes`.
        UrlBlocked: fetching is switched off, or the address is not allowed.
        UrlFetchFailed: the address does not answer.
    """
    if not url.lower().startswith("data:"):
        if not url.lower().startswith(("http://", "https://")):
            raise UrlBlocked("Content is given as a data URL, or by http(s) where fetching is switched on.")
        sink = io.BytesIO()
        fetch(url, sink, rules)
        return sink.getvalue()
    head = _DATA.match(url[:400])
    if head is None:
        raise InvalidRequest("A data URL looks like `data:video/mp4;base64,AAAA`.", param=param)
    kind = (head["type"] or "").lower()
    if not kind.startswith(("image/", "video/", "application/octet-stream")):
        raise InvalidRequest(f"A data URL holds an image or a video; got {kind or 'no type'!r}.", param=param)
    encoded = url[head.end() :]
    if len(encoded) * 3 // 4 > rules.max_bytes + 3:
        raise TooLarge(f"A data URL holds at most {rules.max_bytes} bytes.", hint="POST /v1/jobs takes larger files.")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("The data URL is not base64.", param=param) from error
    if len(data) > rules.max_bytes:
        raise TooLarge(f"A data URL holds at most {rules.max_bytes} bytes.", hint="POST /v1/jobs takes larger files.")
    return data
