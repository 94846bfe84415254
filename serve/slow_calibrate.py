"""How far the slow path's confidence can be trusted: labelled clips through the whole pipeline, and the floor they
prove.

The answers go to a file beside the calibration, one line per clip, so that a run that stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from fast_path.dataset import Row
from guard.api import Guard
from guard.config import Settings
from guard.errors import InputError, InvalidManifest, ResumeMismatch
from guard.pipeline import Pipeline
from guard.types import Verdict, Video
from serve.slow_cases import escalating
from slow_path import calibration
from slow_path.calibration import Answered, Floor
from slow_path.failures import RETRYABLE_REQUESTS
from slow_path.judge import VlmJudge
from slow_path.traces import expected

Step = Callable[[str, int, int], None]
LEAST_FLOOR = 0.5


@dataclass(slots=True)
class Answers:
    """What the slow path said of the clips of a split."""

    labels: list[Answered] = field(default_factory=list)
    clips: int = 0
    """Clips that it gave a usable answer for."""
    screened: int = 0
    """Clips that the fast path settled alone: they say nothing of the slow path."""
    failed: dict[str, int] = field(default_factory=dict)
    """Clips without a usable answer, by error code."""
    postponed: dict[str, int] = field(default_factory=dict)
    """Of those, the ones that the next run asks again: the server was down, full or late."""

    def take(self, line: dict[str, Any]) -> None:
        """Add one line of the file."""
        self.labels += [Answered(confidence=a["confidence"], right=a["right"]) for a in line["labels"]]
        if line["error"]:
            self.failed[line["error"]] = self.failed.get(line["error"], 0) + 1
        elif line["screened"]:
            self.screened += 1
        else:
            self.clips += 1


def answers_file(out: Path) -> Path:
    """Return where the answers behind the calibration `out` are kept."""
    return out.with_suffix(".answers.jsonl")


def ask(rows: Sequence[Row], settings: Settings, out: Path, *, everything: bool, step: Step | None = None) -> Answers:
    """Judge `rows` by both stages and keep each label that the slow path gave, right or wrong.

    Args:
        rows: clips that neither stage was trained on.
        settings: with `slow_url`.
        out: the calibration to be; the answers lie beside it.
        everything: ask the slow path about every rule of every clip, also where the fast path would settle it.
        step: told ("judge", done, total).

    Raises:
        ResumeMismatch: the answers beside `out` are of another policy, model or server.
    """
    with Guard.load(settings) as guard:
        judge = cast(VlmJudge, guard.pipeline.stages.judge)
        # Every label counts here, however unsure; a calibrated floor of an earlier run would hide those below it.
        judge.settings = replace(judge.settings, floor=LEAST_FLOOR)
        signature = _signature(guard, judge, everything=everything)
        found, done = Answers(), _open(answers_file(out), signature)
        for line in done.values():
            found.take(line)
        left = [row for row in rows if str(row.path) not in done]
        pipeline = _pipeline(guard, everything=everything)
        try:
            for number, (row, verdict) in enumerate(_verdicts(pipeline, guard, left), len(done) + 1):
                line = _line(row, verdict)
                found.take(line)
                if line["error"] in RETRYABLE_REQUESTS:
                    found.postponed[line["error"]] = found.postponed.get(line["error"], 0) + 1
                else:
                    with answers_file(out).open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps(line) + "\n")
                if step is not None:
                    step("judge", number, len(rows))
        finally:
            pipeline.close()
    return found


def fit(found: Answers, *, error: float, delta: float) -> Floor:
    """Return the floor. Raises `InvalidManifest` without any label, `InfeasibleTarget` where they prove nothing."""
    if not found.labels:
        why = ", ".join(f"{code}: {count}" for code, count in found.failed.items()) or "the fast path settled all clips"
        raise InvalidManifest(f"The slow path gave no label to calibrate with ({why}).", hint="Give more clips, --all.")
    return calibration.fit(found.labels, alpha=error, delta=delta)


def save(made: Floor, found: Answers, settings: Settings, out: Path) -> dict[str, Any]:
    """Write the calibration and return it; `GUARD_SLOW_CALIBRATION` names the file to a scan."""
    first = json.loads(answers_file(out).read_text(encoding="utf-8").splitlines()[0])
    content = {
        "stage": "slow",
        **asdict(made),
        "clips": found.clips,
        "failed": found.failed,
        "model": settings.slow_model or "the only one served",
        "policy_hash": first["policy_hash"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def _pipeline(guard: Guard, *, everything: bool) -> Pipeline:
    stages = guard.pipeline.stages
    chosen = replace(stages, router=escalating(stages.router)) if everything else stages
    return Pipeline(chosen, guard.policy, workers=guard.settings.workers, seed=guard.settings.seed)


def _verdicts(pipeline: Pipeline, guard: Guard, rows: Sequence[Row]) -> Iterator[tuple[Row, Verdict | InputError]]:
    """Yield each row with its verdict, or with the error that kept it from being opened."""
    opened: list[Row] = []
    broken: list[tuple[Row, InputError]] = []

    def videos() -> Iterator[Video]:
        for row in rows:
            try:
                video = guard.open(row.path, name=str(row.path))
            except InputError as error:
                broken.append((row, error))
            else:
                opened.append(row)
                yield video

    for place, verdict in enumerate(pipeline.check_many(videos())):
        yield opened[place], verdict
    yield from broken


def _line(row: Row, verdict: Verdict | InputError) -> dict[str, Any]:
    made: dict[str, Any] = {"path": str(row.path), "labels": [], "error": None, "screened": False}
    if isinstance(verdict, InputError):
        return made | {"error": verdict.code}
    judgement = verdict.judgement
    if judgement is None:
        return made | {"error": verdict.error.code if verdict.error else None, "screened": True}
    if judgement.status != "ok":
        return made | {"error": judgement.error_code or judgement.status}
    truth = frozenset(expected(frozenset(row.labels), [check.rule for check in judgement.checks]))
    return made | {"labels": [asdict(label) for label in calibration.answered([(judgement, truth)])]}


def _signature(guard: Guard, judge: VlmJudge, *, everything: bool) -> dict[str, Any]:
    shown = {
        "policy_hash": guard.policy.hash,
        "slow_url": guard.settings.slow_url,
        "slow_model": guard.settings.slow_model,
        "settings": asdict(judge.settings),
        "everything": everything,
    }
    digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]
    return {"signature": digest, "policy_hash": guard.policy.hash}


def _open(file: Path, signature: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Begin the file, or return its lines by path; a line that was being written when a run stopped is dropped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or not file.stat().st_size:
        file.write_text(json.dumps(signature) + "\n", encoding="utf-8")
        return {}
    first, *rest = file.read_text(encoding="utf-8").splitlines()
    if json.loads(first) != signature:
        raise ResumeMismatch(f"{str(file)!r} holds answers of another policy, model, server or profile.")
    whole: list[dict[str, Any]] = []
    for line in rest:
        try:
            whole.append(json.loads(line))
        except ValueError:
            break
    file.write_text("\n".join([first, *map(json.dumps, whole)]) + "\n", encoding="utf-8")
    return {line["path"]: line for line in whole}
