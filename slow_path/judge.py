"""The slow path as the pipeline sees it: cases in, judgements out, nothing raised and nothing lost.

For each video: a one-token yes/no question per rule (cheap, the frames being in the server's prefix cache); where
that does not clear everything, a full answer with reasons; where that is unsure, contradicts the yes/no questions, or
would clear a high screening score, further passes over other frames, merged by majority.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from guard import plugins
from guard.errors import InputError
from guard.interfaces import Case
from guard.types import Frames, Judgement, RuleCheck, Video, Violated
from slow_path import answer, consensus
from slow_path.confidence import yes_probability
from slow_path.engine import Engine
from slow_path.failures import RETRYABLE_ANSWERS, EngineFailure, FailureCode
from slow_path.frames import FrameBudget, select, shown
from slow_path.settings import JudgeSettings, configured, fingerprint
from slow_path.view import View, asked_rules, is_high, question_for

__all__ = ["FrameSource", "JudgeSettings", "VlmJudge", "from_url"]

log = logging.getLogger(__name__)

FrameSource: TypeAlias = Callable[[Video, Sequence[float], int], Frames]
"""(video, times in seconds, longest side in pixels) to frames: a second decode at a higher resolution than the
screen's."""


@dataclass(slots=True)
class _Passes:
    """The full answers so far: they outlive a deadline."""

    done: list[Judgement] = field(default_factory=list)


class VlmJudge:
    """Judges cases through an engine. Used on one event loop; `close` gives the engine's connections back."""

    def __init__(
        self, engine: Engine, settings: JudgeSettings | None = None, *, frame_source: FrameSource | None = None
    ) -> None:
        """Judge through `engine`; without `settings`, with those that the environment asks for."""
        self.engine = engine
        self.settings = configured(settings)
        self._frame_source = frame_source

    @property
    def name(self) -> str:
        """Engine and model."""
        return self.engine.name

    @property
    def fingerprint(self) -> str:
        """Identifies the settings, a calibrated floor among them; two runs that differ in it are not one run."""
        return fingerprint(self.settings)

    async def judge(self, cases: Sequence[Case]) -> list[Judgement]:
        """Judge a batch, all at once; the engine bounds what runs. A failure is a judgement with a status and a
        code."""
        return list(await asyncio.gather(*(self._guarded(case) for case in cases)))

    async def close(self) -> None:
        """Give the engine's resources back."""
        await self.engine.close()

    async def _guarded(self, case: Case) -> Judgement:
        passes = _Passes()
        try:
            async with asyncio.timeout(self.settings.deadline_seconds):
                return await self._judge_one(case, passes)
        except TimeoutError:
            return self._salvaged(passes, FailureCode.TIMEOUT)
        except EngineFailure as failure:
            log.warning("slow path failed on %s: %s: %s", case.video.sha256, failure.code.value, failure.message)
            return self._salvaged(passes, failure.code)
        except InputError as error:
            return Judgement(status="video_error", engine=self.name, error_code=error.code)
        except Exception:
            log.exception("slow path failed on %s", case.video.sha256)
            return self._salvaged(passes, FailureCode.INTERNAL)

    def _salvaged(self, passes: _Passes, code: FailureCode) -> Judgement:
        """Return what the passes before a failure say: one pass can settle a rule, though not clear a high score."""
        if passes.done:
            return consensus.below_floor_unsure(consensus.merge(passes.done), self.settings.floor)
        return answer.failed(code, engine=self.name)

    async def _judge_one(self, case: Case, passes: _Passes) -> Judgement:
        if not asked_rules(case):
            return Judgement(status="ok", engine=self.name, reason="No active rule was in question.")
        view = await self._view(case, attempt=0)
        likelihood: dict[str, float | None] = {}
        if self.settings.mode != "reason":
            likelihood = await self._ask_each(view)
            if self.settings.mode == "score" or self._clears(likelihood, case):
                return _from_likelihood(likelihood, self.name, view.scoring(view.question.rules[0]).hash())
        passes.done.append(await self._reason(view, attempt=0))
        if not self._settled(passes.done[0], likelihood, case):
            await self._further_passes(case, passes)
        return consensus.below_floor_unsure(consensus.merge(passes.done), self.settings.floor)

    async def _further_passes(self, case: Case, passes: _Passes) -> None:
        async def one(attempt: int) -> None:
            passes.done.append(await self._reason(await self._view(case, attempt=attempt), attempt=attempt))

        results = await asyncio.gather(*(one(i) for i in range(1, self.settings.samples)), return_exceptions=True)
        broken = next((r for r in results if isinstance(r, BaseException)), None)
        if broken is not None and len(passes.done) == 1:
            raise broken

    async def _view(self, case: Case, *, attempt: int) -> View:
        rules = asked_rules(case)
        ids = [rule.category for rule in rules]
        settings = self.settings
        chosen = select(case.frames, case.scores, ids, settings.budget, seed=case.seed, attempt=attempt)
        frames = await asyncio.to_thread(self._pictures, case, chosen)
        seed = case.seed + attempt
        return View(
            policy=case.policy,
            question=question_for(case, rules, frames, seed=seed, limits=settings.limits),
            frames=frames,
            scores=case.scores,
            seed=seed,
            options=settings.options,
        )

    def _pictures(self, case: Case, chosen: Sequence[int]) -> Any:
        budget = self.settings.budget
        if self._frame_source is not None:
            times = [float(case.frames.pts_seconds[i]) for i in chosen]
            try:
                large = self._frame_source(case.video, times, budget.longest_side_px)
                return shown(large, select(large, (), (), FrameBudget(frames=len(large.pts_seconds))), budget)
            except InputError as error:
                # The screen's own frames are smaller, but they did decode.
                log.warning("second decode of %s failed: %s", case.video.sha256, error.code)
        return shown(case.frames, chosen, budget)

    async def _ask_each(self, view: View) -> dict[str, float | None]:
        """Return the probability of "yes" by rule. The first question runs alone and fills the prefix cache."""
        first, *others = view.question.rules
        found = {first: await self._ask(view, first)}
        found |= dict(zip(others, await asyncio.gather(*(self._ask(view, rule) for rule in others)), strict=True))
        return {rule: found[rule] for rule in view.question.rules}

    async def _ask(self, view: View, rule: str) -> float | None:
        generation = await self.engine.generate(view.scoring(rule))
        return yes_probability(generation.tokens[0]) if generation.tokens else None

    def _clears(self, likelihood: dict[str, float | None], case: Case) -> bool:
        """Whether the yes/no questions alone may clear the video: never against a high screening score."""
        sure = all(p is not None and 1.0 - p >= self.settings.clear_at for p in likelihood.values())
        return sure and not any(is_high(rule, case) for rule in asked_rules(case))

    async def _reason(self, view: View, *, attempt: int) -> Judgement:
        """Ask for a full answer, again where it was malformed: a sample at a higher temperature may not be."""
        made: Judgement | None = None
        spent: list[Judgement] = []
        for retry in range(self.settings.answer_attempts):
            warm = attempt > 0 or retry > 0
            request = view.reasoning(
                max_tokens=self.settings.max_tokens,
                temperature=self.settings.sample_temperature if warm else 0.0,
            )
            generation = await self.engine.generate(request)
            made = answer.parse(generation, view.question, engine=self.name, prompt_hash=request.hash())
            if made.status == "ok" or made.error_code not in RETRYABLE_ANSWERS:
                break
            spent.append(made)
        if made is None:
            raise EngineFailure(FailureCode.INTERNAL, "no answer was asked for")
        return consensus.with_cost_of(made, [p for p in spent if p is not made])

    def _settled(self, judgement: Judgement, likelihood: dict[str, float | None], case: Case) -> bool:
        """Whether one full answer is enough."""
        if judgement.status != "ok":
            return True  # another pass would not make this one usable; its code says what is wrong
        high = {rule.category for rule in asked_rules(case) if is_high(rule, case)}
        for check in judgement.checks:
            sure = check.violated != "unsure" and check.confidence is not None
            if not sure or (check.confidence or 0.0) < self.settings.floor:
                return False
            if check.violated == "no" and check.rule in high:
                return False
            p = likelihood.get(check.rule)
            if p is not None and (p >= 0.5) != (check.violated == "yes"):
                return False
        return True


def _from_likelihood(likelihood: dict[str, float | None], engine: str, prompt_hash: str) -> Judgement:
    """Return a judgement made of yes/no questions alone: labels and confidences, no times and no story."""
    checks = tuple(_likelihood_check(rule, p) for rule, p in likelihood.items())
    violated = tuple(check.rule for check in checks if check.violated == "yes")
    sure = [check.confidence for check in checks if check.confidence is not None]
    reason = f"Asked rule by rule, the model found: {', '.join(violated)}." if violated else ""
    return Judgement(
        status="ok",
        engine=engine,
        checks=checks,
        categories=violated,
        severity=1 if violated else 0,
        confidence=min(sure) if len(sure) == len(checks) else None,
        reason=reason or "Asked rule by rule, the model found no violation.",
        prompt_hash=prompt_hash,
    )


def _likelihood_check(rule: str, p: float | None) -> RuleCheck:
    if p is None:
        return RuleCheck(rule=rule, violated="unsure", why="The model answered neither yes nor no.")
    label: Violated = "yes" if p >= 0.5 else "no"
    return RuleCheck(rule=rule, violated=label, why=f"Probability of a violation {p:.2f}.", confidence=max(p, 1.0 - p))


def from_url(
    url: str,
    *,
    model: str | None = None,
    settings: JudgeSettings | None = None,
    frame_source: FrameSource | None = None,
    **engine_settings: Any,
) -> VlmJudge:
    """Return a judge that asks the OpenAI-compatible server at `url`; without `model`, the only one it serves.

    Without a `frame_source` the VLM sees the frames that the screen was given.
    """
    engine = plugins.load("engine", "vllm_server", base_url=url, model=model, **engine_settings)
    return VlmJudge(engine, settings, frame_source=frame_source)
