"""A VLM of the Qwen-VL family in this process, by transformers: for small machines and for trying adapters.

It decodes freely, one request at a time: a schema is not enforced here, only checked afterwards by the strict
parser. Use a vLLM engine for anything that must keep up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slow_path.chat import Encoder, load_model
from slow_path.engine import Generation, Request, Token, summed
from slow_path.server import DEFAULT_MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Which model, with which adapter."""

    model: str = DEFAULT_MODEL
    adapter: Path | None = None
    """Folder of a LoRA adapter, as `guard train slow` writes it."""


class TransformersEngine:
    """Generates in a thread, under a lock: torch uses all cores for one request."""

    def __init__(self, model: Any, encoder: Encoder, name: str) -> None:
        self._model = model
        self._encoder = encoder
        self._lock = asyncio.Lock()
        self.name = f"transformers:{name}"

    async def generate(self, request: Request) -> Generation:
        """Answer one request."""
        async with self._lock:
            return await asyncio.to_thread(self._generate, request)

    async def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _generate(self, request: Request) -> Generation:
        import torch

        ids, pixels = self._encoder.prompt(request)
        inputs = torch.tensor([ids])
        sampled: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            torch.manual_seed(request.seed)
            sampled = {"do_sample": True, "temperature": request.temperature, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                mm_token_type_ids=(inputs == self._encoder.image_id).int(),
                max_new_tokens=request.max_tokens,
                output_logits=True,
                return_dict_in_generate=True,
                **pixels,
                **sampled,
            )
        new = made.sequences[0, len(ids) :].tolist()
        stops = {int(self._encoder.tokenizer.eos_token_id)}
        finished = bool(new) and new[-1] in stops
        body = new[:-1] if finished else new
        tokens = self._tokens(body, made.logits, request.top_logprobs) if request.top_logprobs else None
        return Generation(
            text=self._encoder.tokenizer.decode(body),
            finish_reason="stop" if finished else "length",
            model=self.name,
            tokens=tokens,
            prompt_tokens=len(ids),
            completion_tokens=len(new),
            images=int(pixels["image_grid_thw"].shape[0]) if pixels else 0,
        )

    def _tokens(self, ids: Sequence[int], logits: Sequence[Any], count: int) -> tuple[Token, ...]:
        decode = self._encoder.tokenizer.decode
        tokens = []
        for token, scores in zip(ids, logits, strict=False):
            logprobs = scores[0].float().log_softmax(dim=-1)
            best = logprobs.topk(min(count, logprobs.shape[-1]))
            listed = {int(i): float(p) for p, i in zip(best.values, best.indices, strict=True)}
            listed[token] = float(logprobs[token])
            top = summed((decode([i]), p) for i, p in listed.items())
            tokens.append(Token(text=decode([token]), logprob=listed[token], top=top))
        return tuple(tokens)


def build(config: Config) -> TransformersEngine:
    """Load the model. Raises `MissingExtra` where transformers (or, for an adapter, peft) is not installed."""
    encoder, model = Encoder(config.model), load_model(config.model)
    if config.adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(config.adapter))
    return TransformersEngine(model.eval(), encoder, config.adapter.name if config.adapter else config.model)


def tiny() -> TransformersEngine:
    """Return an engine with random weights, made on the spot."""
    from tempfile import mkdtemp

    from slow_path import rendered_examples, tiny_vlm

    folder = Path(mkdtemp(prefix="tiny-vlm-"))
    shape = tiny_vlm.Shape(hidden=64, layers=2, heads=2, vision_hidden=32, vision_layers=1, vocabulary=700)
    return build(Config(model=str(tiny_vlm.make(folder, rendered_examples.corpus(50), shape))))
