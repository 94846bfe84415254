"""Which frames the VLM gets, and in what form.

The budget is spent where the screen looked twice: at the peaks of the scores in question, where the picture changes,
and evenly over the rest, so that what the screen missed still has a chance to be seen. Another pass takes other
neighbours and another phase of the even grid: two passes that agree then agree on different evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from guard import taxonomy
from guard.types import Float64Array, Frames, Scores, UInt8Array, require
from slow_path.prompt import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameBudget:
    """How many frames a VLM gets, and how large."""

    frames: int = 16
    peak_share: float = 0.4
    change_share: float = 0.2
    """What is left after peaks and changes goes to even coverage."""
    longest_side_px: int = 448
    jpeg_quality: int = 85

    def __post_init__(self) -> None:
        require(self.frames >= 1, "frames", "1 or more", self.frames)
        shares = self.peak_share + self.change_share
        require(0 <= shares <= 1, "peak_share + change_share", "in [0, 1]", shares)


def select(
    frames: Frames,
    scores: Sequence[Scores],
    rules: Sequence[str],
    budget: FrameBudget,
    *,
    seed: int = 0,
    attempt: int = 0,
) -> tuple[int, ...]:
    """Return the indices of the frames to show, increasing; all of them where they fit the budget.

    Args:
        frames: what the screen decoded.
        scores: what the screen said; scores that do not speak of `rules` are passed over.
        rules: category ids in question.
        budget: how many frames.
        seed: with `attempt`, fixes every choice.
        attempt: 0 for the first pass over a video; each further one looks at other frames.
    """
    times = frames.pts_seconds
    if len(times) <= budget.frames:
        return _distinct(range(len(times)), times)
    rng = np.random.default_rng((seed, attempt))
    picked: list[int] = []
    apart = float(times[-1] - times[0]) / (2 * budget.frames)
    heat_times, heat = _heat(scores, rules)
    _pick_peaks(picked, heat_times, heat, times, round(budget.frames * budget.peak_share), apart, rng, attempt)
    moved = _change(frames.images)
    wanted = len(picked) + round(budget.frames * budget.change_share)
    _pick_peaks(picked, times, moved, times, wanted, apart, rng, attempt)
    _fill_evenly(picked, times, budget.frames, rng, attempt)
    return _distinct(sorted(picked), times)


def encode(image: UInt8Array, budget: FrameBudget) -> bytes:
    """Return `image` (uint8 [H, W, 3], RGB) as JPEG, its longest side at most that of the budget. Never enlarges."""
    height, width = image.shape[:2]
    scale = min(1.0, budget.longest_side_px / max(height, width))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, budget.jpeg_quality]
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), quality)
    if not done:
        raise ValueError(f"a frame of shape {image.shape} could not be encoded as JPEG")
    return bytes(data.tobytes())


def shown(frames: Frames, indices: Sequence[int], budget: FrameBudget) -> tuple[Shown, ...]:
    """Return the chosen frames encoded, with the times that the prompt prints (two decimals)."""
    return tuple(
        Shown(seconds=printed(float(frames.pts_seconds[i])), jpeg=encode(frames.images[i], budget)) for i in indices
    )


def printed(seconds: float) -> float:
    """Return a time as the prompt and the answer write it."""
    return round(seconds, 2)


def _heat(scores: Sequence[Scores], rules: Sequence[str]) -> tuple[Float64Array, Float64Array]:
    """Return the moments of all scores that speak of `rules`, and the highest such score at each."""
    times: list[Float64Array] = []
    values: list[Float64Array] = []
    for score in scores:
        columns = [i for i, c in enumerate(score.categories) if any(taxonomy.covers(rule, c) for rule in rules)]
        if columns and len(score.moment_seconds):
            times.append(score.moment_seconds)
            values.append(score.per_moment[:, columns].max(axis=1).astype(np.float64))
    if not times:
        return np.zeros(0), np.zeros(0)
    return np.concatenate(times), np.concatenate(values)


def _change(images: UInt8Array) -> Float64Array:
    """Return float64 [T]: mean absolute difference of each frame to the one before it; 0 for the first."""
    small = images[:, ::8, ::8].astype(np.float32)
    moved = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
    return np.concatenate([[0.0], moved]).astype(np.float64)


def _pick_peaks(
    picked: list[int],
    moments: Float64Array,
    values: Float64Array,
    times: Float64Array,
    until: int,
    apart: float,
    rng: np.random.Generator,
    attempt: int,
) -> None:
    """Add the frames nearest to the highest `values`, at least `apart` seconds from each other, until there are
    `until`."""
    for moment in moments[np.argsort(-values, kind="stable")]:
        if len(picked) >= until:
            return
        nearest = np.argsort(np.abs(times - moment), kind="stable")[:3]
        choice = int(nearest[0] if attempt == 0 else rng.choice(nearest))
        if all(abs(times[choice] - times[other]) >= apart for other in picked):
            picked.append(choice)


def _fill_evenly(picked: list[int], times: Float64Array, total: int, rng: np.random.Generator, attempt: int) -> None:
    """Add frames nearest to an even grid; a later pass shifts the grid by a random phase."""
    missing = total - len(picked)
    phase = 0.5 if attempt == 0 else float(rng.uniform(0.05, 0.95))
    span = float(times[-1] - times[0])
    for step in range(missing):
        target = float(times[0]) + span * (step + phase) / missing
        free = [i for i in range(len(times)) if i not in picked]
        picked.append(min(free, key=lambda i: abs(float(times[i]) - target)))


def _distinct(indices: Sequence[int], times: Float64Array) -> tuple[int, ...]:
    """Drop frames whose printed time repeats: at 120 fps, 1.001 s and 1.009 s would both read 1.00."""
    kept: dict[float, int] = {}
    for index in indices:
        kept.setdefault(printed(float(times[index])), int(index))
    return tuple(kept.values())
