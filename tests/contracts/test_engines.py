"""What every VLM engine promises, and what needs no model to check. Real generation: test_slow_path_vllm_real.py."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
import json
import sys

import pytest

from guard import plugins
from guard.errors import MissingExtra, UnknownPart
from slow_path.answer import Question, schema
from slow_path.engine import Engine, Generation, Request, TextPart
from slow_path.failures import EngineFailure

NAMES = plugins.names("engine")
HEAVY = {"torch", "transformers", "vllm", "peft"}


def test_there_are_engines_to_check() -> None:
    assert {"scripted", "vllm_server", "vllm_offline", "transformers"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_offers_config_build_and_tiny(name: str) -> None:
    module = plugins.module("engine", name)
    assert dataclasses.is_dataclass(module.Config)
    required = {f.name: "http://127.0.0.1:1" for f in dataclasses.fields(module.Config) if f.name == "base_url"}
    config = module.Config(**required)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(module.Config)[0].name, None)
    assert callable(module.build)
    assert callable(module.tiny)


@pytest.mark.parametrize("name", NAMES)
def test_importing_an_engine_loads_no_model_library(name: str) -> None:
    tree = ast.parse(inspect.getsource(plugins.module("engine", name)))
    top = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not top & HEAVY


@pytest.mark.parametrize("name", ["scripted", "transformers"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tiny_generates_through_the_protocol(name: str) -> None:
    async def ask() -> tuple[Generation, Generation]:
        engine = plugins.module("engine", name).tiny()
        assert isinstance(engine, Engine)
        try:
            request = Request(system="s", parts=(TextPart(text="t"),), max_tokens=5, top_logprobs=3)
            return await engine.generate(request), await engine.generate(request)
        finally:
            await engine.close()

    first, second = asyncio.run(ask())
    assert first == second, "greedy decoding of one request gives one answer"
    assert first.finish_reason in ("stop", "length")
    for token in first.tokens or ():
        assert token.logprob <= 1e-6
        assert token.text in token.top


def test_scripted_engine_answers_any_schema_of_ours() -> None:
    question = Question(rules=("a", "b"), times_seconds=(0.0, 1.5), duration_seconds=2.0)

    async def ask() -> Generation:
        engine = plugins.module("engine", "scripted").tiny()
        return await engine.generate(Request(system="", parts=(), max_tokens=9, schema=schema(question)))

    assert list(json.loads(asyncio.run(ask()).text)["checks"]) == ["a", "b"]


def test_scripted_engine_fails_when_its_script_ends() -> None:
    engine = plugins.load("engine", "scripted", steps=["one"])

    async def ask() -> None:
        await engine.generate(Request(system="", parts=(), max_tokens=1))
        with pytest.raises(EngineFailure, match="no further step"):
            await engine.generate(Request(system="", parts=(), max_tokens=1))

    asyncio.run(ask())


def test_unknown_setting_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(UnknownPart, match="base_url"):
        plugins.load("engine", "vllm_server", address="http://127.0.0.1:1/v1")


def test_offline_engine_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match="vllm") as caught:
        plugins.load("engine", "vllm_offline", model="any")
    assert "pip install" in caught.value.hint
