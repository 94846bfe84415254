"""Systems that ask a model behind an OpenAI-compatible server, in a guard's published prompt format.

A format says what is asked and reads the answer strictly: what it cannot read is a failure with a code, never "safe".
The words of the prompts are this project's own, after the published taxonomies.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from eval.looking import Eyes, highest
from eval.types import Kind, Prediction, Sample
from guard import plugins
from guard.errors import InputError, VlmUnavailable
from guard.types import Policy
from slow_path.engine import Engine, Generation, Part, Request, TextPart, Token
from slow_path.failures import EngineFailure, FailureCode
from slow_path.prompt import Shown

_NO_POLICY = Policy(name="none", version="1", hash="0" * 64, rules={})
DOWN = frozenset({FailureCode.UNAVAILABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server is, and how it is asked."""

    base_url: str
    """Such as `http://127.0.0.1:8000/v1`."""
    model: str | None = None
    """None takes the only model that the server lists."""
    api_key: str | None = None
    """None reads `GUARD_SLOW_API_KEY`."""
    frames: int = 8
    longest_side_px: int = 448
    max_tokens: int = 512
    concurrency: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one answer says."""

    scores: Mapping[str, float] = field(default_factory=dict)
    flagged: tuple[str, ...] = ()
    any_score: float | None = None
    decision: str | None = None
    why: str = ""


class Unreadable(Exception):  # noqa: N818 - named for what the answer is
    """An answer that does not have the form that was asked for."""


class Format(Protocol):
    """A published guard's way of being asked."""

    @property
    def name(self) -> str:
        """Registry key of the system."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it can show to the model."""
        ...

    def requests(self, sample: Sample, frames: Sequence[Shown], policy: Policy) -> list[Request]:
        """Return one or several requests about one sample."""
        ...

    def read(self, generations: Sequence[Generation], policy: Policy) -> Answer:
        """Return what the answers say together. Raises `Unreadable`."""
        ...


class Asking:
    """A system made of a format and a server."""

    def __init__(self, form: Format, config: ServerConfig, *, engine: Engine | None = None) -> None:
        self._format = form
        self._config = config
        self._engine: Engine = engine or plugins.load(
            "engine", "vllm_server", base_url=config.base_url, model=config.model, api_key=config.api_key,
            concurrency=config.concurrency,
        )  # fmt: skip
        self._eyes = Eyes(frames=config.frames, longest_side_px=config.longest_side_px)

    @property
    def name(self) -> str:
        """Format and model."""
        return f"{self._format.name}:{self._config.model}" if self._config.model else self._format.name

    @property
    def kinds(self) -> frozenset[Kind]:
        """What the format can show."""
        return self._format.kinds

    @property
    def signature(self) -> Mapping[str, Any]:
        """Settings, without key and credentials, and a hash of the prompt as it is for a fixed input."""
        config = self._config
        kind: Kind = "text" if "text" in self._format.kinds else "video"
        fixed = Sample(id="0" * 16, kind=kind, text="", path=Path())
        seen = (Shown(seconds=0.0, jpeg=b"\xff\xd8"),) if kind == "video" else ()
        asked = [request.hash() for request in self._format.requests(fixed, seen, _NO_POLICY)]
        return {
            "base_url": config.base_url.rpartition("@")[2],
            "model": config.model,
            "frames": config.frames,
            "longest_side_px": config.longest_side_px,
            "max_tokens": config.max_tokens,
            "format": self._format.name,
            "prompt": asked,
        }

    def predict(self, samples: Iterable[Sample], policies: Mapping[str, Policy]) -> Iterator[Prediction]:
        """Yield predictions, as many at once as the server may be asked."""
        iterator = iter(samples)
        with asyncio.Runner() as runner:
            try:
                while batch := list(islice(iterator, self._config.concurrency)):
                    yield from runner.run(self._batch(batch, policies))
            finally:
                runner.run(self._engine.close())

    async def _batch(self, batch: Sequence[Sample], policies: Mapping[str, Policy]) -> list[Prediction]:
        return list(await asyncio.gather(*(self._one(sample, policies[sample.policy]) for sample in batch)))

    async def _one(self, sample: Sample, policy: Policy) -> Prediction:
        try:
            frames = await asyncio.to_thread(self._eyes.look, sample) if sample.kind == "video" else ()
        except InputError as error:
            return Prediction(id=sample.id, status="video_error", code=error.code, why=error.message)
        requests = self._format.requests(sample, frames, policy)
        started = time.perf_counter()
        try:
            generations = await asyncio.gather(*(self._engine.generate(request) for request in requests))
            answer = self._read(generations, policy)
        except EngineFailure as failure:
            if failure.code in DOWN:
                raise VlmUnavailable(failure.message) from failure
            return Prediction(id=sample.id, status="generation_error", code=failure.code.value, why=failure.message)
        except Unreadable as error:
            return Prediction(id=sample.id, status="parse_error", code="unreadable", why=str(error)[:300])
        return Prediction(
            id=sample.id,
            status="ok",
            scores=answer.scores,
            flagged=answer.flagged,
            any_score=answer.any_score,
            decision=answer.decision,
            why=answer.why[:500],
            latency_ms=(time.perf_counter() - started) * 1e3,
            prompt_tokens=sum(g.prompt_tokens for g in generations),
            completion_tokens=sum(g.completion_tokens for g in generations),
            frames=len(frames) or None,
        )

    def _read(self, generations: Sequence[Generation], policy: Policy) -> Answer:
        for generation in generations:
            if generation.finish_reason == "length" and not self._may_be_cut():
                raise EngineFailure(FailureCode.TRUNCATED, "The answer was cut at its token limit.")
            if generation.finish_reason == "refusal":
                raise EngineFailure(FailureCode.REFUSED, "The model declined to answer.")
            if not generation.text.strip():
                raise EngineFailure(FailureCode.EMPTY, "The answer is empty; did reasoning use up its tokens?")
        return self._format.read(generations, policy)

    def _may_be_cut(self) -> bool:
        return bool(getattr(self._format, "first_token_decides", False))

    def close(self) -> None:
        """Stop the decoder."""
        self._eyes.close()


def text_request(system: str, text: str, *, max_tokens: int, logprobs: int = 0) -> Request:
    """Return a request about a text."""
    return Request(system=system, parts=(TextPart(text=text),), max_tokens=max_tokens, top_logprobs=logprobs)


def parts_request(system: str, parts: Sequence[Part], *, max_tokens: int, logprobs: int = 0) -> Request:
    """Return a request about pictures and text."""
    return Request(system=system, parts=tuple(parts), max_tokens=max_tokens, top_logprobs=logprobs)


def first_probability(tokens: Sequence[Token] | None, positive: str, negative: str) -> float | None:
    """Return the probability in [0, 1] of `positive` against `negative` at the first token that says either.

    Case and space around do not count; a token that begins one of the two words stands for it (` uns` for unsafe).
    None where no token says either, or no log-probabilities were given.
    """
    for token in tokens or ():
        mass = {positive: 0.0, negative: 0.0}
        for text, logprob in (dict(token.top) or {token.text: token.logprob}).items():
            word = text.strip().casefold()
            hits = [label for label in mass if word and label.startswith(word)]
            if len(hits) == 1:
                mass[hits[0]] += math.exp(logprob)
        said = token.text.strip().casefold()
        if said and (positive.startswith(said) or negative.startswith(said)) and sum(mass.values()) > 0:
            return mass[positive] / sum(mass.values())
    return None


def joined(answers: Sequence[Answer]) -> Answer:
    """Return one answer for several frames: the highest score of each category, and everything that any flagged."""
    scores = highest([a.scores for a in answers])
    anys = [a.any_score for a in answers if a.any_score is not None]
    flagged = tuple(dict.fromkeys(c for a in answers for c in a.flagged))
    decisions = [a.decision for a in answers if a.decision is not None]
    worst = next((d for d in ("block", "review", "allow") if d in decisions), None)
    why = next((a.why for a in answers if a.flagged), answers[0].why if answers else "")
    return Answer(scores=scores, flagged=flagged, any_score=max(anys) if anys else None, decision=worst, why=why)
