"""Llama Guard 3 Vision and 4: `safe`, or `unsafe` and a line of S-codes. The model's own template holds the policy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.asking import Answer, Asking, ServerConfig, Unreadable, first_probability, joined, parts_request, text_request
from eval.types import Kind, Sample
from guard.types import Policy
from slow_path.engine import MAX_TOP_LOGPROBS, Generation, ImagePart, Request, TextPart
from slow_path.prompt import Shown

Config = ServerConfig
CODES = {
    "S1": "violence", "S2": "illegal", "S3": "violence.sexual", "S4": "sexual.minors", "S5": "harassment",
    "S6": "deception", "S7": "custom.privacy", "S8": "custom.copyright", "S9": "violence.weapon",
    "S10": "extremism.hate", "S11": "extremism.self_harm", "S12": "sexual", "S13": "deception", "S14": "illegal",
}  # fmt: skip
"""Hazard code of the MLCommons taxonomy to the nearest category of ours."""
_UNSAFE = re.compile(r"unsafe\s+(S\d{1,2}(?:\s*,\s*S\d{1,2})*)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaGuardFormat:
    """One frame a request, the worst counts: the model looks at one to three pictures."""

    max_tokens: int
    name: str = "llama_guard"
    kinds: frozenset[Kind] = frozenset({"video", "text"})

    def requests(self, sample: Sample, frames: Sequence[Shown], policy: Policy) -> list[Request]:
        """Ask about each frame, or about the text."""
        if sample.kind == "text":
            return [text_request("", sample.text or "", max_tokens=self.max_tokens, logprobs=MAX_TOP_LOGPROBS)]
        return [
            parts_request(
                "", [ImagePart(jpeg=frame.jpeg), TextPart(text="A frame of a video that was uploaded.")],
                max_tokens=self.max_tokens, logprobs=MAX_TOP_LOGPROBS,
            )
            for frame in frames
        ]  # fmt: skip

    def read(self, generations: Sequence[Generation], policy: Policy) -> Answer:
        """Read every frame's answer and take the worst."""
        return joined([_one(generation) for generation in generations])


def _one(generation: Generation) -> Answer:
    text = generation.text.strip()
    unsafe = first_probability(generation.tokens, "unsafe", "safe")
    if text == "safe":
        return Answer(any_score=0.0 if unsafe is None else unsafe)
    match = _UNSAFE.fullmatch(text)
    codes = [code.strip() for code in match[1].split(",")] if match else []
    unknown = [code for code in codes if code not in CODES]
    if match is None or unknown:
        raise Unreadable(f"neither 'safe' nor 'unsafe' and S-codes: {text!r:.200}")
    score = 1.0 if unsafe is None else unsafe
    flagged = tuple(dict.fromkeys(CODES[code] for code in codes))
    return Answer(scores=dict.fromkeys(flagged, score), flagged=flagged, any_score=score, why=text)


def build(config: ServerConfig) -> Asking:
    """Return the system; nothing is asked of the server yet."""
    return Asking(LlamaGuardFormat(max_tokens=min(config.max_tokens, 64)), config)


def tiny() -> Asking:
    """Return the system for a server on this machine."""
    return build(ServerConfig(base_url="http://127.0.0.1:9/v1", model="none"))
