"""A small web server on loopback for tests of what goes out, and a network of injected names in front of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serve.addresses import parse_networks
from serve.outbound import Reach

PUBLIC = "93.184.216.34"
LOOPBACK = parse_networks(["127.0.0.0/8"])


@dataclass
class Request:
    """What the server was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Web:
    """The server: answers by path, and remembers every request."""

    port: int = 0
    routes: dict[str, Answer] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def body(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with `content`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        sent = {"Content-Length": str(len(content)), **(headers or {})}
        for name, value in sent.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirect(to: str, status: int = 302) -> Answer:
    """Answer with a redirect."""
    return body(b"", status, {"Location": to})


@contextmanager
def serving(routes: Mapping[str, Answer] | None = None) -> Iterator[Web]:
    """Serve `routes` on a free port of loopback."""
    web = Web(routes=dict(routes or {}))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            web.seen.append(
                Request(
                    method=self.command,
                    path=self.path,
                    headers={name.lower(): value for name, value in self.headers.items()},
                    body=self.rfile.read(length),
                )
            )
            answer = web.routes.get(self.path.split("?")[0], body(b"nothing here", 404))
            try:
                answer(self)
            except OSError:
                self.close_connection = True

        do_GET = do_POST = _any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class FakeNetwork:
    """Names as a test says, one answer per call; every public address leads to one server on loopback."""

    names: dict[str, list[Sequence[str]]]
    port: int
    lookups: list[str] = field(default_factory=list)
    connections: list[tuple[str, int]] = field(default_factory=list)

    def resolve(self, host: str, port: int) -> Sequence[str]:
        self.lookups.append(host)
        if host not in self.names:
            raise OSError("no such name")
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def connect(self, address: str, port: int, timeout_seconds: float) -> socket.socket:
        self.connections.append((address, port))
        return socket.create_connection(("127.0.0.1", self.port), timeout_seconds)

    def reach(self, **changes: Any) -> Reach:
        return Reach(**({"resolve": self.resolve, "connect": self.connect} | changes))
