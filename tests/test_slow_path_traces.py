from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from guard.errors import InvalidManifest, NoVideoStream, ResumeMismatch
from guard.interfaces import Case
from slow_path import rendered, rendered_examples, trace_examples, traces
from slow_path.answer import Question, parse
from slow_path.engine import Generation, Request, TextPart
from slow_path.engines import scripted
from slow_path.engines.scripted import ScriptedEngine, Step
from slow_path.failures import EngineFailure, FailureCode
from slow_path.judge import JudgeSettings
from slow_path.traces import Labelled, Trace, collect

SETTINGS = JudgeSettings(
    mode="reason",
    options=rendered_examples.OPTIONS,
    limits=rendered_examples.LIMITS,
    budget=rendered_examples.BUDGET,
)


def labelled(seed: int) -> Labelled:
    made = rendered_examples.item(seed)
    return Labelled(id=f"clip-{seed}", labels=made.violated, load=lambda: rendered_examples.case(made))


def right(seed: int) -> str:
    return rendered.right_answer(rendered_examples.item(seed).clip, rendered_examples.view(seed).question)


def wrong(seed: int) -> str:
    """Say the opposite of every check, consistently."""
    plain: dict[str, Any] = json.loads(right(seed))
    time = plain["observations"][0]["start_seconds"]
    for check in plain["checks"].values():
        check["violated"] = "no" if check["violated"] == "yes" else "yes"
        check["evidence_seconds"] = [time] if check["violated"] == "yes" else []
    plain["categories"] = [r for r, c in plain["checks"].items() if c["violated"] == "yes"]
    plain["severity"] = 1 if plain["categories"] else 0
    plain["span"] = {"start_seconds": time, "end_seconds": time} if plain["categories"] else None
    return json.dumps(plain)


def run(tmp_path: Path, seeds: list[int], steps: list[Step], **kwargs: Any) -> tuple[list[Trace], ScriptedEngine]:
    engine = scripted.build(scripted.Config(steps=steps))
    out = tmp_path / "traces.jsonl"
    asyncio.run(collect([labelled(s) for s in seeds], engine, out, kwargs.pop("settings", SETTINGS), concurrency=1))
    return traces.read(out), engine


def test_keeps_an_answer_that_matches_the_label(tmp_path: Path) -> None:
    made, engine = run(tmp_path, [1, 2], [right(1), right(2)])
    assert [(t.kept, t.hinted) for t in made] == [(True, False)] * 2
    assert made[0].teacher == "scripted"
    assert made[0].prompt_hash == engine.requests[0].hash()
    assert made[0].sha256
    assert json.loads(made[0].answer) == json.loads(right(1))


def test_a_wrong_answer_is_asked_for_once_more_with_the_label_and_marked(tmp_path: Path) -> None:
    made, engine = run(tmp_path, [1], [wrong(1), right(1)])
    assert (made[0].kept, made[0].hinted) == (True, True)
    told = engine.requests[1].parts[-1]
    assert isinstance(told, TextPart)
    assert "A reviewer found violated" in told.text
    assert made[0].prompt_hash == engine.requests[0].hash(), "learned without the hint"


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([wrong(1), wrong(1)], "wrong_verdict"),
        (["nonsense", "nonsense"], "vlm_invalid_json"),
        ([EngineFailure(FailureCode.REJECTED, "too long")], "vlm_rejected"),
        ([Generation(text=right(1), finish_reason="length", model="m")] * 2, "vlm_truncated"),
    ],
)
def test_what_stays_wrong_leaves_a_line_that_says_why(tmp_path: Path, steps: list[Step], why: str) -> None:
    made, _ = run(tmp_path, [1], steps)
    assert (made[0].kept, made[0].refused) == (False, why)
    assert made[0].answer == ""


def test_what_was_not_asked_leaves_no_line_and_is_asked_by_the_next_run(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "traces.jsonl"
    engine = scripted.build(scripted.Config(steps=[EngineFailure(FailureCode.UNAVAILABLE, "down"), right(2)]))
    items = [labelled(1), labelled(2)]
    report = asyncio.run(collect(items, engine, out, SETTINGS, concurrency=1, progress=lambda *step: told.append(step)))
    assert (report.postponed, report.kept, report.refused) == ({"vlm_unavailable": 1}, 1, {})
    assert told == [(1, 2), (2, 2)]
    again = asyncio.run(collect(items, scripted.build(scripted.Config(steps=[right(1)])), out, SETTINGS))
    assert (again.postponed, again.kept) == ({}, 2)
    assert [trace.id for trace in traces.read(out)] == ["clip-2", "clip-1"]


def test_a_video_that_cannot_be_decoded_leaves_a_line(tmp_path: Path) -> None:
    def broken() -> Case:
        raise NoVideoStream("nothing there")

    out = tmp_path / "t.jsonl"
    engine = scripted.build(scripted.Config())
    report = asyncio.run(collect([Labelled(id="a", labels=frozenset(), load=broken)], engine, out, SETTINGS))
    assert report.refused == {"no_video_stream": 1}


def test_a_run_that_stopped_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    run(tmp_path, [1, 2], [right(1), right(2)])
    out = tmp_path / "traces.jsonl"
    out.write_text(out.read_text() + '{"id": "clip-3", "ke')  # killed in the middle of a line
    made, engine = run(tmp_path, [1, 2, 3], [right(3)])
    assert [t.id for t in made] == ["clip-1", "clip-2", "clip-3"]
    assert len(engine.requests) == 1


def test_a_file_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    run(tmp_path, [1], [right(1)])
    with pytest.raises(ResumeMismatch, match="other settings"):
        run(tmp_path, [2], [right(2)], settings=JudgeSettings(mode="reason"))


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run(tmp_path, [1, 2], [right(1), right(2)])
    out = tmp_path / "traces.jsonl"
    lines = out.read_text().splitlines()
    out.write_text("\n".join([lines[0], "{}", lines[2]]) + "\n")
    with pytest.raises(InvalidManifest, match="Line 2"):
        traces.read(out)


def test_a_general_rule_is_spoken_for_by_a_label_below_it() -> None:
    rules = ("violence", "illegal.fire")
    assert traces.expected(frozenset({"violence.fighting"}), rules) == ("violence",)
    assert traces.expected(frozenset({"illegal"}), rules) == ()


def kept(seed: int) -> Trace:
    view = rendered_examples.view(seed)
    return Trace(
        id=f"{seed}", kept=True, answer=right(seed), rules=view.question.rules,
        times_seconds=view.question.times_seconds, seed=seed,
    )  # fmt: skip


def load(trace: Trace) -> Case:
    return rendered_examples.case(rendered_examples.item(trace.seed))


def test_examples_vary_the_rules_and_every_answer_stays_right() -> None:
    source = trace_examples.source([kept(s) for s in range(6)], load, SETTINGS)
    sizes, firsts = set(), set()
    for number in range(60):
        made = source(number)
        rules = tuple(json.loads(made.answer)["checks"])
        sizes.add(len(rules))
        firsts.add(rules[0])
        assert all(f": {rule} (" in made.request.system for rule in rules)
        assert "Rule 1: " in made.request.system
        assert (f"Rule {len(rules) + 1}: " in made.request.system) is False
        times = tuple(
            float(p.text.split()[2]) for p in made.request.parts if isinstance(p, TextPart) and "Frame at" in p.text
        )
        question = Question(rules=rules, times_seconds=times, duration_seconds=9.0, limits=SETTINGS.limits)
        read = parse(
            Generation(text=made.answer, finish_reason="stop", model="m"), question, engine="e", prompt_hash=""
        )
        assert read.status == "ok", read.error_code
    assert sizes == {1, 2, 3}
    assert len(firsts) > 5
    assert source(7) == source(7), "a resumed run sees the same examples"


def test_frames_of_another_video_are_refused() -> None:
    with pytest.raises(InvalidManifest, match="not those"):
        trace_examples.example(kept(1), load(kept(2)), SETTINGS, seed=0)


def test_without_a_kept_trace_there_is_nothing_to_learn() -> None:
    with pytest.raises(InvalidManifest, match="no kept trace"):
        trace_examples.source([Trace(id="a", kept=False)], load, SETTINGS)


def test_a_hint_changes_the_question_alone() -> None:
    base = rendered_examples.view(1).reasoning(max_tokens=9, temperature=0.0)
    hinted: Request = traces.hint(base, frozenset(), ("violence",))
    assert hinted.parts[:-1] == base.parts
    assert (hinted.system, hinted.schema, hinted.max_tokens) == (base.system, base.schema, 9)
