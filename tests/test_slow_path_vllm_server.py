"""The server engine against a small HTTP server that misbehaves on purpose, one way at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from guard.errors import InvalidConfig
from guard.types import Judgement
from slow_path.engine import Generation, ImagePart, Request, TextPart
from slow_path.engines import vllm_server
from slow_path.engines.vllm_server import Config
from slow_path.failures import EngineFailure, FailureCode
from slow_path.judge import JudgeSettings, from_url
from tests.slow_path_cases import case

Reply = tuple[int, dict[str, str], Any]


def completion(text: str = "hi", *, finish: str = "stop", logprobs: bool = True, **extra: Any) -> Reply:
    content = [{"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": text, "logprob": -0.1}]}]
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text, **extra.pop("message", {})},
        "logprobs": {"content": content} if logprobs else None,
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8, **extra.pop("usage", {})}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return 200, {}, body | extra


class Double:
    """Answers chat requests by a function of their number and body; counts them and how many overlap."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], Reply], models: list[str]) -> None:
        self.reply = reply
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.running = self.most = 0
        self.url = ""


def handler(double: Double) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {}, {"object": "list", "data": [{"id": m, "object": "model"} for m in double.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with double.lock:
                number = len(double.bodies)
                double.bodies.append(body)
                double.running += 1
                double.most = max(double.most, double.running)
            try:
                status, headers, content = double.reply(number, body)
            finally:
                with double.lock:
                    double.running -= 1
            with contextlib.suppress(ConnectionError):  # the client has given up on a stall
                self._send(status, headers, content)

        def _send(self, status: int, headers: dict[str, str], content: Any) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            if status == 0:  # break off in the middle of the answer
                self.send_response(200)
                self.send_header("content-length", str(len(data) + 100))
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = True
                return
            self.send_response(status)
            for key, value in {"content-type": "application/json", **headers}.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(reply: Callable[[int, dict[str, Any]], Reply], models: list[str] | None = None) -> Iterator[Double]:
    double = Double(reply, ["m"] if models is None else models)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(double))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


REQUEST = Request(
    system="s",
    parts=(TextPart(text="Frame at 0.0 s:"), ImagePart(jpeg=b"\xff\xd8\xff"), TextPart(text="task")),
    max_tokens=9,
    schema={"type": "object"},
    seed=4,
    top_logprobs=20,
)


def ask(url: str, *, times: int = 1, **settings: Any) -> list[Generation | EngineFailure]:
    config = Config(base_url=url, **({"first_wait_seconds": 0.01} | settings))

    async def run() -> list[Any]:
        engine = vllm_server.build(config)
        try:
            return await asyncio.gather(*(engine.generate(REQUEST) for _ in range(times)), return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(run())


def failure(results: list[Generation | EngineFailure]) -> FailureCode:
    assert isinstance(results[0], EngineFailure), results[0]
    return results[0].code


def test_sends_frames_as_data_and_asks_for_the_schema_and_the_log_probabilities() -> None:
    with serving(lambda n, body: completion()) as double:
        made = ask(double.url)[0]
    assert isinstance(made, Generation)
    assert made.tokens is not None
    assert made.prompt_tokens == 7
    body = double.bodies[0]
    assert body["model"] == "m", "the only model that the server lists"
    content = body["messages"][1]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text"]
    assert content[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (body["logprobs"], body["top_logprobs"], body["seed"], body["temperature"]) == (True, 20, 4, 0.0)


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (502, 3), (503, 3), (429, 3), (400, 1), (401, 1), (404, 1)])
def test_only_what_may_pass_is_tried_again(status: int, tries: int) -> None:
    with serving(lambda n, body: (status, {}, {"error": {"message": "x"}})) as double:
        code = failure(ask(double.url, attempts=3))
    assert len(double.bodies) == tries
    expected = {429: FailureCode.RATE_LIMITED, 503: FailureCode.CAPACITY}
    assert code is expected.get(status, FailureCode.UNAVAILABLE if status >= 500 else FailureCode.REJECTED)


def test_succeeds_once_the_trouble_has_passed() -> None:
    with serving(lambda n, body: completion() if n == 2 else (500, {}, {})) as double:
        assert isinstance(ask(double.url, attempts=4)[0], Generation)
    assert len(double.bodies) == 3


def test_retry_after_is_obeyed() -> None:
    with serving(lambda n, body: completion() if n else (429, {"retry-after": "1"}, {})) as double:
        started = time.monotonic()
        assert isinstance(ask(double.url)[0], Generation)
    assert time.monotonic() - started >= 1.0


def test_a_retry_after_beyond_the_longest_wait_gives_up_at_once() -> None:
    with serving(lambda n, body: (429, {"retry-after": "3600"}, {})) as double:
        started = time.monotonic()
        assert failure(ask(double.url)) is FailureCode.RATE_LIMITED
    assert time.monotonic() - started < 5
    assert len(double.bodies) == 1


def test_a_stall_ends_at_the_timeout() -> None:
    def stall(n: int, body: dict[str, Any]) -> Reply:
        time.sleep(2)
        return completion()

    with serving(stall) as double:
        started = time.monotonic()
        assert failure(ask(double.url, request_timeout_seconds=0.3, attempts=2)) is FailureCode.TIMEOUT
        assert time.monotonic() - started < 2


def test_nobody_listening_is_unavailable() -> None:
    with serving(lambda n, body: completion()) as double:
        url = double.url
    assert failure(ask(url, attempts=2)) is FailureCode.UNAVAILABLE


@pytest.mark.parametrize(
    "reply",
    [
        (200, {}, b"<html>busy</html>"),
        (200, {}, {"object": "error"}),
        (200, {}, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": []}),
        (0, {}, b'{"id": "1"'),
        completion(finish="abort"),
    ],
    ids=["html", "no choices key", "no choices", "broken off", "aborted"],
)
def test_an_unreadable_answer_is_a_typed_failure(reply: Reply) -> None:
    with serving(lambda n, body: reply) as double:
        assert failure(ask(double.url, model="m", attempts=2)) is FailureCode.UNAVAILABLE


def test_finish_reasons_are_kept() -> None:
    for finish, expected in (("length", "length"), ("content_filter", "refusal"), ("stop", "stop")):
        with serving(lambda n, body, f=finish: completion(finish=f)) as double:  # type: ignore[misc]
            made = ask(double.url)[0]
        assert isinstance(made, Generation)
        assert made.finish_reason == expected
    with serving(lambda n, body: completion(message={"refusal": "I cannot."})) as double:
        made = ask(double.url)[0]
    assert isinstance(made, Generation)
    assert made.finish_reason == "refusal"


def test_a_server_without_log_probabilities_still_answers() -> None:
    def reply(n: int, body: dict[str, Any]) -> Reply:
        if "logprobs" in body:
            return 400, {}, {"error": {"message": "logprobs is not supported by this server"}}
        return completion(logprobs=False)

    with serving(reply) as double:
        made = ask(double.url)[0]
    assert isinstance(made, Generation)
    assert made.tokens is None
    assert len(double.bodies) == 2


def test_a_token_chosen_by_the_grammar_counts_even_if_it_is_not_listed() -> None:
    reply = completion("no")
    reply[2]["choices"][0]["logprobs"]["content"][0] |= {
        "logprob": -4.0,
        "top_logprobs": [{"token": "x", "logprob": -0.1}],
    }
    with serving(lambda n, body: reply) as double:
        made = ask(double.url)[0]
    assert isinstance(made, Generation)
    assert made.tokens is not None
    assert made.tokens[0].top == {"x": pytest.approx(-0.1), "no": pytest.approx(-4.0)}


def test_counted_images_must_be_those_sent() -> None:
    def counting(tokens: int) -> Callable[[int, dict[str, Any]], Reply]:
        details = {"prompt_tokens_details": {"cached_tokens": 3, "multimodal_tokens": {"image": tokens}}}
        return lambda n, body: completion(usage=details)

    with serving(counting(64)) as double:
        made = ask(double.url)[0]
    assert isinstance(made, Generation)
    assert (made.images, made.cached_tokens) == (1, 3)
    with serving(counting(0)) as double:
        assert failure(ask(double.url, attempts=1)) is FailureCode.IMAGE_MISMATCH


def test_no_more_than_the_allowed_number_run_at_once() -> None:
    def slow(n: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return completion()

    with serving(slow) as double:
        made = ask(double.url, times=12, concurrency=3)
    assert all(isinstance(m, Generation) for m in made)
    assert double.most == 3


@pytest.mark.parametrize("models", [[], ["a", "b"]])
def test_a_server_with_another_number_of_models_wants_a_name(models: list[str]) -> None:
    with serving(lambda n, body: completion(), models) as double:
        assert failure(ask(double.url)) is FailureCode.REJECTED
        assert isinstance(ask(double.url, model="a")[0], Generation)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="http"):
        Config(base_url="localhost:8000")


def judged(url: str, cases: int = 1, **settings: Any) -> list[Judgement]:
    async def run() -> list[Judgement]:
        judge = from_url(url, settings=JudgeSettings(mode="reason", **settings), first_wait_seconds=0.01, attempts=2)
        try:
            return await judge.judge([case(seed=i) for i in range(cases)])
        finally:
            await judge.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        ((500, {}, {}), "generation_error", "vlm_unavailable"),
        (completion("not JSON"), "parse_error", "vlm_invalid_json"),
        (completion('{"safe": true}'), "parse_error", "vlm_invalid_schema"),
        (completion('{"observations":', finish="length"), "generation_error", "vlm_truncated"),
        (completion("", message={"refusal": "no"}), "generation_error", "vlm_refused"),
        (completion(""), "generation_error", "vlm_empty"),
        ((400, {}, {"error": {"message": "too long"}}), "generation_error", "vlm_rejected"),
    ],
)
def test_faults_of_a_server_end_in_the_documented_judgement(reply: Reply, status: str, code: str) -> None:
    with serving(lambda n, body: reply) as double:
        judgement = judged(double.url)[0]
    assert (judgement.status, judgement.error_code, judgement.checks) == (status, code, ())


def test_the_deadline_of_a_video_covers_all_its_requests() -> None:
    def stall(n: int, body: dict[str, Any]) -> Reply:
        time.sleep(1.5)
        return completion()

    with serving(stall) as double:
        started = time.monotonic()
        judgements = judged(double.url, cases=3, deadline_seconds=0.4)
        assert time.monotonic() - started < 1.4
    assert [j.error_code for j in judgements] == ["vlm_timeout"] * 3
