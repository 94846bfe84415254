"""A VLM behind any OpenAI-compatible server, `vllm serve` above all, asked through the official client.

Requests run at most `concurrency` at once. What may pass by itself (no connection, 5xx, 429) is tried again after a
wait that doubles and is drawn at random below its ceiling, so that clients do not return in step; a `Retry-After` is
obeyed. What cannot pass (4xx) is not tried again. Images go out as data URLs made of frames that this program encoded.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openai

from guard.errors import InvalidConfig, VlmUnavailable
from guard.types import require
from slow_path.engine import FinishReason, Generation, ImagePart, Request, TextPart, Token, summed
from slow_path.failures import EngineFailure, FailureCode

_FINISH: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "refusal"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the server is and how hard it may be asked."""

    base_url: str
    """Such as `http://127.0.0.1:8000/v1`."""
    model: str | None = None
    """None takes the only model that the server lists."""
    api_key: str | None = None
    """None reads `GUARD_SLOW_API_KEY`; a server on loopback needs none."""
    concurrency: int = 8
    attempts: int = 4
    """Tries of one request, the first included."""
    request_timeout_seconds: float = 60.0
    first_wait_seconds: float = 0.5
    """Ceiling of the wait before the second try; it doubles with each further one."""
    longest_wait_seconds: float = 20.0
    """No wait is longer; a server that asks for more with `Retry-After` is given up on."""

    def __post_init__(self) -> None:
        require(self.concurrency >= 1, "concurrency", "1 or more", self.concurrency)
        require(self.attempts >= 1, "attempts", "1 or more", self.attempts)
        if not self.base_url.startswith(("http://", "https://")):
            raise InvalidConfig(
                f"The slow path's address must start with http:// or https://; it is {self.base_url!r}."
            )


class VllmServer:
    """Asks a server; belongs to the event loop that uses it first."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=config.api_key or os.environ.get("GUARD_SLOW_API_KEY") or "none",
            timeout=config.request_timeout_seconds,
            max_retries=0,  # retried here, where a total deadline and `Retry-After` are kept
        )
        self._places = asyncio.Semaphore(config.concurrency)
        self._model = config.model
        self._logprobs = True

    @property
    def name(self) -> str:
        """Engine and model; the model shows once it is known."""
        return f"vllm_server:{self._model or 'default'}"

    async def connect(self) -> None:
        """Find out which model is served, so that `name` tells it. Raises `VlmUnavailable` if the server does not say.

        Not needed before `generate`; it is for long work, which had better fail at once.
        """
        try:
            self._model = self._model or await self._only_model()
        except (openai.APIError, EngineFailure) as error:
            raise VlmUnavailable(f"The VLM server at {self._config.base_url} lists no model: {error}") from error

    async def generate(self, request: Request) -> Generation:
        """Ask the server, again where that may help. Raises `EngineFailure`."""
        async with self._places:
            for attempt in range(self._config.attempts):
                try:
                    return await self._once(request)
                except EngineFailure as failure:
                    wait = self._wait(failure, attempt)
                    if wait is None:
                        raise
                await asyncio.sleep(wait)
        raise EngineFailure(FailureCode.INTERNAL, "no attempt was made")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _wait(self, failure: EngineFailure, attempt: int) -> float | None:
        """Return the seconds to wait before the next try, or None to give up."""
        config = self._config
        if not failure.retryable or attempt + 1 >= config.attempts:
            return None
        asked = failure.retry_after_seconds or 0.0
        if asked > config.longest_wait_seconds:
            return None
        ceiling = min(config.longest_wait_seconds, config.first_wait_seconds * 2**attempt)
        return asked + random.uniform(0, ceiling)  # noqa: S311 - spreads clients, guards no secret

    async def _once(self, request: Request) -> Generation:
        try:
            model = self._model or await self._only_model()
            answer = await self._client.chat.completions.create(**self._arguments(request, model))
        except openai.APITimeoutError as error:
            raise EngineFailure(FailureCode.TIMEOUT, "The VLM server did not answer in time.") from error
        except openai.APIConnectionError as error:
            raise EngineFailure(FailureCode.UNAVAILABLE, "The VLM server cannot be reached.") from error
        except openai.APIStatusError as error:
            if error.status_code == 400 and self._logprobs and "logprob" in str(error).casefold():
                self._logprobs = False  # this server cannot give them: confidence is then unknown, not invented
                return await self._once(request)
            raise _status_failure(error) from error
        except (openai.APIError, ValueError) as error:
            raise EngineFailure(FailureCode.UNAVAILABLE, "The VLM server gave no readable answer.") from error
        return _generation(answer, request, model)

    async def _only_model(self) -> str:
        models = [model.id async for model in self._client.models.list()]
        if len(models) != 1:
            listed = ", ".join(models) or "none"
            raise EngineFailure(FailureCode.REJECTED, f"The server lists {len(models)} models ({listed}); name one.")
        self._model = models[0]
        return models[0]

    def _arguments(self, request: Request, model: str) -> dict[str, Any]:
        content = [_content(part) for part in request.parts]
        arguments: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "system", "content": request.system}, {"role": "user", "content": content}],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.top_logprobs and self._logprobs:
            arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if request.schema is not None:
            form = {"name": "answer", "schema": dict(request.schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": form}
        return arguments


def build(config: Config) -> VllmServer:
    """Return the engine; nothing is asked of the server yet."""
    return VllmServer(config)


def tiny() -> VllmServer:
    """Return an engine for the address in `GUARD_SLOW_URL`, or for vLLM's default one on this machine."""
    return build(Config(base_url=os.environ.get("GUARD_SLOW_URL", "http://127.0.0.1:8000/v1")))


def _content(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": part.data_url()}}
    return {"type": "text", "text": part.text}


def _status_failure(error: openai.APIStatusError) -> EngineFailure:
    status = error.status_code
    after = _retry_after(error.response.headers)
    if status == 429:
        return EngineFailure(FailureCode.RATE_LIMITED, "The VLM server limits its rate.", retry_after_seconds=after)
    if status == 503:
        return EngineFailure(FailureCode.CAPACITY, "The VLM server is full.", retry_after_seconds=after)
    if status >= 500 or status in (408, 409):
        return EngineFailure(FailureCode.UNAVAILABLE, f"The VLM server answered HTTP {status}.")
    return EngineFailure(
        FailureCode.REJECTED, f"The VLM server refused the request with HTTP {status}: {error.message}"
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a `Retry-After`; its date form (RFC 9110, 10.2.3) is rare here and read as absent."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _generation(answer: Any, request: Request, model: str) -> Generation:
    if not getattr(answer, "choices", None):
        raise EngineFailure(FailureCode.UNAVAILABLE, "The VLM server gave an answer without choices.")
    choice = answer.choices[0]
    reason = _FINISH.get(choice.finish_reason)
    if getattr(choice.message, "refusal", None):
        reason = "refusal"
    if reason is None:
        raise EngineFailure(FailureCode.UNAVAILABLE, f"The server broke off: finish reason {choice.finish_reason!r}.")
    usage = answer.usage
    details = getattr(usage, "prompt_tokens_details", None)
    return Generation(
        text=choice.message.content or "",
        finish_reason=reason,
        model=getattr(answer, "model", None) or model,
        tokens=_tokens(choice),
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        cached_tokens=getattr(details, "cached_tokens", None),
        images=_counted_images(details, request),
    )


def _tokens(choice: Any) -> tuple[Token, ...] | None:
    content = choice.logprobs.content if choice.logprobs else None
    if not content:
        return None
    return tuple(Token(text=t.token, logprob=t.logprob, top=_alternatives(t)) for t in content)


def _alternatives(entry: Any) -> dict[str, float]:
    """Return the listed alternatives and the chosen token, which a grammar can pick from below the listed ones."""
    listed = [(a.token, a.logprob) for a in entry.top_logprobs or ()]
    chosen = [] if any(text == entry.token for text, _ in listed) else [(entry.token, entry.logprob)]
    return summed([*listed, *chosen])


def _counted_images(details: Any, request: Request) -> int | None:
    """Return the images that the server counted, or None where it does not tell.

    vLLM reports prompt tokens by modality. All frames of a request have one size and so cost the same number of tokens:
    a total that they do not divide, or none at all, means that frames were dropped or added on the way.

    Raises:
        EngineFailure: the count disagrees with what was sent.
    """
    by_kind = getattr(details, "multimodal_tokens", None) or (getattr(details, "model_extra", None) or {}).get(
        "multimodal_tokens"
    )
    if not by_kind or not request.images:
        return None
    tokens = int(by_kind.get("image", 0))
    if tokens == 0 or tokens % request.images:
        message = f"{request.images} images were sent; the server counted {tokens} image tokens, which is no multiple."
        raise EngineFailure(FailureCode.IMAGE_MISMATCH, message)
    return request.images
