"""Every fault of a VLM server through `guard scan --slow URL`: the documented verdict, and no clip lost.

The table in docs/slow-path.md names the test of each. The server is a local one that misbehaves on purpose.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from serve import cli
from serve.failures import Exit
from slow_path import rendered_files
from slow_path import settings as slow_settings
from slow_path.rendered import Clip, Event
from slow_path.server import free_port
from tests.slow_path_server import answer, honest, properties, shown, with_tokens
from tests.test_slow_path_vllm_server import Double, Reply, completion, handler, serving

RULES = ("custom.red_circle", "custom.blue_square")
TIMES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
RIGHT = {"blue.mp4": "block", "empty.mp4": "allow", "red.mp4": "block"}
Answer = Callable[[int, dict[str, Any]], Reply]
OPEN = Exit.SOME_UNDECIDED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("faults")
    (home / "clips").mkdir()
    for seed, (name, kind) in enumerate({"red": "circle", "blue": "square"}.items()):
        event = Event(colour=name, shape=kind, first=1, last=3, centre=(0.5, 0.5), radius=0.3)
        rendered_files.write_clip(home / "clips" / f"{name}.mp4", Clip(seed=seed, times_seconds=TIMES, events=(event,)))
    rendered_files.write_clip(home / "clips" / "empty.mp4", Clip(seed=9, times_seconds=TIMES, events=()))
    rendered_files.write_policy(home / "policy.yaml", RULES)
    return home


@pytest.fixture
def scan(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> Callable[..., tuple[int, dict[str, dict[str, Any]]]]:
    """Scan the three clips; returns the exit code and the verdicts by file name."""
    (tmp_path / "guard.toml").write_text('detectors = ["flash"]\nworkers = 1\n')
    monkeypatch.setenv("GUARD_CONFIG", str(tmp_path / "guard.toml"))
    monkeypatch.setenv("GUARD_SLOW_PROFILE", "small")
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the handler would outlive the test

    def run(url: str, *more: object) -> tuple[int, dict[str, dict[str, Any]]]:
        out = tmp_path / "run"
        asked = ("scan", folder / "clips", "--out", out, "--slow", url, "--policy", folder / "policy.yaml", *more)
        monkeypatch.setattr(sys, "argv", ["guard", *map(str, asked)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        capfd.readouterr()
        lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        found = {Path(line["source"]).name: line for line in lines}
        assert sorted(found) == sorted(RIGHT), "one line for every clip"
        assert len(lines) == len(RIGHT)
        return int(ended.value.code or 0), found

    return run


def decisions(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: line["decision"] for name, line in found.items()}


def in_full(change: Callable[[dict[str, Any], dict[str, Any]], Reply]) -> Answer:
    """Answer yes/no questions with doubt, so that a full answer is asked for, and hand that one to `change`."""

    def reply(number: int, body: dict[str, Any]) -> Reply:
        form = properties(body)
        return with_tokens("no", 0.6) if form is None else change(form, answer(form, shown(body)))

    return reply


def text_of(change: Callable[[dict[str, Any]], Any]) -> Answer:
    return in_full(lambda form, made: completion(json.dumps(change(made))))


def test_a_server_that_works_settles_every_clip(scan: Any) -> None:
    with serving(lambda number, body: honest(body), models=["m"]) as double:
        code, found = scan(double.url)
    assert (code, decisions(found)) == (Exit.OK, RIGHT)
    assert found["red.mp4"]["judgement"]["checks"]


FAULTS: dict[str, tuple[Answer, str, str, Exit]] = {
    "cut at the token limit": (
        in_full(lambda form, made: completion(json.dumps(made), finish="length")),
        "generation_error", "vlm_truncated", OPEN,
    ),
    "invalid JSON": (
        in_full(lambda form, made: completion(json.dumps(made)[:-7])), "parse_error", "vlm_invalid_json", OPEN,
    ),
    "a wrong schema": (text_of(lambda made: {"safe": True}), "parse_error", "vlm_invalid_schema", OPEN),
    "an unknown key": (text_of(lambda made: made | {"safe": True}), "parse_error", "vlm_invalid_schema", OPEN),
    "a time outside the video": (
        text_of(lambda made: made | {"observations": [{"start_seconds": 70.0, "end_seconds": 71.0, "text": "x"}]}),
        "parse_error", "vlm_invalid_schema", OPEN,
    ),
    "a rule left out": (
        text_of(lambda made: made | {"checks": dict(list(made["checks"].items())[:1]), "categories": [],
                                     "severity": 0, "span": None}),
        "partial", "vlm_incomplete", OPEN,
    ),
    "a verdict against its own checks": (
        text_of(lambda made: made | {"categories": [] if made["categories"] else list(made["checks"])[:1],
                                     "severity": 0 if made["categories"] else 2, "span": None}),
        "parse_error", "vlm_inconsistent", OPEN,
    ),
    "nothing": (in_full(lambda form, made: completion("")), "generation_error", "vlm_empty", OPEN),
    "a refusal": (
        in_full(lambda form, made: completion("", message={"refusal": "I cannot help with that."})),
        "generation_error", "vlm_refused", OPEN,
    ),
    "a filter": (
        in_full(lambda form, made: completion("", finish="content_filter")),
        "generation_error", "vlm_refused", OPEN,
    ),
    "a refused request": (
        lambda number, body: (400, {}, {"error": {"message": "the prompt is too long"}}),
        "generation_error", "vlm_rejected", Exit.BACKEND_DOWN,
    ),
    "HTTP 429 that asks for more time than there is": (
        lambda number, body: (429, {"retry-after": "100"}, {"error": {"message": "slow down"}}),
        "generation_error", "rate_limited", Exit.BACKEND_DOWN,
    ),
    "HTTP 500 for ever": (
        lambda number, body: (500, {}, {"error": {"message": "boom"}}),
        "generation_error", "vlm_unavailable", Exit.BACKEND_DOWN,
    ),
    "HTTP 503 for ever": (
        lambda number, body: (503, {"retry-after": "100"}, {"error": {"message": "full"}}),
        "generation_error", "capacity", Exit.BACKEND_DOWN,
    ),
    "a page that is no answer": (
        lambda number, body: (200, {}, b"<html>proxy login</html>"),
        "generation_error", "vlm_unavailable", Exit.BACKEND_DOWN,
    ),
    "a connection that breaks": (
        lambda number, body: (0, {}, b'{"id": "1", "cho'),
        "generation_error", "vlm_unavailable", Exit.BACKEND_DOWN,
    ),
}  # fmt: skip


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait hundredths of a second between tries, so that giving up takes no time."""
    from slow_path.engines import vllm_server

    build = vllm_server.build
    monkeypatch.setattr(vllm_server, "build", lambda config: build(replace(config, first_wait_seconds=0.01)))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_in_review_with_its_code(scan: Any, impatient: None, fault: str) -> None:
    reply, status, error, exit_code = FAULTS[fault]
    with serving(reply, models=["m"]) as double:
        code, found = scan(double.url)
    assert set(decisions(found).values()) == {"review"}, "never allowed, never lost"
    assert {line["error"]["code"] for line in found.values()} == {error}
    assert {line["judgement"]["status"] for line in found.values()} == {status}
    assert {line["judgement"]["error_code"] for line in found.values()} == {error}
    assert code == exit_code
    assert all(error in line["rationale"] for line in found.values())


def test_a_server_that_is_down_at_start_is_named_and_a_second_scan_settles_all(scan: Any, impatient: None) -> None:
    port = free_port()
    code, found = scan(f"http://127.0.0.1:{port}/v1")
    assert (code, set(decisions(found).values())) == (Exit.BACKEND_DOWN, {"review"})
    assert {line["error"]["code"] for line in found.values()} == {"vlm_unavailable"}
    with on_port(port, lambda number, body: honest(body)):
        code, found = scan(f"http://127.0.0.1:{port}/v1", "--resume", "--retry-failed")
    assert (code, decisions(found)) == (Exit.OK, RIGHT)


def test_a_server_killed_in_the_middle_and_restarted_loses_nothing(scan: Any, impatient: None) -> None:
    port = free_port()
    served: list[ThreadingHTTPServer] = []

    def reply(number: int, body: dict[str, Any]) -> Reply:
        if number < 2:  # the two questions about the first clip
            return honest(body)
        if number == 2:
            served[0].shutdown()
            served[0].server_close()
        return 0, {}, b"{"  # connections that were open break as well

    served.append(start(port, reply))
    code, found = scan(f"http://127.0.0.1:{port}/v1")
    assert code == Exit.BACKEND_DOWN
    assert all(line["decision"] in (RIGHT[name], "review") for name, line in found.items())
    lost = [line for line in found.values() if line["error"]]
    assert len(lost) >= 2
    assert {line["error"]["code"] for line in lost} == {"vlm_unavailable"}
    with on_port(port, lambda number, body: honest(body)):
        code, found = scan(f"http://127.0.0.1:{port}/v1", "--resume", "--retry-failed")
    assert (code, decisions(found)) == (Exit.OK, RIGHT)


def test_an_outage_shorter_than_the_retries_is_not_noticed(scan: Any) -> None:
    port = free_port()
    late = threading.Timer(1.0, lambda: late_server.append(start(port, lambda number, body: honest(body))))
    late_server: list[ThreadingHTTPServer] = []
    late.start()
    try:
        code, found = scan(f"http://127.0.0.1:{port}/v1")
    finally:
        late.join()
        late_server[0].shutdown()
        late_server[0].server_close()
    assert (code, decisions(found)) == (Exit.OK, RIGHT)


def test_a_429_with_a_short_retry_after_is_waited_for(scan: Any) -> None:
    told: list[float] = []

    def reply(number: int, body: dict[str, Any]) -> Reply:
        told.append(time.monotonic())
        return (429, {"retry-after": "1"}, {"error": {"message": "slow"}}) if number == 0 else honest(body)

    with serving(reply, models=["m"]) as double:
        code, found = scan(double.url)
    assert (code, decisions(found)) == (Exit.OK, RIGHT)
    assert max(told) - told[0] >= 1.0


def test_a_stall_within_the_deadline_is_waited_for(scan: Any) -> None:
    stall(scan, 2.0)


@pytest.mark.slow
def test_a_stall_of_30_seconds_is_waited_for(scan: Any) -> None:
    stall(scan, 30.0)


def stall(scan: Any, seconds: float) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        if number == 0:
            time.sleep(seconds)
        return honest(body)

    started = time.monotonic()
    with serving(reply, models=["m"]) as double:
        code, found = scan(double.url)
    assert (code, decisions(found)) == (Exit.OK, RIGHT)
    assert time.monotonic() - started >= seconds


def test_a_stall_beyond_the_deadline_of_a_video_is_a_timeout(scan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(slow_settings.PROFILES["small"], deadline_seconds=1.0)
    monkeypatch.setattr(slow_settings, "PROFILES", MappingProxyType({"small": short}))

    def reply(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(3.0)
        return honest(body)

    started = time.monotonic()
    with serving(reply, models=["m"]) as double:
        code, found = scan(double.url)
        assert time.monotonic() - started < 8.0, "the clips wait side by side"
    assert (code, set(decisions(found).values())) == (Exit.BACKEND_DOWN, {"review"})
    assert {line["error"]["code"] for line in found.values()} == {"vlm_timeout"}


def test_without_log_probabilities_several_passes_must_agree(scan: Any) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        status, headers, made = honest(body)
        made["choices"][0]["logprobs"] = None
        return status, headers, made

    with serving(reply, models=["m"]) as double:
        code, found = scan(double.url)
        full = [body for body in double.bodies if properties(body) is not None]
    assert (code, decisions(found)) == (Exit.OK, RIGHT)
    assert len(full) == 3 * len(RIGHT)
    assert all(line["judgement"]["confidence"] is None for line in found.values())
    assert {line["judgement"]["passes"] for line in found.values()} == {3}


def test_without_log_probabilities_and_without_agreement_nothing_is_settled(scan: Any) -> None:
    turn: dict[str, int] = {}

    def reply(number: int, body: dict[str, Any]) -> Reply:
        form = properties(body)
        if form is None:
            return completion("no", logprobs=False)
        seen = shown(body)
        key = str([colour for _, colour in seen])
        turn[key] = turn.get(key, 0) + 1
        made = answer(form, seen)
        if turn[key] % 3 == 1:
            return completion(json.dumps(made), logprobs=False)
        unsure = {rule: check | {"violated": "unsure"} for rule, check in made["checks"].items()}
        blank = {"checks": unsure, "categories": [], "severity": 0, "span": None}
        return completion(json.dumps(made | blank), logprobs=False)

    with serving(reply, models=["m"]) as double:
        _, found = scan(double.url)
    assert "allow" not in decisions(found).values()


@contextlib.contextmanager
def on_port(port: int, reply: Answer) -> Iterator[None]:
    server = start(port, reply)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def start(port: int, reply: Answer) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), handler(Double(reply, ["m"])))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
