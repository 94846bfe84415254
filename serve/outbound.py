"""Connections that other people's text asks for: to a checked address, by a deadline, and to nowhere else.

A name is resolved once per connection, every answer is checked, and the connection goes to one of the very addresses
that were checked: a name that answers otherwise the second time (DNS rebinding) is never asked a second time. The host
name stays in `Host` and in the TLS handshake, so certificates are verified as always. No proxy of the environment is
used, and nothing is followed: redirects are up to the caller, who comes through here again for each.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

import httpcore

from guard.errors import UrlBlocked, UrlFetchFailed
from serve.addresses import Network, refusal

_RESOLVERS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="guard-resolve")
"""`getaddrinfo` cannot be interrupted, so it is waited for from outside; eight may hang before others wait."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_URL = 2048


class Resolve(Protocol):
    """Turns a host into addresses, as text."""

    def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return every address of `host`. Raises `OSError` where there is none."""


class Connect(Protocol):
    """Opens a connection to an address."""

    def __call__(self, address: str, port: int, timeout_seconds: float) -> socket.socket:
        """Return a connected socket. Raises `OSError`."""


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Return every address that the system's resolver gives for `host`, without repeats."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def connect_address(address: str, port: int, timeout_seconds: float) -> socket.socket:
    """Return a socket connected to a literal address."""
    return socket.create_connection((address, port), timeout_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What may be reached, and how."""

    schemes: tuple[str, ...] = ("https", "http")
    ports: tuple[int, ...] = (443, 80)
    allowed_networks: tuple[Network, ...] = ()
    """Private networks that may be reached all the same, such as the one that receives webhooks."""
    any_port_in_allowed: bool = True
    """Whether ports other than `ports` are fine where every address lies in `allowed_networks`."""
    connect_seconds: float = 10.0
    resolve: Resolve = resolve_host
    connect: Connect = connect_address
    tls: ssl.SSLContext | None = None
    """By default certificates are verified against the system's roots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL taken apart once, so that what was checked and what is asked for cannot differ."""

    scheme: str
    host: str
    port: int
    path: str
    """Path with query, as sent."""

    @property
    def url(self) -> str:
        """The address without user, fragment or default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if _DEFAULT_PORTS[self.scheme] == self.port else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def host_header(self) -> str:
        """What the `Host` header says."""
        return self.url.split("//", 1)[1].split("/", 1)[0]

    @property
    def origin(self) -> str:
        """Scheme and host, for logs and messages: a query may hold a signature."""
        return f"{self.scheme}://{self.host}"


def parse_url(url: str, reach: Reach) -> Target:
    """Return the parts of `url`. Raises `UrlBlocked` for anything but a plain, absolute http(s) URL."""
    if len(url) > _MAX_URL or any(ord(c) <= 32 or ord(c) == 127 or c == "\\" for c in url):
        raise UrlBlocked(f"A URL has at most {_MAX_URL} characters, no blanks, backslashes or control characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = _host(parts)
    except ValueError as error:
        raise UrlBlocked("The URL cannot be read: its host or port is malformed.") from error
    if parts.scheme not in reach.schemes:
        raise UrlBlocked(f"A URL starts with {' or '.join(f'{s}://' for s in reach.schemes)}; got {parts.scheme!r}.")
    if not host:
        raise UrlBlocked("The URL has no host.")
    if "@" in parts.netloc:
        raise UrlBlocked("A URL with a user name or password is not fetched.")
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    if port not in reach.ports and not (reach.allowed_networks and reach.any_port_in_allowed):
        raise UrlBlocked(f"Port {port} is not allowed; allowed: {', '.join(map(str, reach.ports))}.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    quoted = "".join(c if ord(c) < 128 else "".join(f"%{b:02X}" for b in c.encode()) for c in path)
    return Target(scheme=parts.scheme, host=host, port=port, path=quoted)


def checked_addresses(target: Target, reach: Reach, timeout_seconds: float) -> list[str]:
    """Resolve the host once and return its addresses, all of which may be reached.

    Raises:
        UrlBlocked: any of them may not: a name that leads both ways is set up for an attack, or badly.
        UrlFetchFailed: the name has no address, or the resolver took too long.
    """
    try:
        found = list(_RESOLVERS.submit(reach.resolve, target.host, target.port).result(timeout_seconds))
    except FutureTimeout as error:
        raise UrlFetchFailed(f"Looking up {target.host!r} took too long.") from error
    except (OSError, UnicodeError) as error:
        raise UrlFetchFailed(f"The host {target.host!r} has no address.") from error
    for address in found:
        why = refusal(address, reach.allowed_networks)
        if why is not None:
            raise UrlBlocked(f"The host {target.host!r} leads to an address that is not public ({why}).")
        outside = target.port not in reach.ports and refusal(address) is None
        if outside:
            raise UrlBlocked(f"Port {target.port} is not allowed; allowed: {', '.join(map(str, reach.ports))}.")
    if not found:
        raise UrlFetchFailed(f"The host {target.host!r} has no address.")
    return found


class Deadline:
    """A moment by which all of it must be over, however slowly the other side drips."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Return the seconds left, at least 0."""
        return max(0.0, self._end - self._clock())


class GuardedBackend(httpcore.NetworkBackend):
    """Opens connections for one exchange: to checked addresses, each read and write cut to the deadline."""

    def __init__(self, target: Target, reach: Reach, deadline: Deadline) -> None:
        self._target, self._reach, self._deadline = target, reach, deadline
        self.addresses: list[str] = []
        """Where connections were really made to."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the target that was parsed; `host` and `port` are the library's copy of the same."""
        if (host, port) != (self._target.host, self._target.port):
            raise UrlBlocked("The connection asked for is not the one that was checked.")
        limit = min(self._reach.connect_seconds, self._deadline.left())
        last: OSError | None = None
        for address in checked_addresses(self._target, self._reach, limit):
            try:
                connection = self._reach.connect(address, port, max(0.001, min(limit, self._deadline.left())))
            except OSError as error:
                last = error
                continue
            self.addresses.append(address)
            return GuardedStream(_SyncStream(connection), self._deadline)
        raise UrlFetchFailed(f"No connection to {self._target.host!r} could be made.") from last

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        """Refuse: no URL leads to a socket file."""
        raise UrlBlocked("Socket files are not reached.")


class _SyncStream(httpcore.NetworkStream):
    """A plain or TLS socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _translated(httpcore.ReadTimeout, httpcore.ReadError):
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _translated(httpcore.WriteTimeout, httpcore.WriteError):
            self._socket.settimeout(timeout)
            self._socket.sendall(buffer)

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _translated(httpcore.ConnectTimeout, httpcore.ConnectError):
            self._socket.settimeout(timeout)
            return _SyncStream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname))


class GuardedStream(httpcore.NetworkStream):
    """Gives every call the shorter of its own time limit and what is left until the deadline."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def _left(self, timeout: float | None) -> float:
        left = self._deadline.left()
        if left <= 0:
            raise httpcore.ReadTimeout("deadline")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has arrived."""
        return self._inner.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of it."""
        self._inner.write(buffer, self._left(timeout))

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Begin TLS; the certificate must be that of the host name, not of the address."""
        return GuardedStream(self._inner.start_tls(ssl_context, server_hostname, self._left(timeout)), self._deadline)


class _translated:  # noqa: N801 - reads as a verb at its calls
    """Turns the errors of sockets into those that httpcore expects of a backend."""

    def __init__(self, timed_out: type[Exception], failed: type[Exception]) -> None:
        self._timed_out, self._failed = timed_out, failed

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError):
            raise self._timed_out(str(error)) from error
        if isinstance(error, OSError):
            raise self._failed(str(error)) from error


def pool(target: Target, reach: Reach, deadline: Deadline) -> tuple[httpcore.ConnectionPool, GuardedBackend]:
    """Return a pool for one exchange with `target`, and the backend that knows where it went."""
    backend = GuardedBackend(target, reach, deadline)
    context = reach.tls or ssl.create_default_context()
    made = httpcore.ConnectionPool(
        ssl_context=context, network_backend=backend, max_connections=1, retries=0, http1=True, http2=False
    )
    return made, backend


def http_url(target: Target) -> httpcore.URL:
    """Return the target in the library's form, from its parts: nothing is parsed a second time."""
    return httpcore.URL(
        scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
    )


def _host(parts: SplitResult) -> str:
    """Return the host in the form that is resolved and sent: lower case, IDNA for names outside ASCII."""
    host = (parts.hostname or "").rstrip(".")
    if not host or ":" in host:
        return host
    try:
        encoded = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError("host") from error
    if not all(c.isalnum() or c in "-._" for c in encoded):
        raise ValueError("host")
    return encoded.lower()
