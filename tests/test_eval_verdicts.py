"""From verdicts to predictions: no answer stays none, and the slow path's confidence becomes a score."""

from __future__ import annotations

import builders
import pytest

from eval.verdicts import prediction_of
from guard.errors import Undecodable
from guard.types import Finding, Route, RouteReason, Rule, RuleFinding, Thresholds
from guard.verdict import Evidence, decide, failed

FIRE = "illegal.fire"


def evidence(score: float, answer: str | None, *, confidence: float | None = 0.8, **changes) -> Evidence:
    """A video with one rule in question, and what the slow path says of it."""
    finding = RuleFinding(category=FIRE, finding=Finding.UNCERTAIN, score=score, confidence=0.5, columns=(FIRE,))
    route = Route(
        path="slow", reason=RouteReason.UNCERTAIN, confidence=0.5, uncertain=(FIRE,), findings=(finding,),
        thresholds={FIRE: Thresholds(clear_below=0.1, block_at=0.9)},
    )  # fmt: skip
    judgement = None
    if answer is not None:
        judgement = builders.judgement({FIRE: answer}, confidence=confidence, prompt_tokens=900, completion_tokens=40)
    values = {
        "video": builders.video(),
        "policy": builders.policy(Rule(category=FIRE, state="block")),
        "scores": (builders.scores({FIRE: score}),),
        "route": route,
        "coverage": builders.coverage(),
        "judgement": judgement,
    }
    return Evidence(**(values | changes))


@pytest.mark.parametrize(("answer", "score", "flagged"), [("yes", 0.8, (FIRE,)), ("no", 0.2, ())])
def test_the_slow_paths_confidence_ranks_what_it_settled(answer: str, score: float, flagged: tuple[str, ...]) -> None:
    made = prediction_of("a" * 16, decide(evidence(0.4, answer)))
    assert made.scores[FIRE] == pytest.approx(score)
    assert made.flagged == flagged
    assert (made.route, made.fast_scores) == ("slow", {FIRE: 0.4})
    assert (made.prompt_tokens, made.completion_tokens, made.frames) == (900, 40, 8)
    assert made.moments
    assert max(made.moment_scores) == pytest.approx(0.4)


def test_what_the_slow_path_left_open_keeps_the_screens_score() -> None:
    made = prediction_of("a" * 16, decide(evidence(0.4, "unsure")))
    assert (made.scores[FIRE], made.decision, made.flagged) == (pytest.approx(0.4), "review", ())


def test_no_verdict_is_no_answer() -> None:
    error = Undecodable("It gave no frame.").info()
    verdict = failed(source="x", sha256=None, policy=builders.policy(), error=error)
    made = prediction_of("a" * 16, verdict)
    assert (made.valid, made.status, made.code, made.scores) == (False, "video_error", "undecodable", {})


def test_a_failed_slow_path_is_partial_and_coded() -> None:
    from guard.errors import VlmUnavailable

    made = prediction_of("a" * 16, decide(evidence(0.4, None, slow_error=VlmUnavailable("down").info())))
    assert (made.status, made.code, made.decision) == ("partial", "vlm_unavailable", "review")
    assert made.valid


def test_a_broken_video_is_not_an_answer_though_it_was_scored() -> None:
    cut = builders.coverage(complete=False, problem="truncated")
    made = prediction_of("a" * 16, decide(evidence(0.05, None, coverage=cut)))
    assert (made.decision, made.valid, made.code) == ("undecided", False, "truncated")
