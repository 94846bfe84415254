"""How much is asked of the VLM: the settings of a judge, named sets of them, and what the environment says.

`GUARD_SLOW_PROFILE` names a set; `GUARD_SLOW_CALIBRATION` is a file of `guard calibrate --stage slow`, whose floor then
takes the place of the default one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from guard.errors import InvalidConfig
from guard.types import require
from guard.verdict import SLOW_CONFIDENCE_FLOOR
from slow_path.answer import AnswerLimits
from slow_path.frames import FrameBudget
from slow_path.prompt import PromptOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """How much is asked of the VLM."""

    mode: Literal["tiered", "reason", "score"] = "tiered"
    """`tiered`: yes/no questions, then reasons where needed; `reason`: reasons always; `score`: yes/no questions
    only."""
    samples: int = 3
    """Passes in all where one does not settle it."""
    sample_temperature: float = 0.7
    """Of every pass but the first, which is greedy."""
    clear_at: float = 0.95
    """Probability of "no" at which the yes/no question alone clears a rule."""
    floor: float = SLOW_CONFIDENCE_FLOOR
    """A label below this confidence asks for further passes, and settles nothing if they leave it there; a calibrated
    one comes from `slow_path.calibration`."""
    answer_attempts: int = 2
    """Samples tried where an answer is malformed or contradicts itself."""
    deadline_seconds: float = 110.0
    """For everything about one video; below the pipeline's own, so that the typed failure arrives."""
    max_tokens: int = 1536
    budget: FrameBudget = field(default_factory=FrameBudget)
    limits: AnswerLimits = field(default_factory=AnswerLimits)
    options: PromptOptions = field(default_factory=PromptOptions)

    def __post_init__(self) -> None:
        require(self.samples >= 1, "samples", "1 or more", self.samples)
        require(self.answer_attempts >= 1, "answer_attempts", "1 or more", self.answer_attempts)
        require(0.5 < self.clear_at <= 1, "clear_at", "in (0.5, 1]", self.clear_at)
        require(self.deadline_seconds > 0, "deadline_seconds", "positive", self.deadline_seconds)


PROFILES: Mapping[str, JudgeSettings] = MappingProxyType(
    {
        "default": JudgeSettings(),
        "small": JudgeSettings(
            max_tokens=400,
            budget=FrameBudget(frames=6, longest_side_px=56),
            limits=AnswerLimits(observations=6, evidence=3, counter_evidence=1, text_chars=48, reason_chars=48),
            options=PromptOptions(brief=True, definitions=False, evidence=False),
        ),
    }
)
"""Sets of settings by name. `small` suits models of a few million parameters: few words, six small frames."""


def configured(settings: JudgeSettings | None = None) -> JudgeSettings:
    """Return `settings`, or without any those that the environment asks for.

    Raises:
        InvalidConfig: there is no such profile, or the calibration cannot be read.
    """
    if settings is not None:
        return settings
    chosen = profile(os.environ.get("GUARD_SLOW_PROFILE") or "default")
    file = os.environ.get("GUARD_SLOW_CALIBRATION")
    return replace(chosen, floor=read_floor(Path(file))) if file else chosen


def fingerprint(settings: JudgeSettings) -> str:
    """Return 12 hexadecimal digits that differ where two settings may lead to different answers."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]


def profile(name: str) -> JudgeSettings:
    """Return a named set of settings. Raises `InvalidConfig` for one that there is not."""
    if name not in PROFILES:
        raise InvalidConfig(f"There is no slow-path profile {name!r}; there are: {', '.join(PROFILES)}.")
    return PROFILES[name]


def read_floor(file: Path) -> float:
    """Return the floor of a calibration of the slow path. Raises `InvalidConfig` if the file is no such thing."""
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        floor = float(made["floor"]) if made.get("stage") == "slow" else float("nan")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidConfig(f"The calibration of the slow path {str(file)!r} cannot be read: {error}.") from error
    if not 0.5 <= floor <= 1:
        raise InvalidConfig(
            f"{str(file)!r} is no calibration of the slow path.", hint="Make one: guard calibrate --stage slow"
        )
    return floor
