"""An engine that follows a script: for fault injection and for examples without a model. It never looks at the frames.

A step of the script is a `Generation`, a text, an `EngineFailure` to raise, or a function of the request; a `Stall`
waits first.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from slow_path.engine import Generation, Request, Token
from slow_path.failures import EngineFailure, FailureCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """Wait, then take `then` as the step."""

    seconds: float
    then: str | Generation = ""


Step: TypeAlias = str | Generation | EngineFailure | Stall | Callable[[Request], "str | Generation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the scripted engine."""

    steps: Sequence[Step] = ()
    """Used in order, one per request."""
    repeat: bool = False
    """Start over when the steps are used up; otherwise the engine is then unavailable."""
    name: str = "scripted"


@dataclass(slots=True, kw_only=True)
class ScriptedEngine:
    """Gives out its steps, and remembers the requests."""

    name: str
    steps: Iterator[Step]
    requests: list[Request] = field(default_factory=list)

    async def generate(self, request: Request) -> Generation:
        """Return the next step of the script, or raise it."""
        self.requests.append(request)
        step = next(self.steps, None)
        if step is None:
            raise EngineFailure(FailureCode.UNAVAILABLE, "The script has no further step.")
        if isinstance(step, Stall):
            await asyncio.sleep(step.seconds)
            step = step.then
        if isinstance(step, EngineFailure):
            raise step
        made = step(request) if callable(step) else step
        return made if isinstance(made, Generation) else self._finished(made, request)

    async def close(self) -> None:
        """Nothing to give back."""

    def _finished(self, text: str, request: Request) -> Generation:
        return Generation(text=text, finish_reason="stop", model=self.name, images=request.images)


def build(config: Config) -> ScriptedEngine:
    """Return the engine."""
    steps: Iterable[Step] = itertools.cycle(config.steps) if config.repeat and config.steps else config.steps
    return ScriptedEngine(name=config.name, steps=iter(steps))


def tiny() -> ScriptedEngine:
    """Return an engine that gives the first answer which each request's schema allows; a text without a schema."""
    return build(Config(steps=[lambda request: generation(first_allowed(request.schema))], repeat=True))


def generation(text: str, *, p: float = 0.99, alternatives: Mapping[str, str] | None = None) -> Generation:
    """Return `text` as a finished generation, one token per word or sign, each with probability `p`.

    Args:
        text: the answer.
        p: probability in (0, 1] of every token; the rest goes to the token's alternative, if it has one.
        alternatives: token text to the text that it competes with, such as `{"yes": "no"}`.
    """
    other = {"yes": "no", "no": "yes", "unsure": "no"} if alternatives is None else alternatives
    tokens = tuple(_token(piece, p, other.get(piece)) for piece in _pieces(text))
    return Generation(
        text=text, finish_reason="stop", model="scripted", tokens=tokens, completion_tokens=len(tokens), prompt_tokens=1
    )


def _token(piece: str, p: float, other: str | None) -> Token:
    top = {piece: math.log(p)}
    if other is not None and p < 1:
        top[other] = math.log1p(-p)
    return Token(text=piece, logprob=math.log(p), top=top)


def _pieces(text: str) -> list[str]:
    """Split like a tokenizer that keeps words whole and signs apart; the pieces joined give `text`."""
    groups = itertools.groupby(enumerate(text), key=lambda pair: "word" if pair[1].isalnum() else pair[0])
    return ["".join(sign for _, sign in group) for _, group in groups]


def first_allowed(schema: Mapping[str, Any] | None) -> str:
    """Return a short JSON text that fits `schema` (the subset that `slow_path.answer` writes)."""
    return "no" if schema is None else json.dumps(_value(schema))


def _value(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _value(schema["anyOf"][0])
    kind = schema.get("type")
    if kind == "object":
        return {key: _value(part) for key, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_value(schema["items"])] * int(schema.get("minItems", 0))
    return {"string": "none", "integer": 0, "number": 0.0, "boolean": False}.get(str(kind))
