"""Cases for the tests of the slow path: a few coloured frames, a policy of two rules, a screen that is unsure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guard.interfaces import Case
from guard.types import (
    Coverage,
    Exemplar,
    Frames,
    MediaInfo,
    Policy,
    Route,
    RouteReason,
    Rule,
    Scores,
    Thresholds,
    Video,
)

RULES = ("violence", "illegal.fire")


def policy(rules: Sequence[str] = RULES) -> Policy:
    made = {
        rule: Rule(
            category=rule,
            state="block",
            definition=f"Shows {rule}.",
            blocked=(f"real {rule}",),
            allowed=("news reports",),
            exemplars=(Exemplar(rule=rule, violates=True, text=f"a clip of {rule}", rationale="it is shown"),),
        )
        for rule in rules
    }
    return Policy(name="test", version="1", hash="0" * 64, rules=made)


def frames(count: int = 12, *, seed: int = 0, seconds: float = 6.0, side: int = 32) -> Frames:
    rng = np.random.default_rng(seed)
    coverage = Coverage(
        frames_scored=count,
        frames_decoded=count,
        largest_gap_seconds=seconds / count,
        full_decode=True,
        decoded_seconds=seconds,
        declared_seconds=seconds,
        complete=True,
        sampler="test",
        seed=0,
    )
    return Frames(
        images=rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        pts_seconds=np.linspace(0, seconds - seconds / count, count, dtype=np.float64),
        burst_ids=np.arange(count, dtype=np.int32),
        coverage=coverage,
    )


def scores(values: Sequence[float], rules: Sequence[str] = RULES, *, peak_seconds: float = 3.0) -> Scores:
    moments = np.linspace(0, 5.5, 12)
    bump = np.exp(-np.abs(moments - peak_seconds))[:, None]
    level = np.asarray(values, dtype=np.float32)
    return Scores(
        categories=tuple(rules),
        probability=level,
        moment_seconds=moments,
        per_moment=(bump * level[None, :]).astype(np.float32),
        detector="test",
        fingerprint="test",
    )


def case(
    values: Sequence[float] = (0.5, 0.5),
    *,
    rules: Sequence[str] = RULES,
    uncertain: Sequence[str] | None = None,
    count: int = 12,
    seed: int = 0,
    block_at: float = 0.9,
) -> Case:
    thresholds = dict.fromkeys(rules, Thresholds(clear_below=0.1, block_at=block_at))
    media = MediaInfo(
        container="mp4", codec="h264", width=32, height=32, declared_duration_seconds=6.0, decoded_duration_seconds=6.0
    )
    return Case(
        video=Video(source="clip.mp4", sha256=f"{seed:064x}", size_bytes=1, data=b"x", media=media),
        media=media,
        frames=frames(count, seed=seed),
        scores=(scores(values, rules),),
        route=Route(
            path="slow",
            reason=RouteReason.UNCERTAIN,
            confidence=0.1,
            thresholds=thresholds,
            uncertain=tuple(rules if uncertain is None else uncertain),
        ),
        policy=policy(rules),
        seed=seed,
    )
