"""Qwen3Guard-Gen: three lines out (Safety, Categories, and for answers Refusal); text only (arXiv 2510.14276)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from eval.asking import Answer, Asking, ServerConfig, Unreadable, first_probability, text_request
from eval.types import Kind, Sample
from guard.errors import InvalidConfig
from guard.types import Policy
from slow_path.engine import MAX_TOP_LOGPROBS, Generation, Request
from slow_path.prompt import Shown

CATEGORIES = {
    "Violent": "violence", "Non-violent Illegal Acts": "illegal", "Sexual Content or Sexual Acts": "sexual",
    "PII": "custom.privacy", "Personally Identifiable Information": "custom.privacy",
    "Suicide & Self-Harm": "extremism.self_harm", "Unethical Acts": "harassment",
    "Politically Sensitive Topics": "deception", "Copyright Violation": "custom.copyright",
    "Jailbreak": "custom.jailbreak",
}  # fmt: skip
_SAFETY = re.compile(r"^Safety:\s*(Safe|Unsafe|Controversial)\s*$", re.MULTILINE)
_LISTED = re.compile(r"^Categories:\s*(.+?)\s*$", re.MULTILINE)
_CONTROVERSIAL = ("review", "unsafe", "safe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ServerConfig):
    """Where the server is, and what Controversial counts as."""

    controversial: str = "review"
    """`review`: for a person; `unsafe` is the strict mode of its authors, `safe` the loose one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3GuardFormat:
    """The text as the user's turn; the model's template holds the rest."""

    max_tokens: int
    controversial: str
    name: str = "qwen3guard"
    kinds: frozenset[Kind] = frozenset({"text"})

    def requests(self, sample: Sample, frames: Sequence[Shown], policy: Policy) -> list[Request]:
        """Ask about the text."""
        return [text_request("", sample.text or "", max_tokens=self.max_tokens, logprobs=MAX_TOP_LOGPROBS)]

    def read(self, generations: Sequence[Generation], policy: Policy) -> Answer:
        """Read the safety line, and every category of the line below it."""
        text = generations[0].text
        safety, listed = _SAFETY.search(text), _LISTED.search(text)
        if safety is None or (listed is None and safety[1] != "Safe"):
            raise Unreadable(f"no line 'Safety: ...' with categories: {text!r:.200}")
        names = [n.strip() for n in (listed[1] if listed else "None").split(",") if n.strip() != "None"]
        unknown = [name for name in names if name not in CATEGORIES]
        if unknown:
            raise Unreadable(f"unknown category {unknown[0]!r}")
        return self._answer(safety[1], names, generations[0])

    def _answer(self, safety: str, names: Sequence[str], generation: Generation) -> Answer:
        probability = first_probability(generation.tokens[2:] if generation.tokens else None, "unsafe", "safe")
        certain = {"Safe": 0.0, "Unsafe": 1.0, "Controversial": 0.5}[safety]
        score = certain if probability is None or safety == "Controversial" else probability
        unsafe = safety == "Unsafe" or (safety == "Controversial" and self.controversial == "unsafe")
        categories = tuple(dict.fromkeys(CATEGORIES[name] for name in names))
        middle = safety == "Controversial" and self.controversial == "review"
        return Answer(
            scores=dict.fromkeys(categories, score),
            flagged=categories if unsafe else (),
            any_score=score,
            decision="block" if unsafe else "review" if middle else "allow",
            why=generation.text,
        )


def build(config: Config) -> Asking:
    """Return the system; nothing is asked of the server yet. Raises `InvalidConfig`."""
    if config.controversial not in _CONTROVERSIAL:
        raise InvalidConfig(f"controversial takes {', '.join(_CONTROVERSIAL)}; got {config.controversial!r}.")
    server = ServerConfig(**{field.name: getattr(config, field.name) for field in fields(ServerConfig)})
    form = Qwen3GuardFormat(max_tokens=min(config.max_tokens, 128), controversial=config.controversial)
    return Asking(form, server)


def tiny() -> Asking:
    """Return the system for a server on this machine."""
    return build(Config(base_url="http://127.0.0.1:9/v1", model="none"))
