"""The result of a flash analysis, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from guard.types import Float64Array, Int32Array

Kind = Literal["general", "red"]


class FlashResult(StrEnum):
    """What a clip, or a frame, amounts to; from mild to severe."""

    PASS = "pass"  # noqa: S105 - a result, not a secret
    WARNING = "warning"
    EXTENDED_FAIL = "extended_fail"
    FAIL = "fail"

    @property
    def severity(self) -> int:
        """0 for pass to 3 for fail."""
        return tuple(FlashResult).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of frames with one result."""

    start_seconds: float
    end_seconds: float
    result: FlashResult


@dataclass(frozen=True, slots=True, kw_only=True)
class KindReport:
    """What was found of one kind of flash."""

    kind: Kind
    result: FlashResult
    peak_transitions: int
    """Most concurrent changes within any one second; two of them are a flash."""
    worst_second_start: float
    """Start of that second, in seconds."""
    spans: tuple[Span, ...]
    """Stretches that are not `pass`, in order."""
    transitions: Int32Array
    """int32 [T]: concurrent changes within the second that ends with each frame; for a looped clip the most of any
    round."""
    results: tuple[FlashResult, ...]
    """Per frame, T of them; for a looped clip the most severe of any round."""

    @property
    def peak_flashes(self) -> float:
        """Flashes in the worst second: pairs of changes."""
        return self.peak_transitions / 2

    def as_dict(self) -> dict[str, Any]:
        """Return what was found as JSON values, without the numbers of each frame."""
        return {
            "result": str(self.result),
            "peak_transitions": self.peak_transitions,
            "worst_second_start": round(self.worst_second_start, 3),
            "spans": [
                {
                    "start_seconds": round(s.start_seconds, 3),
                    "end_seconds": round(s.end_seconds, 3),
                    "result": str(s.result),
                }
                for s in self.spans
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashReport:
    """The result for one clip."""

    result: FlashResult
    """The more severe of the two kinds."""
    general: KindReport
    red: KindReport
    frame_seconds: Float64Array
    """float64 [T]: the presentation times of the frames."""
    duration_seconds: float
    rounds: int
    """How often the clip was played: more than 1 for a short one, which may loop."""
    cells: tuple[int, int]
    """Height and width of the grid that was analysed."""

    def kind(self, kind: Kind) -> KindReport:
        """Return the part for one kind."""
        return self.general if kind == "general" else self.red

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, without the numbers of each frame."""
        return {
            "result": str(self.result),
            "duration_seconds": round(self.duration_seconds, 3),
            "frames": len(self.frame_seconds),
            "rounds": self.rounds,
            **{part.kind: part.as_dict() for part in (self.general, self.red)},
        }
