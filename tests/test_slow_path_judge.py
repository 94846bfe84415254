"""The judge on a scripted engine: what each answer and each fault turns into. Nothing is raised, nothing is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from guard.errors import DecodeTimeout
from guard.interfaces import Case, Judge
from guard.types import Frames, Judgement, Video
from slow_path.engine import Generation, ImagePart, Request, TextPart
from slow_path.engines import scripted
from slow_path.engines.scripted import ScriptedEngine, Stall, generation
from slow_path.failures import EngineFailure, FailureCode
from slow_path.frames import FrameBudget
from slow_path.judge import JudgeSettings, VlmJudge
from tests.slow_path_cases import RULES, case, frames

REASON = JudgeSettings(mode="reason")


def answer(request: Request, labels: dict[str, str], *, p: float = 0.97) -> Generation:
    """Answer a full question with `labels`, citing the first time shown."""
    assert request.schema is not None
    properties = request.schema["properties"]
    time = properties["span"]["anyOf"][1]["properties"]["start_seconds"]["enum"][0]
    asked = list(properties["checks"]["properties"])
    violated = [rule for rule in asked if labels[rule] == "yes"]
    made = {
        "observations": [],
        "checks": {
            r: {"evidence_seconds": [time] if labels[r] == "yes" else [], "why": "seen", "violated": labels[r]}
            for r in asked
        },
        "counter_evidence": [],
        "categories": violated,
        "severity": 2 if violated else 0,
        "span": {"start_seconds": time, "end_seconds": time} if violated else None,
        "reason": "because",
    }
    return generation(json.dumps(made), p=p)


def says(fire: str, violence: str = "no", p: float = 0.97) -> Callable[[Request], Generation]:
    return lambda request: answer(request, {"violence": violence, "illegal.fire": fire}, p=p)


def word(text: str, p: float = 0.99) -> Generation:
    return generation(text, p=p)


def run(
    steps: Sequence[Any], settings: JudgeSettings = REASON, given: Case | None = None, **kwargs: Any
) -> tuple[Judgement, ScriptedEngine]:
    engine = scripted.build(scripted.Config(steps=steps))
    judge = VlmJudge(engine, settings, **kwargs)
    assert isinstance(judge, Judge)
    return asyncio.run(judge.judge([given or case()]))[0], engine


def test_a_sure_answer_takes_one_request() -> None:
    judgement, engine = run([says("yes")])
    assert judgement.status == "ok"
    assert judgement.categories == ("illegal.fire",)
    assert judgement.passes == 1
    assert judgement.confidence is not None
    assert judgement.confidence > 0.9
    assert len(engine.requests) == 1
    assert judgement.prompt_hash == engine.requests[0].hash()


def test_only_rules_in_question_are_asked() -> None:
    judgement, engine = run([says("no")], given=case(uncertain=("illegal.fire",)))
    assert [c.rule for c in judgement.checks] == ["illegal.fire"]
    assert engine.requests[0].schema is not None
    # The policy is shown whole, so that all videos share it.
    assert "violence" in engine.requests[0].system


def test_a_rule_that_the_screen_found_violated_is_asked_as_well() -> None:
    judgement, _ = run([says("no", "yes")], given=case((0.95, 0.5), uncertain=("illegal.fire",)))
    assert {c.rule for c in judgement.checks} == set(RULES)


@pytest.mark.parametrize("first", [says("unsure"), says("yes", p=0.6)])
def test_an_unsure_answer_asks_twice_more_over_other_frames(first: Any) -> None:
    given = case(count=40)
    settings = dataclasses.replace(REASON, budget=FrameBudget(frames=6))
    judgement, engine = run([first, says("yes"), says("yes")], settings, given)
    assert len(engine.requests) == 3
    assert judgement.categories == ("illegal.fire",)
    assert judgement.passes >= 2
    labels = [tuple(p.text for p in r.parts if isinstance(p, TextPart)) for r in engine.requests]
    assert len(set(labels)) == 3, "each pass shows frames at other times"
    assert [r.temperature for r in engine.requests] == [0.0, 0.7, 0.7]
    assert len({r.seed for r in engine.requests}) == 3


def test_a_high_screen_score_is_cleared_by_two_agreeing_passes_alone() -> None:
    high = case((0.1, 0.97))
    judgement, engine = run([says("no"), says("no"), says("no")], given=high)
    assert len(engine.requests) == 3
    assert judgement.passes == 3
    torn, _ = run([says("no"), says("yes"), says("yes")], given=high)
    labels = {check.rule: check.violated for check in torn.checks}
    assert labels == {"illegal.fire": "unsure", "violence": "no"}, "looks that contradict each other settle nothing"
    broken, _ = run([says("no"), EngineFailure(FailureCode.UNAVAILABLE, "down")], given=high)
    assert broken.passes == 1, "guard.verdict then keeps the screen's finding"


def test_without_log_probabilities_passes_must_agree() -> None:
    def bare(label: str) -> Callable[[Request], Generation]:
        return lambda r: dataclasses.replace(says(label)(r), tokens=None)

    judgement, engine = run([bare("no"), bare("no"), bare("no")])
    assert len(engine.requests) == 3
    assert judgement.confidence is None
    assert judgement.passes == 3


def test_yes_no_questions_clear_what_is_clear_without_a_story() -> None:
    judgement, engine = run([word("no"), word("no")], JudgeSettings())
    assert [r.max_tokens for r in engine.requests] == [1, 1]
    assert judgement.status == "ok"
    assert {c.violated for c in judgement.checks} == {"no"}
    assert judgement.confidence == pytest.approx(0.99)


def test_yes_no_questions_share_all_but_their_last_part() -> None:
    _, engine = run([word("no"), word("no")], JudgeSettings())
    first, second = engine.requests
    assert first.system == second.system
    assert first.parts[:-1] == second.parts[:-1]


@pytest.mark.parametrize("doubt", [word("yes"), word("no", 0.8), word("Sorry")])
def test_yes_no_questions_that_do_not_clear_lead_to_reasons(doubt: Generation) -> None:
    judgement, engine = run([word("no"), doubt, *[says("yes", "yes")] * 3], JudgeSettings())
    assert judgement.reason == "because"
    assert engine.requests[2].schema is not None


def test_yes_no_questions_never_clear_a_high_screen_score() -> None:
    judgement, engine = run([word("no"), word("no"), *[says("no")] * 3], JudgeSettings(), case((0.1, 0.97)))
    assert len(engine.requests) == 5
    assert judgement.passes == 3


def test_reasons_that_contradict_the_yes_no_question_ask_again() -> None:
    steps = [word("yes"), word("yes"), says("no", "no"), says("yes", "yes"), says("yes", "yes")]
    judgement, engine = run(steps, JudgeSettings())
    assert len(engine.requests) == 5
    assert {c.violated for c in judgement.checks} == {"unsure"}


def test_score_mode_never_asks_for_reasons() -> None:
    judgement, engine = run([word("yes", 0.8), word("Maybe")], JudgeSettings(mode="score"))
    assert len(engine.requests) == 2
    assert sorted(c.violated for c in judgement.checks) == ["unsure", "yes"]
    assert judgement.confidence is None


@pytest.mark.parametrize(
    ("steps", "status", "code"),
    [
        ([EngineFailure(FailureCode.UNAVAILABLE, "down")], "generation_error", "vlm_unavailable"),
        ([EngineFailure(FailureCode.RATE_LIMITED, "slow down")], "generation_error", "rate_limited"),
        ([EngineFailure(FailureCode.IMAGE_MISMATCH, "3 of 5")], "generation_error", "vlm_image_mismatch"),
        ([Generation(text='{"obs', finish_reason="length", model="m")], "generation_error", "vlm_truncated"),
        ([Generation(text="No.", finish_reason="refusal", model="m")], "generation_error", "vlm_refused"),
        (["", ""], "generation_error", "vlm_empty"),
        (["It is safe.", "It is safe."], "parse_error", "vlm_invalid_json"),
        (['{"safe": true}', '{"safe": true}'], "parse_error", "vlm_invalid_schema"),
        ([Stall(seconds=5)], "generation_error", "vlm_timeout"),
    ],
)
def test_every_fault_is_a_typed_judgement(steps: list[Any], status: str, code: str) -> None:
    judgement, _ = run(steps, dataclasses.replace(REASON, deadline_seconds=0.5))
    assert (judgement.status, judgement.error_code) == (status, code)
    assert judgement.checks == ()
    assert judgement.categories == ()


def test_a_malformed_answer_is_asked_for_once_more() -> None:
    judgement, engine = run(["nonsense", says("yes")])
    assert judgement.categories == ("illegal.fire",)
    assert [r.temperature for r in engine.requests] == [0.0, 0.7]


def test_a_truncated_answer_is_not_asked_for_again() -> None:
    _, engine = run([Generation(text="{", finish_reason="length", model="m"), says("yes")])
    assert len(engine.requests) == 1


def test_a_stall_in_a_later_pass_keeps_the_first() -> None:
    settings = dataclasses.replace(REASON, deadline_seconds=0.5)
    judgement, _ = run([says("unsure"), Stall(seconds=9), Stall(seconds=9)], settings)
    assert judgement.status == "ok"
    assert {c.rule: c.violated for c in judgement.checks}["illegal.fire"] == "unsure"


def test_a_bug_is_a_typed_judgement_too(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Request) -> Generation:
        raise RuntimeError("bug")

    judgement, _ = run([broken])
    assert (judgement.status, judgement.error_code) == ("generation_error", "vlm_internal")
    assert "bug" in caplog.text


def test_one_failing_case_does_not_touch_the_others() -> None:
    def by_video(request: Request) -> Generation:
        if request.seed == 1:
            raise EngineFailure(FailureCode.REJECTED, "too long")
        return says("yes")(request)

    engine = scripted.build(scripted.Config(steps=[by_video], repeat=True))
    judgements = asyncio.run(VlmJudge(engine, REASON).judge([case(seed=i) for i in range(4)]))
    assert [j.status for j in judgements] == ["ok", "generation_error", "ok", "ok"]


def test_a_larger_decode_is_used_where_there_is_one_and_done_without_where_it_fails() -> None:
    asked: list[Sequence[float]] = []

    def source(video: Video, times: Sequence[float], side: int) -> Frames:
        asked.append(times)
        return frames(len(times), side=64)

    _, engine = run([says("no")], frame_source=source)
    large = [p.jpeg for p in engine.requests[0].parts if isinstance(p, ImagePart)]
    assert len(asked[0]) == len(large)

    def failing(video: Video, times: Sequence[float], side: int) -> Frames:
        raise DecodeTimeout("too slow")

    judgement, _ = run([says("no")], frame_source=failing)
    assert judgement.status == "ok"


def test_no_active_rule_is_no_question() -> None:
    bare = case(rules=RULES)
    off = {k: dataclasses.replace(r, state="off") for k, r in bare.policy.rules.items()}
    policy = dataclasses.replace(bare.policy, rules=off)
    route = dataclasses.replace(bare.route, uncertain=())
    judgement, engine = run([], given=dataclasses.replace(bare, policy=policy, route=route))
    assert judgement.checks == ()
    assert engine.requests == []


def test_settings_must_make_sense() -> None:
    with pytest.raises(ValueError, match="clear_at"):
        JudgeSettings(clear_at=0.4)
    with pytest.raises(ValueError, match="samples"):
        JudgeSettings(samples=0)
