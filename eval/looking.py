"""The frames that a model with a published prompt format gets: N of them, evenly spread, re-encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.types import Sample
from guard.errors import Undecodable
from guard.interfaces import SamplingNeeds
from guard.limits import Limits
from guard.video.sampling import SamplingConfig
from guard.video.sandbox import SandboxedDecoder
from guard.video.source import open_video
from slow_path.frames import FrameBudget, shown
from slow_path.prompt import Shown

_GAP_SECONDS = 60.0  # for an hour of video: a frame a minute, of which the even ones are taken


class Eyes:
    """Decodes samples in the sandbox. Close it, or use it by way of a system."""

    def __init__(self, *, frames: int, longest_side_px: int, workers: int = 1) -> None:
        self._budget = FrameBudget(frames=frames, longest_side_px=longest_side_px)
        self._limits = Limits()
        self._decoder: SandboxedDecoder | None = None
        self._workers = workers

    def look(self, sample: Sample) -> tuple[Shown, ...]:
        """Return at most the asked number of frames, in order. Raises an `InputError` for what the file does wrong."""
        if self._decoder is None:
            sampling = SamplingConfig(max_gap_seconds=_GAP_SECONDS, max_extra_bursts=0)
            self._decoder = SandboxedDecoder(workers=self._workers, limits=self._limits, sampling=sampling)
        video = open_video(sample.path or Path(), name=sample.id, limits=self._limits)
        needs = SamplingNeeds(side_px=self._budget.longest_side_px, min_bursts=self._budget.frames)
        frames = self._decoder.decode(video, needs).frames
        if not len(frames.pts_seconds):
            raise Undecodable("The decoder gave no frame.")  # a model that is shown nothing must not call it safe
        return shown(frames, even(len(frames.pts_seconds), self._budget.frames), self._budget)

    def close(self) -> None:
        """Stop the decoder process."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


def even(total: int, wanted: int) -> Sequence[int]:
    """Return at most `wanted` of `total` indices, evenly spread, the middles of equal parts: 2 of 8 gives 2 and 6."""
    if total <= wanted:
        return range(total)
    return [int(i) for i in np.floor((np.arange(wanted) + 0.5) * total / wanted)]


def highest(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the highest score of each category over several frames."""
    made: dict[str, float] = {}
    for one in scores:
        for category, score in one.items():
            made[category] = max(made.get(category, 0.0), score)
    return made
