"""From a verdict of ours to a prediction."""

from __future__ import annotations

from collections.abc import Mapping

from eval.types import Prediction, Status
from guard.types import CategoryScore, Route, Verdict


def prediction_of(sample_id: str, verdict: Verdict, *, latency_ms: float | None = None) -> Prediction:
    """Return the prediction; an undecided verdict has no answer, a degraded one is `partial`."""
    judgement, timings = verdict.judgement, verdict.timings_ms
    moments = verdict.timeline.moment_seconds if verdict.timeline else ()
    series = list(verdict.timeline.scores.values()) if verdict.timeline else []
    fast = _fast_scores(verdict.route)
    scores = {name: value for name, c in verdict.categories.items() if (value := _score(c, verdict, name)) is not None}
    return Prediction(
        id=sample_id,
        status=_status(verdict),
        code=verdict.error.code if verdict.error else ("degraded" if verdict.degraded else None),
        decision=verdict.decision,
        scores=scores,
        flagged=tuple(name for name, c in verdict.categories.items() if c.flagged),
        route=verdict.route.path if verdict.route else None,
        fast_scores=fast,
        segments=tuple((s.start_seconds, s.end_seconds, s.category, s.peak_score) for s in verdict.segments),
        moments=moments,
        moment_scores=tuple(max(values) for values in zip(*series, strict=True)) if series else (),
        latency_ms=latency_ms if latency_ms is not None else _latency(timings),
        prompt_tokens=judgement.prompt_tokens if judgement else None,
        completion_tokens=judgement.completion_tokens if judgement else None,
        frames=verdict.coverage.frames_scored if verdict.coverage else None,
        why=verdict.rationale,
    )


def _status(verdict: Verdict) -> Status:
    if verdict.decision == "undecided":
        return "video_error"
    return "partial" if verdict.degraded or verdict.error else "ok"


def _score(score: CategoryScore, verdict: Verdict, category: str) -> float | None:
    """Return the score that ranks: the slow path's probability of a violation where it settled the rule, else the
    screen's."""
    if score.stage == "slow" and verdict.judgement is not None:
        check = next((c for c in verdict.judgement.checks if c.rule == category), None)
        if check is not None and check.violated != "unsure":
            sure = check.confidence if check.confidence is not None else 1.0
            return sure if check.violated == "yes" else 1.0 - sure
    return score.score


def _fast_scores(route: Route | None) -> dict[str, float] | None:
    if route is None:
        return None
    return {f.category: f.score for f in route.findings if f.score is not None}


def _latency(timings: Mapping[str, float]) -> float | None:
    return sum(timings.get(name, 0.0) for name in ("screen", "slow_wait")) if timings else None
