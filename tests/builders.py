"""Small values that many tests start from. Every function returns a valid object; tests replace what they are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from guard.types import (
    Coverage,
    Frames,
    Judgement,
    MediaInfo,
    Policy,
    Route,
    RouteReason,
    Rule,
    RuleCheck,
    Scores,
    Video,
)

SHA = "0" * 64


def coverage(**changes: Any) -> Coverage:
    values: dict[str, Any] = {
        "frames_scored": 8,
        "frames_decoded": 40,
        "largest_gap_seconds": 1.0,
        "full_decode": False,
        "decoded_seconds": 10.0,
        "declared_seconds": 10.0,
        "complete": True,
        "sampler": "test",
        "seed": 0,
    }
    return Coverage(**(values | changes))


def frames(count: int = 8, *, side: int = 16, fps: float = 1.0, burst: int = 1, fill: int | None = None) -> Frames:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    if fill is not None:
        images[:] = fill
    return Frames(
        images=images,
        pts_seconds=np.arange(count, dtype=np.float64) / fps,
        burst_ids=(np.arange(count, dtype=np.int32) // burst).astype(np.int32),
        coverage=coverage(frames_scored=count),
    )


def media(**changes: Any) -> MediaInfo:
    values: dict[str, Any] = {
        "container": "mp4",
        "codec": "h264",
        "width": 320,
        "height": 240,
        "declared_duration_seconds": 10.0,
    }
    return MediaInfo(**(values | changes))


def video(source: str = "clip.mp4", **changes: Any) -> Video:
    values: dict[str, Any] = {"source": source, "sha256": SHA, "size_bytes": 4, "data": b"clip", "media": media()}
    return Video(**(values | changes))


def scores(by_category: Mapping[str, float], *, detector: str = "test", moments: int = 5, **changes: Any) -> Scores:
    """Scores whose moments all equal the video's own score."""
    row = np.array(list(by_category.values()), np.float32)
    values: dict[str, Any] = {
        "categories": tuple(by_category),
        "probability": row,
        "moment_seconds": np.arange(moments, dtype=np.float64) * 2,
        "per_moment": np.tile(row, (moments, 1)),
        "detector": detector,
        "fingerprint": "test-1",
    }
    return Scores(**(values | changes))


def policy(*rules: Rule, name: str = "test") -> Policy:
    return Policy(name=name, version="1", hash="f" * 64, rules={rule.category: rule for rule in rules})


def route(path: str = "fast", *, uncertain: tuple[str, ...] = (), reason: RouteReason | None = None) -> Route:
    default = RouteReason.CONFIDENT_CLEAR if path == "fast" else RouteReason.UNCERTAIN
    return Route(path=path, reason=reason or default, confidence=0.9, uncertain=uncertain)  # type: ignore[arg-type]


def judgement(violated: Mapping[str, str], *, confidence: float | None = 0.95, **changes: Any) -> Judgement:
    checks = tuple(
        RuleCheck(rule=rule, violated=answer, why="seen", confidence=confidence)  # type: ignore[arg-type]
        for rule, answer in violated.items()
    )
    return Judgement(**({"status": "ok", "engine": "test", "checks": checks, "confidence": confidence} | changes))
