"""Our fast path alone: screening and calibrated thresholds, no VLM even where one is configured."""

from __future__ import annotations

from dataclasses import dataclass

from eval.systems import cascade
from eval.systems.cascade import Cascade


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How the guard is set up."""

    policy: str = ""
    detectors: str = ""
    """Names, separated by commas; empty takes those of the settings."""
    calibration: str = ""
    workers: int = 0
    max_gap_seconds: float = 0.0


def build(config: Config) -> Cascade:
    """Return the system; the guard is built at the first sample."""
    own = cascade.Config(
        policy=config.policy,
        detectors=config.detectors,
        calibration=config.calibration,
        workers=config.workers,
        max_gap_seconds=config.max_gap_seconds,
    )
    return Cascade(own, name="fast_path", slow=False)


def tiny() -> Cascade:
    """Return it with one decoder process."""
    return build(Config(workers=1))
