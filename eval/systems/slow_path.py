"""Our slow path alone: no detector screens, so every rule of every video goes to the VLM."""

from __future__ import annotations

from dataclasses import dataclass

from eval.systems import cascade
from eval.systems.cascade import Cascade


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the VLM is."""

    slow_url: str
    """Base URL of an OpenAI-compatible server."""
    slow_model: str | None = None
    policy: str = ""
    workers: int = 0
    max_gap_seconds: float = 0.0


def build(config: Config) -> Cascade:
    """Return the system; the guard is built at the first sample."""
    own = cascade.Config(
        policy=config.policy,
        slow_url=config.slow_url,
        slow_model=config.slow_model,
        workers=config.workers,
        max_gap_seconds=config.max_gap_seconds,
    )
    return Cascade(own, name="slow_path", screen=False)


def tiny() -> Cascade:
    """Return it for a server on this machine."""
    return build(Config(slow_url="http://127.0.0.1:9/v1", slow_model="none", workers=1))
