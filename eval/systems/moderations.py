"""`POST /v1/moderations` of any server: OpenAI's own, or one that speaks the same; texts, and frames as pictures."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from eval.looking import Eyes, highest
from eval.types import Kind, Prediction, Sample
from guard.errors import InputError, VlmUnavailable
from guard.types import Policy
from slow_path.engine import ImagePart

KEYS = {
    "harassment": "harassment", "harassment/threatening": "harassment.threat", "hate": "extremism.hate",
    "hate/threatening": "extremism.incitement", "illicit": "illegal", "illicit/violent": "illegal",
    "self-harm": "extremism.self_harm", "self-harm/intent": "extremism.self_harm",
    "self-harm/instructions": "extremism.self_harm", "sexual": "sexual", "sexual/minors": "sexual.minors",
    "violence": "violence", "violence/graphic": "violence.graphic",
}  # fmt: skip
"""Key of the endpoint to the nearest category of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the server is."""

    base_url: str
    """Such as `https://api.openai.com/v1`."""
    model: str = "omni-moderation-latest"
    api_key: str | None = None
    """None reads `GUARD_SLOW_API_KEY`."""
    frames: int = 8
    longest_side_px: int = 448
    concurrency: int = 4


class Moderations:
    """Asks the endpoint: once for a text, once for each frame of a video, of which the worst counts."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._eyes = Eyes(frames=config.frames, longest_side_px=config.longest_side_px)

    @property
    def name(self) -> str:
        """Endpoint and model."""
        return f"moderations:{self._config.model}"

    @property
    def kinds(self) -> frozenset[Kind]:
        """Both."""
        return frozenset({"video", "text"})

    @property
    def signature(self) -> Mapping[str, Any]:
        """The settings, without the key."""
        config = self._config
        url = config.base_url.rpartition("@")[2]
        return {"base_url": url, "model": config.model, "frames": config.frames, "side": config.longest_side_px}

    def predict(self, samples: Iterable[Sample], policies: Mapping[str, Policy]) -> Iterator[Prediction]:
        """Yield predictions; the endpoint has a policy of its own and is told none."""
        iterator = iter(samples)
        with asyncio.Runner() as runner:
            client = self._client()
            try:
                while batch := list(islice(iterator, self._config.concurrency)):
                    yield from runner.run(self._batch(client, batch))
            finally:
                runner.run(client.close())

    def _client(self) -> Any:
        from guard.plugins import missing_extra

        try:
            import openai
        except ModuleNotFoundError as error:
            raise missing_extra("The system 'moderations'", error.name or "openai") from error
        key = self._config.api_key or os.environ.get("GUARD_SLOW_API_KEY") or "none"
        return openai.AsyncOpenAI(base_url=self._config.base_url, api_key=key, max_retries=3)

    async def _batch(self, client: Any, batch: list[Sample]) -> list[Prediction]:
        return list(await asyncio.gather(*(self._one(client, sample) for sample in batch)))

    async def _one(self, client: Any, sample: Sample) -> Prediction:
        import openai

        try:
            inputs = await asyncio.to_thread(self._inputs, sample)
        except InputError as error:
            return Prediction(id=sample.id, status="video_error", code=error.code, why=error.message)
        started = time.perf_counter()
        try:
            asked = [client.moderations.create(model=self._config.model, input=content) for content in inputs]
            answers = await asyncio.gather(*asked)
            read = [_read(answer) for answer in answers]
        except openai.APIConnectionError as error:
            raise VlmUnavailable("The moderation server cannot be reached.") from error
        except openai.APIStatusError as error:
            return Prediction(id=sample.id, status="generation_error", code=f"http_{error.status_code}")
        except (ValueError, KeyError, TypeError, AttributeError, openai.APIError) as error:
            return Prediction(id=sample.id, status="parse_error", code="unreadable", why=f"{error!r:.200}")
        flagged = tuple(dict.fromkeys(category for _, hit in read for category in hit))
        return Prediction(
            id=sample.id,
            status="ok",
            scores=highest([scores for scores, _ in read]),
            flagged=flagged,
            latency_ms=(time.perf_counter() - started) * 1e3,
            frames=len(inputs) if sample.kind == "video" else None,
        )

    def _inputs(self, sample: Sample) -> list[Any]:
        if sample.kind == "text":
            return [sample.text]
        frames = self._eyes.look(sample)
        return [[{"type": "image_url", "image_url": {"url": ImagePart(jpeg=f.jpeg).data_url()}}] for f in frames]

    def close(self) -> None:
        """Stop the decoder."""
        self._eyes.close()


def _read(answer: Any) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return scores and flags by our categories. Raises `ValueError` where the answer lacks them."""
    if len(answer.results) != 1:
        raise ValueError(f"{len(answer.results)} results for one input")
    plain = answer.results[0].model_dump(by_alias=True)
    scores: dict[str, float] = {}  # a key that the server does not score was not judged, which is not the same as 0
    given = {key: float(value) for key, value in plain["category_scores"].items() if key in KEYS and value is not None}
    if not given:
        raise ValueError("no category_scores that are known")
    for key, value in given.items():
        scores[KEYS[key]] = max(scores.get(KEYS[key], 0.0), min(1.0, max(0.0, value)))
    return scores, tuple(dict.fromkeys(KEYS[k] for k, hit in plain["categories"].items() if hit and k in KEYS))


def build(config: Config) -> Moderations:
    """Return the system; nothing is asked of the server yet."""
    return Moderations(config)


def tiny() -> Moderations:
    """Return the system for a server on this machine."""
    return build(Config(base_url="http://127.0.0.1:9/v1"))
