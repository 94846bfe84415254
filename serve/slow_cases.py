"""From a file on disk to what the slow path would be given of it: for traces, fine-tuning and calibration.

A file takes the way of a scan (sandbox, detectors, calibration, second decode at the size of the VLM's frames), with
one difference: everything is in question, so every active rule of the policy is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from guard.api import Guard
from guard.config import Settings
from guard.errors import error_for_code
from guard.interfaces import Case, Router
from guard.pipeline import Pipeline
from guard.types import Coverage, Judgement, Policy, Route, Scores, Video
from guard.video.sandbox import SandboxedDecoder
from slow_path.frames import select
from slow_path.settings import JudgeSettings


@dataclass(slots=True)
class _Recorder:
    """A judge that keeps the cases and answers none."""

    name: str = "recorder"
    fingerprint: str = ""
    cases: dict[str, list[Case]] = field(default_factory=dict)

    async def judge(self, cases: Sequence[Case]) -> list[Judgement]:
        for case in cases:
            self.cases.setdefault(case.video.sha256, []).append(case)
        return [Judgement(status="generation_error", engine=self.name, error_code="vlm_unavailable") for _ in cases]


@dataclass(frozen=True, slots=True)
class _Escalating:
    """A router that asks the slow path about every active rule."""

    inner: Router

    def route(self, scores: Sequence[Scores], policy: Policy, coverage: Coverage) -> Route:
        return replace(self.inner.route(scores, policy, coverage), path="slow", uncertain=())


def escalating(router: Router) -> Router:
    """Return `router` with every video sent to the slow path and every active rule in question."""
    return _Escalating(router)


class CaseLoader:
    """Decodes and screens files. Safe to use from several threads; close it, or use it as a context manager."""

    def __init__(self, settings: Settings, budget: JudgeSettings) -> None:
        """Build the stages that `settings` name; frames are chosen and sized as `budget` says."""
        policy = settings.policy or "default"
        self._guard = Guard.load(settings.model_copy(update={"slow_url": None, "policy": policy}))
        self._recorder = _Recorder()
        stages = self._guard.pipeline.stages
        self._decoder = cast(SandboxedDecoder, stages.decoder)
        self._pipeline = Pipeline(
            replace(stages, judge=self._recorder, router=escalating(stages.router)),
            self._guard.policy,
            workers=settings.workers,
            seed=settings.seed,
        )
        self._budget = budget.budget

    @property
    def policy(self) -> Policy:
        """The policy whose rules are asked."""
        return self._guard.policy

    def case(self, path: Path, *, times_seconds: Sequence[float] | None = None) -> Case:
        """Return the case of `path`, with the frames that a judge would show, or with those at `times_seconds`.

        Raises:
            GuardError: it cannot be read, decoded or screened; the class says why.
        """
        video = self._guard.open(path, name=str(path))
        verdict = next(iter(self._pipeline.check_many([video])))
        kept = self._recorder.cases.get(video.sha256)
        if not kept:
            info = verdict.error
            message = info.message if info else "It was not screened."
            raise error_for_code(info.code if info else "internal")(message)
        case = kept.pop()
        chosen = select(case.frames, case.scores, [r.category for r in case.policy.active()], self._budget, seed=0)
        times = [float(case.frames.pts_seconds[i]) for i in chosen] if times_seconds is None else list(times_seconds)
        return replace(case, frames=self._decoder.frames_at(case.video, times, self._side(case.video)))

    def _side(self, video: Video) -> int:
        """Return the short side at which the long one is that of the budget; never above the video's own."""
        if video.media is None:
            return self._budget.longest_side_px
        short, long = sorted((video.media.width, video.media.height))
        return max(16, min(short, round(self._budget.longest_side_px * short / max(long, 1))))

    def close(self) -> None:
        """Stop the decoder processes and the threads."""
        self._guard.close()
        self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
