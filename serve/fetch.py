"""Fetch a clip from a URL that a client gave. Off by default; when on, every hop is checked anew.

What is refused: other schemes and ports, user names in the URL, hosts that lead to an address that is not public (see
`serve.addresses`), more redirects than allowed, a redirect from https to http, bodies that are too large or too slow,
compressed bodies, and content that is no media. Bytes go to a file object of the caller's, never to a name of the
sender's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import urljoin

import httpcore

from guard.errors import GuardError, TooLarge, UnsupportedMediaType, UrlBlocked, UrlFetchFailed
from guard.limits import looks_like_media, refused_start
from serve.outbound import Deadline, Reach, Target, http_url, parse_url, pool

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEAD_BYTES = 64
_MIB = 1 << 20
USER_AGENT = b"video-guard"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRules:
    """What a fetch may cost and where it may go."""

    enabled: bool = False
    max_redirects: int = 3
    total_seconds: float = 60.0
    max_bytes: int = 100 * _MIB
    allowed_hosts: tuple[str, ...] = ()
    """Hosts (or `.suffix` of hosts) that may be fetched from; empty for every public one."""
    reach: Reach = field(default_factory=Reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of a fetch. The URL itself is not kept: its query may hold a credential."""

    origin: str
    """Scheme and host of the last hop."""
    address: str
    """The address that the content came from."""
    sha256: str
    size_bytes: int
    hops: int
    """Redirects followed."""


def fetch(url: str, sink: BinaryIO, rules: FetchRules) -> Fetched:
    """Write the content of `url` to `sink`.

    Raises:
        UrlBlocked: fetching is off, or the URL, a redirect or an address is not allowed.
        UrlFetchFailed: the server does not answer, not with 200, or not in time.
        TooLarge: more than `rules.max_bytes`, by its header or while it streams.
        UnsupportedMediaType: the content is no media, whatever its header says.
    """
    if not rules.enabled:
        raise UrlBlocked("Fetching URLs is switched off on this server.", hint="Upload the file, or use a data URL.")
    deadline = Deadline(rules.total_seconds)
    target = _admit(url, rules)
    for hop in range(rules.max_redirects + 1):
        found = _hop(target, sink, rules, deadline, hop)
        if isinstance(found, Fetched):
            return found
        following = _admit(urljoin(target.url, found), rules)
        if target.scheme == "https" and following.scheme == "http":
            raise UrlBlocked("A redirect from https to http is not followed.")
        target = following
    raise UrlBlocked(f"More than {rules.max_redirects} redirects.")


def _admit(url: str, rules: FetchRules) -> Target:
    target = parse_url(url, rules.reach)
    hosts = rules.allowed_hosts
    if hosts and not any(target.host == h or (h.startswith(".") and target.host.endswith(h)) for h in hosts):
        raise UrlBlocked(f"The host {target.host!r} is not among those that this server fetches from.")
    return target


def _hop(target: Target, sink: BinaryIO, rules: FetchRules, deadline: Deadline, hop: int) -> Fetched | str:
    """Ask once. Returns what was fetched, or where a redirect leads."""
    connections, backend = pool(target, rules.reach, deadline)
    headers = [(b"Host", target.host_header.encode()), (b"User-Agent", USER_AGENT), (b"Accept", b"video/*, image/*"),
               (b"Accept-Encoding", b"identity"), (b"Connection", b"close")]  # fmt: skip
    try:
        with connections, connections.stream("GET", http_url(target), headers=headers) as response:
            if response.status in _REDIRECTS:
                return _location(response)
            _check_head(response, target, rules)
            digest, size = _save(response.iter_stream(), sink, rules.max_bytes)
    except GuardError:
        raise
    except httpcore.TimeoutException as error:
        raise UrlFetchFailed(f"{target.origin} did not send it within {rules.total_seconds:g} s.") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise UrlFetchFailed(f"{target.origin} broke off or did not answer in HTTP.") from error
    return Fetched(origin=target.origin, address=backend.addresses[-1], sha256=digest, size_bytes=size, hops=hop)


def _check_head(response: httpcore.Response, target: Target, rules: FetchRules) -> None:
    if response.status != 200:
        raise UrlFetchFailed(f"{target.origin} answered {response.status}; only 200 carries a clip.")
    said = {name.lower(): value for name, value in response.headers}
    if said.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
        raise UnsupportedMediaType(f"{target.origin} sent a compressed body, which was not asked for.")
    length = said.get(b"content-length", b"")
    if length.isdigit() and int(length) > rules.max_bytes:
        raise TooLarge(f"{target.origin} announces {int(length):,} bytes; allowed are {rules.max_bytes:,}.")


def _save(chunks: Iterator[bytes], sink: BinaryIO, max_bytes: int) -> tuple[str, int]:
    """Write `chunks`, judging the first bytes before any is written. Returns SHA-256 and size."""
    digest, size, head, judged = hashlib.sha256(), 0, b"", False
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"The content is larger than the {max_bytes:,} bytes allowed.")
        digest.update(chunk)
        if not judged:
            head += chunk
            if len(head) < _HEAD_BYTES:
                continue
            _check_content(head)
            judged, chunk = True, head
        sink.write(chunk)
    if not judged:
        _check_content(head)
        sink.write(head)
    return digest.hexdigest(), size


def _check_content(head: bytes) -> None:
    foreign = refused_start(head[:_HEAD_BYTES])
    if foreign is not None or not looks_like_media(head):
        raise UnsupportedMediaType(f"The content is {foreign or 'no media that is decoded here'}.")


def _location(response: httpcore.Response) -> str:
    found = [value for name, value in response.headers if name.lower() == b"location"]
    if len(found) != 1:
        raise UrlFetchFailed("A redirect names no single place to go to.")
    return found[0].decode("latin-1")
