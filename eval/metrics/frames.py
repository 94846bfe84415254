"""Frame-level evaluation of anomaly benchmarks: XD-Violence (area under precision-recall) and UCF-Crime (ROC area).

Both concatenate the frames of all test videos and rank them together, so long videos weigh more. A span [s, e) marks
frames s to e - 1, counted from 0. Scores come for snippets of 16 frames (repeated 16 times, as the I3D features of both
literatures have it) or for moments in seconds (the nearest moment counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.confusion import BoolArray, FloatArray
from eval.metrics.ranking import Ranked
from guard.types import require

SNIPPET_FRAMES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScores:
    """One video, frame by frame."""

    truth: BoolArray
    """bool [F]."""
    score: FloatArray
    """float64 [F]."""

    def __post_init__(self) -> None:
        require(self.truth.shape == self.score.shape, "score", f"of shape {self.truth.shape}", self.score.shape)


def frame_truth(frames: int, spans: Sequence[tuple[int, int]]) -> BoolArray:
    """Return bool [frames], true inside any span [s, e); what lies beyond the last frame is cut off."""
    truth = np.zeros(frames, bool)
    for start, end in spans:
        require(0 <= start <= end, "span", "0 <= start <= end", (start, end))
        truth[start:end] = True
    return truth


def repeat_snippets(scores: FloatArray, frames: int) -> FloatArray:
    """Return float64 [frames]: each snippet score 16 times, the last one on to the end, superfluous ones dropped.

    40 frames with 2 snippets: frames 0 to 15 have the first, 16 to 39 the second.
    """
    require(len(scores) > 0 or frames == 0, "scores", "at least one snippet", len(scores))
    at = np.minimum(np.arange(frames) // SNIPPET_FRAMES, len(scores) - 1)
    return np.asarray(scores, np.float64)[at]


def nearest_moments(moments_seconds: FloatArray, scores: FloatArray, frames: int, fps: float) -> FloatArray:
    """Return float64 [frames]: the score of the moment nearest to each frame, 0 where there is no moment at all."""
    if not len(moments_seconds):
        return np.zeros(frames)
    times = np.arange(frames) / fps
    middles = (moments_seconds[1:] + moments_seconds[:-1]) / 2
    return np.asarray(scores, np.float64)[np.searchsorted(middles, times, side="left")]


def xd_violence(videos: Sequence[FrameScores]) -> dict[str, float | None]:
    """Return `ap_trapezoid` (the customary number) and `average_precision` (without interpolation)."""
    ranked = _all_frames(videos)
    positive = any(video.truth.any() for video in videos)
    return {
        "ap_trapezoid": ranked.precision_recall_trapezoid() if positive else None,
        "average_precision": ranked.average_precision(),
        "prevalence": _prevalence(videos),
    }


def ucf_crime(videos: Sequence[FrameScores]) -> dict[str, float | None]:
    """Return the customary frame-level area under the ROC, over all videos and over the anomalous ones alone.

    The second is harder to flatter: in the first, whole normal videos with low scores make up most of the area.
    """
    anomalous = [video for video in videos if video.truth.any()]
    ranked = _all_frames(videos)
    return {
        "auroc": ranked.auroc(),
        "auroc_anomalous_videos": _all_frames(anomalous).auroc(),
        "average_precision": ranked.average_precision(),
        "prevalence": _prevalence(videos),
    }


def _all_frames(videos: Sequence[FrameScores]) -> Ranked:
    truth = np.concatenate([np.zeros(0, bool), *(v.truth for v in videos)])
    return Ranked(truth, np.concatenate([np.zeros(0), *(v.score for v in videos)]))


def _prevalence(videos: Sequence[FrameScores]) -> float | None:
    frames = sum(len(v.truth) for v in videos)
    return float(sum(int(v.truth.sum()) for v in videos) / frames) if frames else None
