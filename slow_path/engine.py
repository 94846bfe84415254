"""What the judge asks of a VLM, whatever runs it: one request in, one generation or one typed failure out.

An engine is a file in `slow_path/engines`; the module offers `Config`, `build(config)` and `tiny()`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from guard.types import require

LEAST_LOGPROB = -9999.0
"""vLLM's stand-in for minus infinity, which JSON cannot carry."""

FinishReason: TypeAlias = Literal["stop", "length", "refusal"]

MAX_TOP_LOGPROBS = 20
"""vLLM's default ceiling (`max_logprobs`), and that of the OpenAI API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """A stretch of text in the user's turn."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """One decoded and re-encoded frame. There is no part for a URL: nothing is ever fetched on a user's behalf."""

    jpeg: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require(self.jpeg[:2] == b"\xff\xd8", "jpeg", "a JPEG file (FF D8 first)", self.jpeg[:4])

    def data_url(self) -> str:
        """Return the image as a `data:` URL."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a VLM."""

    system: str
    parts: tuple[Part, ...]
    max_tokens: int
    schema: Mapping[str, Any] | None = None
    """JSON schema that decoding must follow, or None for free text."""
    temperature: float = 0.0
    seed: int = 0
    top_logprobs: int = 0
    """Alternatives to report for each token, 0 to 20; 0 asks for no log-probabilities at all."""

    def __post_init__(self) -> None:
        require(self.max_tokens > 0, "max_tokens", "positive", self.max_tokens)
        require(0 <= self.top_logprobs <= MAX_TOP_LOGPROBS, "top_logprobs", "0 to 20", self.top_logprobs)
        require(self.temperature >= 0, "temperature", "0 or more", self.temperature)

    @property
    def images(self) -> int:
        """Number of images sent."""
        return sum(isinstance(part, ImagePart) for part in self.parts)

    def hash(self) -> str:
        """Return 16 hex digits that identify everything which the model sees, and how it is sampled."""
        digest = hashlib.sha256()
        shown = [self.system, self.max_tokens, self.schema, self.temperature, self.seed]
        digest.update(json.dumps(shown, sort_keys=True).encode())
        for part in self.parts:
            digest.update(b"\x00text" + part.text.encode() if isinstance(part, TextPart) else b"\x00jpeg" + part.jpeg)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token and what else it might have been."""

    text: str
    """As decoded; the texts of all tokens joined give the text of the generation."""
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)
    """Text of the likeliest alternatives, the chosen one included, to their log-probability before any grammar mask."""


def summed(alternatives: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return text to log-probability; tokens that decode to one text (parts of characters do) are added up."""
    mass: dict[str, float] = {}
    for text, logprob in alternatives:
        mass[text] = mass.get(text, 0.0) + math.exp(logprob)
    return {text: math.log(p) if p > 0 else LEAST_LOGPROB for text, p in mass.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What came back."""

    text: str
    finish_reason: FinishReason
    model: str
    tokens: tuple[Token, ...] | None = None
    """None where no log-probabilities were asked for, or where the server gave none."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens that the server's prefix cache had, where it says so."""
    images: int | None = None
    """Images that the engine counted, where it tells; always equal to those sent."""


@runtime_checkable
class Engine(Protocol):
    """Runs a VLM."""

    @property
    def name(self) -> str:
        """Registry key of the engine and the model, such as `vllm_server:Qwen/Qwen3-VL-2B-Instruct`."""
        ...

    async def generate(self, request: Request) -> Generation:
        """Answer one request; safe to call many times at once on one event loop.

        Raises:
            EngineFailure: no answer; its code says why.
        """
        ...

    async def close(self) -> None:
        """Give back connections or memory. The engine is not used after that."""
        ...
