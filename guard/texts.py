"""The way of a text: screen, route, ask the slow path, decide. Sees Protocols only, like the pipeline of videos."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import Protocol

from guard.background import BackgroundLoop
from guard.errors import DetectorFailed, GuardError, VlmUnavailable
from guard.slow_outcome import slow_error
from guard.types import ErrorInfo, Judgement, Policy, Verdict
from guard.verdict import Evidence, decide, failed

log = logging.getLogger(__name__)


class TextScreener(Protocol):
    """Scores and routes texts."""

    def evidence(self, texts: Sequence[str], policy: Policy, *, source: str = "text") -> list[Evidence]:
        """Return what is known of each text before a slow path."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCase:
    """One text before the slow path: everything a judge may look at."""

    text: str
    evidence: Evidence
    policy: Policy
    """The effective policy; its exemplars are the demonstrations to show, in order."""
    seed: int = 0


class TextJudge(Protocol):
    """The slow path for texts: a language model asked about each rule in question."""

    @property
    def name(self) -> str:
        """Engine and model, as verdicts show it."""
        ...

    async def judge(self, cases: Sequence[TextCase]) -> list[Judgement]:
        """Judge a batch. Never raises for one case: a failure is a `Judgement` with a status and an error code."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStages:
    """The parts that texts go through."""

    screener: TextScreener
    judge: TextJudge | None = None
    demonstrate: Callable[[str, Policy], Policy] = field(default=lambda text, policy: policy)
    """Puts the exemplars that suit a text first; by default they stay as they are."""
    judge_deadline_seconds: float = 120.0
    versions: Mapping[str, str] = field(default_factory=dict)


class TextGuard:
    """Moderates texts. Calls from several threads are safe; close it once none is under way."""

    def __init__(self, stages: TextStages, *, seed: int = 0) -> None:
        self.stages = stages
        self._seed = seed
        self._loop = BackgroundLoop() if stages.judge is not None else None

    def close(self) -> None:
        """Give back what the slow path holds."""
        if self._loop is None or self.stages.judge is None:
            return
        try:
            self._loop.submit(self.stages.judge.close()).result(timeout=5)
        except Exception:
            log.warning("the slow path's connections were not closed", exc_info=True)
        self._loop.close()

    def check(self, texts: Sequence[str], policy: Policy, *, source: str = "text") -> list[Verdict]:
        """Return one verdict per text, in order. A text at fault is `undecided` and the others go on.

        Raises:
            TypeError: an element is not a `str`.
        """
        started = time.perf_counter()
        try:
            found: list[Evidence] = self.stages.screener.evidence(texts, policy, source=source)
        except TypeError:
            raise
        except Exception as error:
            if len(texts) > 1:  # one of them is at fault: find out which
                return [verdict for text in texts for verdict in self.check([text], policy, source=source)]
            return [self._failed(error, policy, source)]
        screen_ms = (time.perf_counter() - started) * 1e3 / max(1, len(texts))
        asked = [self._ask(text, evidence) for text, evidence in zip(texts, found, strict=True)]
        return [self._decide(evidence, judgement, screen_ms) for evidence, judgement in zip(found, asked, strict=True)]

    def _ask(self, text: str, evidence: Evidence) -> Future[list[Judgement]] | ErrorInfo | None:
        """Return the judgement on its way, or why it could not be asked for: one text costs no other its verdict."""
        judge = self.stages.judge
        if judge is None or self._loop is None or evidence.route.path == "fast":
            return None
        try:
            policy = self.stages.demonstrate(text, evidence.policy)
            case = TextCase(text=text, evidence=evidence, policy=policy, seed=self._seed)
            return self._loop.submit(judge.judge([case]))
        except GuardError as error:
            return error.info()
        except Exception:
            log.exception("the slow path could not be asked about a text")
            return VlmUnavailable("The slow path could not be asked; the log has the details.").info()

    def _decide(
        self, evidence: Evidence, asked: Future[list[Judgement]] | ErrorInfo | None, screen_ms: float
    ) -> Verdict:
        timings = {"screen": round(screen_ms, 2)}
        if isinstance(asked, ErrorInfo):
            evidence = replace(evidence, slow_error=asked)
        elif asked is not None:
            started = time.perf_counter()
            judgement, error = self._answer(asked)
            evidence = replace(evidence, judgement=judgement, slow_error=error)
            timings["slow_wait"] = round((time.perf_counter() - started) * 1e3, 2)
        return replace(decide(evidence), versions=self.stages.versions, timings_ms=timings)

    def _answer(self, asked: Future[list[Judgement]]) -> tuple[Judgement | None, ErrorInfo | None]:
        """Return the judgement, and why it settles nothing where it does not."""
        seconds = self.stages.judge_deadline_seconds
        try:
            judgement = asked.result(timeout=seconds)[0]
        except (FutureTimeout, CancelledError):
            asked.cancel()
            return None, VlmUnavailable(f"The slow path gave no answer within {seconds:.0f} s.").info()
        except GuardError as error:
            return None, error.info()
        except Exception:
            log.exception("the slow path failed on a text")
            return None, VlmUnavailable("The slow path failed.").info()
        return judgement, slow_error(judgement)

    def _failed(self, error: Exception, policy: Policy, source: str) -> Verdict:
        if not isinstance(error, GuardError):
            log.error("screening of a text failed", exc_info=error)
            error = DetectorFailed("An unexpected error stopped the screening; the log has the details.")
        verdict = failed(source=source, sha256=None, policy=policy, error=error.info())
        return replace(verdict, versions=self.stages.versions)
