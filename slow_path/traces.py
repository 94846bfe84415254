"""Asks a teacher VLM for reasoned answers over labelled videos, and keeps those that are right.

A trace is kept only if the teacher's verdict matches the label and the times that it cites are times it was shown.
One that is wrong is asked for once more with the label as a hint, and marked as hinted. Every item leaves one line
in the file, kept or not, so a run that stopped goes on where it was and nothing is asked twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guard import taxonomy
from guard.errors import GuardError, InvalidManifest, ResumeMismatch
from guard.interfaces import Case
from guard.types import Judgement
from slow_path import answer
from slow_path.engine import Engine, Request, TextPart
from slow_path.failures import RETRYABLE_REQUESTS, EngineFailure
from slow_path.frames import FrameBudget, select, shown
from slow_path.judge import JudgeSettings
from slow_path.view import View, asked_rules, question_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One video of a training set."""

    id: str
    """Stable: resuming goes by it."""
    labels: frozenset[str]
    """Category ids that the video violates; empty for a benign one."""
    load: Callable[[], Case]
    """Decodes the video; may raise a `GuardError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One line of a trace file."""

    id: str
    kept: bool
    hinted: bool = False
    answer: str = ""
    """The teacher's answer, compact JSON with rules in the order asked."""
    rules: tuple[str, ...] = ()
    times_seconds: tuple[float, ...] = ()
    sha256: str = ""
    seed: int = 0
    policy_hash: str = ""
    teacher: str = ""
    prompt_hash: str = ""
    refused: str = ""
    """Why it was not kept: a failure code, or `wrong_verdict`."""


@dataclass(slots=True)
class TraceReport:
    """What a run did."""

    kept: int = 0
    hinted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    postponed: dict[str, int] = field(default_factory=dict)
    """Items without an answer for reasons that may pass (no connection, no room, too late): they leave no line, and the
    next run asks them."""

    def count(self, trace: Trace) -> None:
        """Add one line."""
        self.kept += trace.kept
        self.hinted += trace.kept and trace.hinted
        if not trace.kept:
            self.refused[trace.refused] = self.refused.get(trace.refused, 0) + 1


async def collect(
    items: Sequence[Labelled],
    engine: Engine,
    out: Path,
    settings: JudgeSettings,
    *,
    concurrency: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> TraceReport:
    """Ask `engine` about every item that `out` does not hold yet, and append one line for each.

    Args:
        items: the training set.
        engine: the teacher.
        out: JSONL file; its first line is the run's signature.
        settings: of the judge whose answers are to be learned: frames, limits and prompt must be the same.
        concurrency: items under way at once.
        progress: told the items done, those of an earlier run included, and the items in all.

    Raises:
        ResumeMismatch: `out` was written with another teacher or other settings.
    """
    report = TraceReport()
    done = _open(out, _signature(engine, settings), report)
    places = asyncio.Semaphore(concurrency)
    open_items = [item for item in items if item.id not in done]
    finished = len(items) - len(open_items)
    with out.open("a", encoding="utf-8") as lines:

        async def one(item: Labelled) -> None:
            nonlocal finished
            async with places:
                trace = await trace_of(item, engine, settings)
            if trace.refused in RETRYABLE_REQUESTS:
                report.postponed[trace.refused] = report.postponed.get(trace.refused, 0) + 1
            else:
                report.count(trace)
                lines.write(json.dumps(asdict(trace)) + "\n")
                lines.flush()
            finished += 1
            if progress is not None:
                progress(finished, len(items))

        await asyncio.gather(*(one(item) for item in open_items))
    return report


async def trace_of(item: Labelled, engine: Engine, settings: JudgeSettings) -> Trace:
    """Ask the teacher about one item, at most twice."""
    try:
        case = await asyncio.to_thread(item.load)
    except GuardError as error:
        return Trace(id=item.id, kept=False, refused=error.code)
    view = view_of(case, settings)
    base = view.reasoning(max_tokens=settings.max_tokens, temperature=0.0)
    refused = ""
    for hinted in (False, True):
        request = hint(base, item.labels, view.question.rules) if hinted else base
        try:
            generation = await engine.generate(request)
        except EngineFailure as failure:
            return Trace(id=item.id, kept=False, refused=failure.code.value)
        judgement = answer.parse(generation, view.question, engine=engine.name, prompt_hash=base.hash())
        refused = judgement.error_code or ("" if is_right(judgement, item.labels, view) else "wrong_verdict")
        if not refused:
            return Trace(
                id=item.id,
                kept=True,
                hinted=hinted,
                answer=json.dumps(json.loads(generation.text), separators=(",", ":")),
                rules=view.question.rules,
                times_seconds=view.question.times_seconds,
                sha256=case.video.sha256,
                seed=case.seed,
                policy_hash=case.policy.hash,
                teacher=engine.name,
                prompt_hash=base.hash(),
            )
    return Trace(id=item.id, kept=False, hinted=True, refused=refused, teacher=engine.name)


def view_of(case: Case, settings: JudgeSettings) -> View:
    """Return the first look that a judge with `settings` takes at `case`."""
    rules = asked_rules(case)
    budget: FrameBudget = settings.budget
    chosen = select(case.frames, case.scores, [rule.category for rule in rules], budget, seed=case.seed)
    frames = shown(case.frames, chosen, budget)
    return View(
        policy=case.policy,
        question=question_for(case, rules, frames, seed=case.seed, limits=settings.limits),
        frames=frames,
        scores=case.scores,
        seed=case.seed,
        options=settings.options,
    )


def hint(request: Request, labels: frozenset[str], rules: Sequence[str]) -> Request:
    """Return `request` with the right verdict told; the trace is stored with the question that lacks it."""
    told = ", ".join(expected(labels, rules)) or "none of the rules"
    text = f"A reviewer found violated: {told}. Find what in the frames shows it, and answer accordingly."
    return Request(
        system=request.system,
        parts=(*request.parts, TextPart(text=text)),
        max_tokens=request.max_tokens,
        schema=request.schema,
        temperature=request.temperature,
        seed=request.seed,
        top_logprobs=request.top_logprobs,
    )


def expected(labels: frozenset[str], rules: Sequence[str]) -> tuple[str, ...]:
    """Return the rules that a video with `labels` violates: a label speaks for each rule that covers it."""
    return tuple(rule for rule in rules if any(taxonomy.covers(rule, label) for label in labels))


def is_right(judgement: Judgement, labels: frozenset[str], view: View) -> bool:
    """Whether a parsed answer has the right verdict and cites only times that were shown."""
    known = set(view.question.times_seconds)
    cited = {t for check in judgement.checks for t in check.evidence_seconds}
    cited |= {t for o in judgement.observations for t in (o.start_seconds, o.end_seconds)}
    settled = all(check.violated != "unsure" for check in judgement.checks)
    return settled and cited <= known and set(judgement.categories) == set(expected(labels, view.question.rules))


def read(path: Path) -> list[Trace]:
    """Return the traces of a file, the kept and the refused.

    Raises:
        InvalidManifest: a line other than a torn last one cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    traces: list[Trace] = []
    for number, line in enumerate(lines, start=2):
        try:
            plain = json.loads(line)
            plain |= {key: tuple(plain[key]) for key in ("rules", "times_seconds")}
            traces.append(Trace(**plain))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) + 1:
                break  # the run was killed while it wrote this line; its item is asked again
            raise InvalidManifest(f"Line {number} of {str(path)!r} is not a trace: {error}.") from error
    return traces


def _signature(engine: Engine, settings: JudgeSettings) -> dict[str, Any]:
    shown = {"teacher": engine.name, "settings": asdict(settings)}
    text = json.dumps(shown, sort_keys=True)
    return {"signature": hashlib.sha256(text.encode()).hexdigest()[:16], **shown}


def _open(out: Path, signature: dict[str, Any], report: TraceReport) -> set[str]:
    """Write the first line of a new file, or check that of an old one; return the ids that it holds."""
    if not out.exists() or not out.stat().st_size:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(signature) + "\n", encoding="utf-8")
        return set()
    first = out.read_text(encoding="utf-8").splitlines()[0]
    if json.loads(first).get("signature") != signature["signature"]:
        raise ResumeMismatch(f"{str(out)!r} holds traces of another teacher or of other settings.")
    found = read(out)
    # Rewritten without a torn last line, so that appending starts on a line of its own.
    body = [first, *(json.dumps(asdict(trace)) for trace in found)]
    out.write_text("\n".join(body) + "\n", encoding="utf-8")
    for trace in found:
        report.count(trace)
    return {trace.id for trace in found}
