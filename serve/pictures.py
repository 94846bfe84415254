"""Frames that show what a verdict speaks of, kept for the reviewer: decoded pixels as JPEG, without metadata."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from guard import taxonomy
from guard.errors import GuardError
from guard.types import Verdict
from serve.blobs import Blobs
from serve.evidence import encode_jpeg, peaks

if TYPE_CHECKING:
    from guard.api import Guard
    from guard.video.sandbox import SandboxedDecoder

log = logging.getLogger(__name__)

SIDE_PX = 320
NEVER = ("sexual.minors",)
"""Of these no picture is kept, not even a small one."""
_OPEN_FROM = 0.1
"""Score from which a category without thresholds of its own is not cleared."""
_EVENLY = (0.2, 0.5, 0.8)


def moments(verdict: Verdict) -> list[tuple[float, str | None]]:
    """Return (seconds, category) of the frames to keep: the highest peaks, or three places where nothing stands out."""
    named = [s.category for s in verdict.segments] + suspected(verdict)
    if verdict.decision == "allow" or any(taxonomy.covers(never, category) for never in NEVER for category in named):
        return []
    segments = [{"peak_seconds": s.peak_seconds, "peak_score": s.peak_score, "category": s.category}
                for s in verdict.segments]  # fmt: skip
    if segments:
        return [(seconds, category) for seconds, category in peaks(segments)]
    seconds = verdict.coverage.decoded_seconds if verdict.coverage else 0.0
    return [(round(seconds * part, 3), None) for part in _EVENLY] if seconds > 0 else []


def suspected(verdict: Verdict) -> list[str]:
    """Return the categories that are flagged, or whose score or check leaves them open. Pure."""
    bounds = verdict.route.thresholds if verdict.route is not None else {}
    found = [
        category
        for category, one in verdict.categories.items()
        if one.flagged
        or (one.score is not None and one.score >= (bounds[category].clear_below if category in bounds else _OPEN_FROM))
    ]
    checks = verdict.judgement.checks if verdict.judgement is not None else ()
    return found + [check.rule for check in checks if check.violated != "no"]


def take_pictures(guard: Guard, source: Path, verdict: Verdict, blobs: Blobs) -> list[dict[str, Any]]:
    """Decode and keep the frames, and return the columns of their rows. What cannot be decoded has none."""
    wanted = moments(verdict)
    if not wanted:
        return []
    try:
        decoder = cast("SandboxedDecoder", guard.pipeline.stages.decoder)
        frames = decoder.frames_at(guard.open(source), [seconds for seconds, _ in wanted], SIDE_PX)
    except GuardError as error:
        log.warning("no pictures of %s: %s", verdict.sha256, error.code)
        return []
    scores = {(s.peak_seconds, s.category): s.peak_score for s in verdict.segments}
    rows: list[dict[str, Any]] = []
    for number, (seconds, category) in enumerate(wanted):
        image = frames.images[int(abs(frames.pts_seconds - seconds).argmin())]
        stored = blobs.put(encode_jpeg(image), suffix=".jpg")
        rows.append(
            {
                "number": number, "seconds": seconds, "category": category, "blob": stored.name,
                "score": scores.get((seconds, category or "")), "height": image.shape[0], "width": image.shape[1],
            }
        )  # fmt: skip
    return rows
