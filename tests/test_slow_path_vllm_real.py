"""A real vLLM server with a small model made on the spot: structured answers, prefix cache, adapter, a server that
dies.

Run by `make test-vllm`, which makes a Python with vLLM beside the project's own; `GUARD_VLLM_PYTHON` may name another.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import pytest

from guard.types import Judgement
from slow_path import rendered_examples, server, tiny_vlm
from slow_path.confidence import label_confidences
from slow_path.engine import Generation, Request
from slow_path.engines import vllm_server
from slow_path.judge import JudgeSettings, from_url
from slow_path.server import Server, ServerSettings
from slow_path.train import TrainSettings, fit

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

T = TypeVar("T")
SETTINGS = JudgeSettings(
    mode="reason",
    limits=rendered_examples.LIMITS,
    options=rendered_examples.OPTIONS,
    budget=rendered_examples.BUDGET,
    max_tokens=900,
    samples=1,
    answer_attempts=1,
    deadline_seconds=900.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a million random weights, and an adapter trained for a few steps."""
    home = tmp_path_factory.mktemp("vlm")
    shape = tiny_vlm.Shape(hidden=64, layers=2, heads=2, vision_hidden=32, vision_layers=1, vocabulary=700)
    model = tiny_vlm.make(home / "model", rendered_examples.corpus(60), shape)
    steps = TrainSettings(steps=6, batch=2, lora_rank=8, learning_rate=2e-2, warmup_steps=1)
    fit(model, rendered_examples.example, home / "adapter", steps)
    return home


@pytest.fixture(scope="module")
def vllm(folder: Path) -> Iterator[Server]:
    settings = ServerSettings(
        port=server.free_port(),
        images=8,
        max_model_len=2048,
        kv_cache_gib=1,
        threads=1,  # two threads that wait for each other crawl on a busy machine
        served_name="base",
        adapters={"tuned": folder / "adapter"},
        extra=("--block-size", "32"),  # only full blocks are cached, and the prompts here are short
    )
    with server.running(str(folder / "model"), settings, log=folder / "server.log", ready_seconds=1200) as running:
        yield running


def on_loop(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def generations(url: str, requests: list[Request], model: str = "base") -> list[Generation]:
    engine = vllm_server.build(vllm_server.Config(base_url=url, model=model, request_timeout_seconds=900))
    try:
        return list(await asyncio.gather(*(engine.generate(request) for request in requests)))
    finally:
        await engine.close()


def request(seed: int, *, temperature: float = 1.0) -> Request:
    made = rendered_examples.view(seed, rules=2)
    return made.reasoning(max_tokens=900, temperature=temperature)


def test_every_answer_of_a_random_model_fits_the_schema(vllm: Server) -> None:
    requests = [request(seed) for seed in range(12)]
    made = on_loop(generations(vllm.url, requests))
    for asked, generation in zip(requests, made, strict=True):
        assert generation.finish_reason == "stop", "the answer is bounded, so its end is reached"
        jsonschema.validate(json.loads(generation.text), dict(asked.schema or {}))
        assert generation.images == asked.images == 6
        assert generation.text.startswith('{"observations":['), "no free white space"
        times = re.findall(r'_seconds":"([^"]*)"', generation.text)
        assert all(re.fullmatch(r"\d\.\d", time) for time in times), "as printed, not 0.29999999999999999"


def test_log_probabilities_come_with_every_token_and_join_to_the_answer(vllm: Server) -> None:
    made = on_loop(generations(vllm.url, [request(1)]))[0]
    assert made.tokens is not None
    assert len(made.tokens) >= made.completion_tokens - 1
    assert "".join(t.text for t in made.tokens).startswith(made.text[:10])
    assert all(t.text in t.top for t in made.tokens)
    assert any(len(t.top) >= 10 for t in made.tokens)
    known = label_confidences(made.tokens, re.findall(r'"violated":"(\w+)"', made.text))
    assert len(known) == 2
    assert all(p is not None and 0 < p < 1 for p in known)


def test_the_second_question_about_a_video_finds_its_frames_in_the_cache(vllm: Server) -> None:
    view = rendered_examples.view(5001, rules=2)
    before = vllm.counters()["vllm:prefix_cache_hits_total"]
    first, second = view.question.rules
    one = on_loop(generations(vllm.url, [view.scoring(first)]))[0]
    two = on_loop(generations(vllm.url, [view.scoring(second)]))[0]
    assert two.cached_tokens is not None
    assert two.cached_tokens > 0.6 * two.prompt_tokens
    assert vllm.counters()["vllm:prefix_cache_hits_total"] >= before + two.cached_tokens
    assert one.completion_tokens == two.completion_tokens == 1


def test_an_adapter_trained_here_loads_there_and_changes_the_answer(vllm: Server) -> None:
    asked = [request(seed, temperature=0.0) for seed in range(3)]
    base = on_loop(generations(vllm.url, asked, "base"))
    tuned = on_loop(generations(vllm.url, asked, "tuned"))
    assert [g.text for g in base] != [g.text for g in tuned]


def test_judgements_of_a_random_model_are_typed_and_never_lost(vllm: Server) -> None:
    judgements = on_loop(judged(vllm.url, 6))
    assert len(judgements) == 6
    for judgement in judgements:
        assert judgement.status in ("ok", "parse_error")
        assert (judgement.status == "ok") == (judgement.error_code is None)
        assert judgement.completion_tokens > 20


async def judged(url: str, count: int, *, before_end: Any = None) -> list[Judgement]:
    judge = from_url(
        url, model="base", settings=SETTINGS, attempts=2, first_wait_seconds=0.01, request_timeout_seconds=900
    )
    cases = [rendered_examples.case(rendered_examples.item(seed)) for seed in range(count)]
    work = asyncio.create_task(judge.judge(cases))
    if before_end is not None:
        await asyncio.sleep(0.3)
        before_end()
    try:
        return await work
    finally:
        await judge.close()


def test_a_server_killed_in_the_middle_of_a_batch_loses_nothing(vllm: Server) -> None:
    """Last in this file: the server is gone after it."""
    judgements = on_loop(judged(vllm.url, 40, before_end=vllm.kill))
    assert len(judgements) == 40
    unavailable = [j for j in judgements if j.error_code == "vlm_unavailable"]
    assert unavailable, "some requests were under way"
    assert all(j.status != "ok" for j in unavailable)
