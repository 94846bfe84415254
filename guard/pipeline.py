"""The straight way of a video: decode, screen, route, ask the slow path, decide. Sees Protocols only.

Each video under way has a thread, which scores the frames that its decoder process sends; the slow path waits on its
own event loop. Results come in input order. How many inputs are under way is bounded, and so is what each one holds:
memory grows neither with their number nor with their length.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from itertools import groupby

from guard.background import BackgroundLoop
from guard.errors import DetectorFailed, GuardError, InputError, VlmUnavailable
from guard.interfaces import Calibrator, Case, Decoder, Detector, Fed, Judge, Router, SamplingNeeds
from guard.known import known_rules, settled
from guard.screening import Screening
from guard.slow_outcome import slow_error
from guard.types import Coverage, ErrorInfo, Frames, Judgement, MediaInfo, Pass, Policy, Route, Scores, Verdict, Video
from guard.verdict import Evidence, decide, failed

log = logging.getLogger(__name__)

SLOW_WINDOW = 32
"""Videos that may wait for the slow path at once; each holds its frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The parts that a pipeline drives."""

    decoder: Decoder
    detectors: tuple[Detector, ...]
    router: Router
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    """By detector name; a detector without one gives raw scores."""
    judge: Judge | None = None
    judge_deadline_seconds: float = 120.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """One video after the fast path."""

    video: Video
    """With its media facts."""
    frames: Frames
    """A thinned sample, for the slow path."""
    coverage: Coverage
    """Of the frames that were scored, by the first pass or by one that broke off."""
    passes: tuple[Pass, ...]
    scores: tuple[Scores, ...]
    route: Route
    errors: tuple[ErrorInfo, ...]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A verdict that is ready, or a screened video whose judgement is on its way."""

    verdict: Verdict | None = None
    screened: Screened | None = None
    judgement: Future[list[Judgement]] | None = None
    asked_at: float = 0.0
    """When the judgement was asked for, by `time.monotonic`."""


class Pipeline:
    """Drives videos through the stages under one policy. Close it, or use it as a context manager by way of `Guard`."""

    def __init__(self, stages: Stages, policy: Policy, *, workers: int, seed: int = 0) -> None:
        self.stages = stages
        self.policy = policy
        self._workers = workers
        self._seed = seed
        # Without a detector that knows the policy's rules the slow path still needs frames to look at.
        self._needs = merge_needs([d.needs for d in stages.detectors]) or (SamplingNeeds(),)
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="guard-screen")
        self._loop = BackgroundLoop() if stages.judge is not None else None

    def close(self) -> None:
        """End the threads, and the judge's connections, which belong to the loop; the caller owns the other stages."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._loop is not None:
            self._close_judge(self._loop)
            self._loop.close()

    def _close_judge(self, loop: BackgroundLoop) -> None:
        close = getattr(self.stages.judge, "close", None)
        if close is None:
            return
        try:
            loop.submit(close()).result(timeout=5)
        except Exception:
            log.warning("the slow path's connections were not closed", exc_info=True)

    def check_many(self, videos: Iterable[Video]) -> Iterator[Verdict]:
        """Yield one verdict per video, in order. A video at fault yields `undecided` and the others go on."""
        waiting: deque[_Waiting] = deque()
        for video, future in self._screen_ahead(videos):
            waiting.append(self._escalate(video, future))
            while waiting and (len(waiting) > SLOW_WINDOW or _is_ready(waiting[0])):
                yield self._finish(waiting.popleft())
        while waiting:
            yield self._finish(waiting.popleft())

    def _screen_ahead(self, videos: Iterable[Video]) -> Iterator[tuple[Video, Future[Screened]]]:
        """Keep every decoder busy with one video waiting behind it, and no more."""
        ahead: deque[tuple[Video, Future[Screened]]] = deque()
        for video in videos:
            ahead.append((video, self._threads.submit(self._screen, video)))
            if len(ahead) > self._workers + 1:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()

    def _escalate(self, video: Video, future: Future[Screened]) -> _Waiting:
        try:
            screened = future.result()
        except GuardError as error:
            return _Waiting(verdict=self._failed(video, error.info()))
        except Exception:
            log.exception("screening of %s failed", video.sha256)
            failure = DetectorFailed("An unexpected error stopped the screening; the log has the details.")
            return _Waiting(verdict=self._failed(video, failure.info()))
        judge = self.stages.judge
        if screened.route.path == "fast" or judge is None or self._loop is None:
            return _Waiting(verdict=self._decide(screened, None, None))
        try:
            judgement = self._loop.submit(judge.judge([self._case(screened)]))
        except GuardError as error:
            return _Waiting(verdict=self._decide(screened, None, error.info()))
        except Exception:
            log.exception("the slow path could not be asked about %s", video.sha256)
            unasked = VlmUnavailable("The slow path could not be asked; the log has the details.")
            return _Waiting(verdict=self._decide(screened, None, unasked.info()))
        return _Waiting(screened=screened, judgement=judgement, asked_at=time.monotonic())

    def _case(self, screened: Screened) -> Case:
        return Case(
            video=screened.video,
            media=_media(screened.video),
            frames=screened.frames,
            scores=screened.scores,
            route=screened.route,
            policy=self.policy,
            seed=self._seed,
        )

    def _screen(self, video: Video) -> Screened:
        """Decode and score one video; runs in a thread of its own, beside its decoder process."""
        started = time.perf_counter()
        scores: list[Scores] = []
        errors: list[ErrorInfo] = []
        passes: list[tuple[Screening, Fed, Pass]] = []
        for need in self._needs:
            served = [d for d in self.stages.detectors if self._needs[need_index(d.needs, self._needs)] == need]
            screening = Screening(served, self.stages.calibrators, video.sha256)
            fed = self.stages.decoder.feed(video, need, screening)
            scores += screening.finish(fed.coverage)
            errors += screening.errors
            passes.append((screening, fed, Pass(detectors=tuple(d.name for d in served), coverage=fed.coverage)))
        first, fed, _ = passes[0]
        # A pass that broke off speaks for all: the detectors that it served saw less than the others.
        coverage = next((one.coverage for _, _, one in passes if not one.coverage.complete), fed.coverage)
        decode_ms = sum(done.cpu_seconds for _, done, _ in passes) * 1e3
        known = settled(scores, known_rules(video.sha256, self.policy))
        route = self.stages.router.route(known, self.policy, coverage)
        return Screened(
            video=fed.video,
            frames=first.frames(fed.coverage),
            coverage=coverage,
            passes=tuple(one for _, _, one in passes),
            scores=known,
            route=route,
            errors=tuple(errors),
            timings_ms={
                "decode_cpu": round(decode_ms, 2),
                "screen": round((time.perf_counter() - started) * 1e3, 2),
            },
        )

    def _finish(self, waiting: _Waiting) -> Verdict:
        if waiting.verdict is not None:
            return waiting.verdict
        if waiting.screened is None or waiting.judgement is None:
            raise RuntimeError("a waiting video has neither verdict nor judgement")
        started = time.perf_counter()
        try:
            # Counted from the question: a server that hangs costs its deadline once, not once for each video in line.
            left = waiting.asked_at + self.stages.judge_deadline_seconds - time.monotonic()
            judgement = waiting.judgement.result(timeout=max(0.0, left))[0]
        except (FutureTimeout, CancelledError):
            waiting.judgement.cancel()
            seconds = self.stages.judge_deadline_seconds
            late = VlmUnavailable(f"The slow path gave no answer within {seconds:.0f} s.")
            return self._decide(waiting.screened, None, late.info())
        except GuardError as error:
            return self._decide(waiting.screened, None, error.info())
        except Exception:
            log.exception("the slow path failed on %s", waiting.screened.video.sha256)
            return self._decide(waiting.screened, None, VlmUnavailable("The slow path failed.").info())
        waited_ms = (time.perf_counter() - started) * 1e3
        return self._decide(waiting.screened, judgement, slow_error(judgement), slow_wait_ms=waited_ms)

    def _decide(
        self,
        screened: Screened,
        judgement: Judgement | None,
        slow_error: ErrorInfo | None,
        *,
        slow_wait_ms: float | None = None,
    ) -> Verdict:
        verdict = decide(
            Evidence(
                video=screened.video,
                policy=self.policy,
                scores=screened.scores,
                route=screened.route,
                coverage=screened.coverage,
                passes=screened.passes,
                judgement=judgement,
                slow_error=slow_error,
                errors=screened.errors,
            )
        )
        timings = dict(screened.timings_ms) | ({} if slow_wait_ms is None else {"slow_wait": round(slow_wait_ms, 2)})
        return replace(verdict, versions=self.stages.versions, timings_ms=timings)

    def _failed(self, video: Video, error: ErrorInfo) -> Verdict:
        verdict = failed(source=video.source, sha256=video.sha256, policy=self.policy, error=error, media=video.media)
        return replace(verdict, versions=self.stages.versions)


def merge_needs(needs: Sequence[SamplingNeeds]) -> tuple[SamplingNeeds, ...]:
    """Return the decodes to make: one sample that serves every sampling detector, and one pass per every-frame need.

    The sample comes first where there is one. Detectors whose bursts differ in length or spacing cannot share a sample.
    """
    sampled = sorted({n for n in needs if not n.every_frame}, key=_burst_shape)
    shared = tuple(_widest(list(group)) for _, group in groupby(sampled, key=_burst_shape))
    return shared + tuple(dict.fromkeys(n for n in needs if n.every_frame))


def need_index(need: SamplingNeeds, merged: Sequence[SamplingNeeds]) -> int:
    """Return which of the `merged` decodes serves `need`."""
    for index, have in enumerate(merged):
        if have == need or (not need.every_frame and not have.every_frame and _burst_shape(have) == _burst_shape(need)):
            return index
    raise ValueError(f"no decode serves {need}; there are {list(merged)}")


def _burst_shape(need: SamplingNeeds) -> tuple[int, float]:
    return need.burst_frames, need.burst_spacing_seconds


def _widest(group: Sequence[SamplingNeeds]) -> SamplingNeeds:
    return replace(group[0], side_px=max(n.side_px for n in group), min_bursts=max(n.min_bursts for n in group))


def _is_ready(waiting: _Waiting) -> bool:
    return waiting.judgement is None or waiting.judgement.done()


def _media(video: Video) -> MediaInfo:
    if video.media is None:
        raise InputError("The decoder gave no media facts.")
    return video.media
