"""Fetching what a client names: only from public addresses, each hop anew, and no more than allowed."""

from __future__ import annotations

import hashlib
import io
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from media import render
from web import PUBLIC, FakeNetwork, Web, body, redirect, serving

from guard.errors import GuardError, TooLarge, UnsupportedMediaType, UrlBlocked, UrlFetchFailed
from serve.addresses import parse_networks
from serve.fetch import Fetched, FetchRules, fetch
from serve.outbound import Reach, parse_url, resolve_host

CLIP = render(frames=3)


def network(web: Web, **names: list[list[str]]) -> FakeNetwork:
    return FakeNetwork(
        names={"clips.example": [[PUBLIC]], **{k.replace("_", "."): v for k, v in names.items()}}, port=web.port
    )


def run(url: str, net: FakeNetwork, **changes: Any) -> tuple[Fetched, bytes]:
    sink = io.BytesIO()
    fetched = fetch(url, sink, FetchRules(**({"enabled": True, "reach": net.reach()} | changes)))
    return fetched, sink.getvalue()


def test_is_off_by_default() -> None:
    with pytest.raises(UrlBlocked, match="switched off") as caught:
        fetch("https://clips.example/a.mp4", io.BytesIO(), FetchRules())
    assert "Upload" in caught.value.hint


def test_fetches_from_the_checked_address_under_the_given_name() -> None:
    with serving({"/a.mp4": body(CLIP)}) as web:
        net = network(web)
        fetched, content = run("http://clips.example/a.mp4?sig=1", net)
    assert content == CLIP
    assert (fetched.sha256, fetched.size_bytes) == (hashlib.sha256(CLIP).hexdigest(), len(CLIP))
    assert (fetched.origin, fetched.address, fetched.hops) == ("http://clips.example", PUBLIC, 0)
    assert web.seen[0].headers["host"] == "clips.example"
    assert web.seen[0].path == "/a.mp4?sig=1"
    assert net.lookups == ["clips.example"]
    assert net.connections == [(PUBLIC, 80)]


def test_follows_redirects_up_to_the_limit_and_checks_each() -> None:
    routes = {f"/{n}": redirect(f"/{n + 1}") for n in range(3)} | {"/3": body(CLIP)}
    with serving(routes) as web:
        net = network(web)
        fetched, content = run("http://clips.example/0", net)
        assert (fetched.hops, content) == (3, CLIP)
        assert len(net.lookups) == 4
        with pytest.raises(UrlBlocked, match="More than 2 redirects"):
            run("http://clips.example/0", net, max_redirects=2)


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "//inside.example/secret",
        "http://2130706433/",
        "http://0x7f.1/",
        "file:///etc/passwd",
        "gopher://clips.example/",
        "http://clips.example:22/",
        "http://user:pass@clips.example/",
    ],
)
def test_ssrf_by_redirect_never_reaches_the_second_host(to: str) -> None:
    """The system's own resolver turns 2130706433 and 0x7f.1 into 127.0.0.1, as an attacker hopes."""
    with serving({"/a": redirect(to), "/secret": body(CLIP)}) as web:
        net = network(web, inside_example=[["10.0.0.7"]])

        def resolve(host: str, port: int) -> Any:
            return net.resolve(host, port) if host in net.names else resolve_host(host, port)

        with pytest.raises(UrlBlocked):
            run("http://clips.example/a", net, reach=net.reach(resolve=resolve))
        assert len(web.seen) == 1
        assert net.connections == [(PUBLIC, 80)]


def test_dns_rebinding_finds_the_name_already_pinned() -> None:
    """The first answer is public and is used; the second, private, is never asked for within a hop."""
    with serving({"/a": body(CLIP), "/b": redirect("/a")}) as web:
        net = network(web, rebind_example=[[PUBLIC], ["127.0.0.1"]])
        fetched, content = run("http://rebind.example/a", net)
        assert (fetched.address, content, net.lookups) == (PUBLIC, CLIP, ["rebind.example"])
        net = network(web, rebind_example=[[PUBLIC], ["127.0.0.1"]])
        with pytest.raises(UrlBlocked, match="loopback"):  # and on the next hop the new answer is checked
            run("http://rebind.example/b", net)
        assert net.connections == [(PUBLIC, 80)]


@pytest.mark.parametrize("answers", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"]])
def test_a_name_that_leads_inside_is_refused_before_any_connection(answers: list[str]) -> None:
    with serving() as web:
        net = network(web, bad_example=[answers])
        with pytest.raises(UrlBlocked, match="not public"):
            run("http://bad.example/a", net)
        assert net.connections == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://clips.example/a", "file:///etc/passwd", "/etc/passwd", "data:video/mp4;base64,AA", "http://",
        "http:///a", "http://a b/", "http://clips.example\\@127.0.0.1/", "http://clips.example:0x50/",
        "http://clips.example/\r\nHost: x", "http://u@clips.example/", "http://clips.example:8080/",
        "http://clips.example:99999/", "http://[::1", "http://ex%61mple.com/", "x" * 3000,
    ],
)  # fmt: skip
def test_malformed_and_foreign_urls_are_refused_without_a_lookup(url: str) -> None:
    net = FakeNetwork(names={}, port=1)
    with pytest.raises(UrlBlocked):
        run(url, net)
    assert net.lookups == []


def test_only_listed_hosts_where_a_list_is_set() -> None:
    with serving({"/a": body(CLIP)}) as web:
        net = network(web, cdn_clips_example=[[PUBLIC]], evilclips_example=[[PUBLIC]])
        rules = {"allowed_hosts": ("clips.example", ".clips.example")}
        assert run("http://cdn.clips.example/a", net, **rules)[1] == CLIP
        with pytest.raises(UrlBlocked, match="not among"):
            run("http://evilclips.example/a", net, **rules)


def test_size_is_bounded_by_header_and_while_streaming() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(CLIP)
        while True:
            handler.wfile.write(b"\0" * 65536)

    with serving({"/big": body(CLIP, headers={"Content-Length": "99999999999"}), "/endless": endless}) as web:
        net = network(web)
        with pytest.raises(TooLarge, match="announces"):
            run("http://clips.example/big", net)
        with pytest.raises(TooLarge, match="larger than"):
            run("http://clips.example/endless", net, max_bytes=1 << 20)


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_server_that_drips_is_cut_off(where: str) -> None:
    """One byte every 50 ms would keep any limit per read happy for ever."""
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        line = b"HTTP/1.1 200 OK\r\nX: " if where == "head" else b"HTTP/1.1 200 OK\r\n\r\n" + CLIP
        handler.wfile.write(line)
        while not stop.wait(0.05):
            handler.wfile.write(b"a")
            handler.wfile.flush()

    with serving({"/a": drip}) as web:
        started = time.monotonic()
        with pytest.raises(UrlFetchFailed, match=r"within 0\.5 s"):
            run("http://clips.example/a", network(web), total_seconds=0.5)
        stop.set()
        assert time.monotonic() - started < 3


def test_a_resolver_that_hangs_is_cut_off() -> None:
    release = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        release.wait(10)
        return [PUBLIC]

    with pytest.raises(UrlFetchFailed, match="Looking up"):
        run("http://clips.example/", FakeNetwork(names={}, port=1), reach=Reach(resolve=hang), total_seconds=0.2)
    release.set()


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"<html>" + b"x" * 100, {"Content-Type": "video/mp4"}),
        (b"#EXTM3U\nhttp://127.0.0.1/\n" + b"#" * 60, {}),
        (b"\x1f\x8b" + CLIP, {"Content-Encoding": "gzip"}),
        (b"\x7fELF" + b"\0" * 100, {}),
        (b"hello", {}),
        (b"", {}),
    ],
)
def test_content_is_judged_by_its_first_bytes_and_nothing_is_written(content: bytes, headers: dict[str, str]) -> None:
    with serving({"/a": body(content, headers=headers)}) as web:
        sink = io.BytesIO()
        with pytest.raises(UnsupportedMediaType):
            fetch("http://clips.example/a", sink, FetchRules(enabled=True, reach=network(web).reach()))
        assert sink.getvalue() == b""


@pytest.mark.parametrize("status", [204, 206, 401, 404, 500])
def test_only_200_counts(status: int) -> None:
    with serving({"/a": body(b"" if status == 204 else CLIP, status)}) as web, pytest.raises(UrlFetchFailed):
        run("http://clips.example/a", network(web))


def test_no_host_and_nobody_home_are_failures_that_may_be_tried_again() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        net = FakeNetwork(names={"clips.example": [[PUBLIC]]}, port=closed.getsockname()[1])
        for url in ("http://none.example/", "http://clips.example/"):
            with pytest.raises(UrlFetchFailed) as caught:
                run(url, net)
            assert caught.value.retryable


def test_an_operators_network_is_let_through_with_its_ports() -> None:
    with serving({"/a": body(CLIP)}) as web:
        reach = Reach(allowed_networks=parse_networks(["127.0.0.0/8"]))
        sink = io.BytesIO()
        fetch(f"{web.url}/a", sink, FetchRules(enabled=True, reach=reach))
        assert sink.getvalue() == CLIP
        net = network(web)
        with pytest.raises(UrlBlocked, match="Port 8080"):  # a public host gains no ports by that
            run("http://clips.example:8080/", net, reach=net.reach(allowed_networks=reach.allowed_networks))


def test_https_checks_the_certificate_of_the_name_not_of_the_address(tmp_path: Path) -> None:
    made = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", made, "-out", tmp_path / "cert.pem",
         "-days", "2", "-subj", "/CN=clips.example", "-addext", "subjectAltName=DNS:clips.example"],
        check=True, capture_output=True,
    )  # fmt: skip
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "cert.pem", made)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                with server_side.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CLIP) + CLIP)
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    net = FakeNetwork(names={"clips.example": [[PUBLIC]], "other.example": [[PUBLIC]]}, port=listener.getsockname()[1])
    fetched, content = run("https://clips.example/a", net, reach=net.reach(tls=trusting))
    assert (content, fetched.address) == (CLIP, PUBLIC)
    for url, reach in (("https://other.example/a", net.reach(tls=trusting)), ("https://clips.example/a", net.reach())):
        with pytest.raises(UrlFetchFailed):
            run(url, net, reach=reach)
    listener.close()


def test_messages_hold_no_query_and_no_address() -> None:
    with serving() as web:
        net = network(web, bad_example=[["10.9.8.7"]])
        for url in ("http://clips.example/a?token=hush", "http://bad.example/?token=hush"):
            with pytest.raises(GuardError) as caught:
                run(url, net)
            assert "hush" not in caught.value.message
            assert "10.9.8.7" not in caught.value.message


def test_names_outside_ascii_are_asked_for_in_idna() -> None:
    assert parse_url("http://Bücher.example./ä?q=ö", Reach()).url == "http://xn--bcher-kva.example/%C3%A4?q=%C3%B6"
