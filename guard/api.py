"""The front door: build a guard once, ask it about videos."""

from __future__ import annotations

import importlib
import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from guard import plugins, taxonomy
from guard._version import __version__
from guard.config import Settings, load_settings
from guard.errors import InputError, InvalidConfig
from guard.interfaces import Calibrator, Detector, Judge
from guard.pipeline import Pipeline, Stages
from guard.types import Frames, Policy, Verdict, Video
from guard.verdict import failed

if TYPE_CHECKING:
    from guard.limits import Limits
    from guard.video.sandbox import SandboxedDecoder

DEFAULT_POLICY = "default"
SCREEN_POLICY = "screen"
"""Only the rules that the embedded classifier can judge alone; says so in its description."""


class Guard:
    """Moderates videos under one policy.

    Example:
        >>> with Guard.load() as guard:                      # doctest: +SKIP
        ...     print(guard.check("clip.mp4").decision)
        allow
    """

    def __init__(self, pipeline: Pipeline, settings: Settings, limits: Limits) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.limits = limits

    @classmethod
    def load(cls, settings: Settings | None = None, *, policy: Policy | str | None = None, **overrides: Any) -> Self:
        """Build a guard.

        Args:
            settings: by default those of this process, with `overrides` on top.
            policy: a policy, or the name or path of one; by default what the settings say.

        Raises:
            UsageError: a setting, a part or the policy is not there or not valid.
        """
        settings = settings or load_settings(**overrides)
        if policy is None or isinstance(policy, str):
            policy = load_policy(settings if policy is None else settings.model_copy(update={"policy": policy}))
        limits = limits_of(settings)
        pipeline = Pipeline(_stages(settings, policy, limits), policy, workers=settings.workers, seed=settings.seed)
        return cls(pipeline, settings, limits)

    @property
    def policy(self) -> Policy:
        """The policy that decides."""
        return self.pipeline.policy

    def open(self, source: Path | str | bytes | BinaryIO, *, name: str | None = None) -> Video:
        """Hash `source` and return it as a `Video`. Raises an `InputError` for what cannot be read."""
        from guard.video.source import open_video

        where = Path(source) if isinstance(source, str) else source
        return open_video(where, name=name, limits=self.limits)

    def check(self, source: Path | str | bytes | BinaryIO, *, name: str | None = None) -> Verdict:
        """Return the verdict on one input. Never raises for what the input does wrong: that verdict is `undecided`."""
        try:
            video = self.open(source, name=name)
        except InputError as error:
            shown = name or (str(source) if isinstance(source, str | Path) else "<bytes>")
            return failed(source=shown, sha256=None, policy=self.policy, error=error.info())
        return next(iter(self.check_many([video])))

    def check_many(self, videos: Iterable[Video]) -> Iterator[Verdict]:
        """Yield one verdict per video, in order, decoding ahead in the worker processes."""
        return self.pipeline.check_many(videos)

    def close(self) -> None:
        """Stop the decoder processes and the threads. What is under way fails: nobody waits for a long video."""
        close = getattr(self.pipeline.stages.decoder, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self.pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_policy(settings: Settings) -> Policy:
    """Return the policy that `settings` name; without a name, the widest one that the configured stages can judge."""
    name = settings.policy or (DEFAULT_POLICY if settings.slow_url else SCREEN_POLICY)
    policy: Policy = _upper("policies.load").load_policy(name)
    return policy


def _upper(module: str) -> Any:
    """Import a module of an upper layer by name: `guard` is the bottom layer, and resolves the others at run time."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise plugins.missing_extra(f"The module {module!r}", error.name or module) from error


def limits_of(settings: Settings) -> Limits:
    """Return the limits that `settings` ask for. Raises `InvalidConfig` for a limit that there is not."""
    from guard.limits import Limits

    known = {field.name for field in fields(Limits)}
    unknown = sorted(set(settings.limits) - known)
    if unknown:
        raise InvalidConfig(f"There is no limit {unknown[0]!r}; there are: {', '.join(sorted(known))}.")
    endless = [name for name, value in settings.limits.items() if not math.isfinite(value)]
    if endless:
        raise InvalidConfig(f"limits.{endless[0]} must be finite; got {settings.limits[endless[0]]!r}.")
    return Limits(**{name: type(getattr(Limits(), name))(value) for name, value in settings.limits.items()})


def _stages(settings: Settings, policy: Policy, limits: Limits) -> Stages:
    from guard.video.sampling import SamplingConfig
    from guard.video.sandbox import SandboxedDecoder

    detectors = tuple(d for d in (plugins.load("detector", n) for n in settings.detectors) if _serves(d, policy))
    sampling = SamplingConfig(max_gap_seconds=settings.max_gap_seconds, seed=settings.seed)
    calibration, router = _upper("fast_path.calibration"), _upper("fast_path.router")
    calibrators: dict[str, Calibrator] = calibration.load_calibrators(settings.calibration, detectors)
    decoder = SandboxedDecoder(workers=settings.workers, limits=limits, sampling=sampling, reader=settings.reader)
    return Stages(
        decoder=decoder,
        detectors=detectors,
        router=router.build(
            router.Config(
                thresholds=calibration.merged_thresholds(calibrators),
                # A gap that was asked for is not poor coverage; one far above it is.
                max_gap_seconds=max(router.Config().max_gap_seconds, 2 * settings.max_gap_seconds),
            )
        ),
        calibrators=calibrators,
        judge=_judge(settings, decoder) if settings.slow_url else None,
        versions=versions(detectors, calibrators),
    )


def _serves(detector: Detector, policy: Policy) -> bool:
    """Whether some active rule asks for something that `detector` covers; if not, its cost buys nothing."""
    return any(taxonomy.covers(rule.category, c) for rule in policy.active() for c in detector.categories)


def _judge(settings: Settings, decoder: SandboxedDecoder) -> Judge:
    """Return the slow path over the configured server; its pictures come from a second decode in the sandbox."""

    def frames(video: Video, times_seconds: Sequence[float], longest_side_px: int) -> Frames:
        return decoder.frames_at(video, times_seconds, _short_side(video, longest_side_px))

    engine = plugins.load("engine", "vllm_server", base_url=settings.slow_url, model=settings.slow_model)
    judge: Judge = _upper("slow_path.judge").VlmJudge(engine, frame_source=frames)
    return judge


def _short_side(video: Video, longest_px: int) -> int:
    """Return the short side at which the long one is `longest_px`; never above the video's own, at least 16.

    1920x1080 at 448 gives 252; 320x240 at 448 stays at 240, since enlarging shows nothing more.
    """
    if video.media is None or min(video.media.width, video.media.height) <= 0:
        return longest_px // 2
    short, long = sorted((video.media.width, video.media.height))
    return max(16, min(short, round(longest_px * short / long)))


def versions(detectors: Iterable[Detector], calibrators: Mapping[str, Calibrator]) -> dict[str, str]:
    """Return what made a verdict: code, interpreter, and the fingerprint and calibration of every detector."""
    found = {"video_guard": __version__, "python": platform.python_version()}
    found |= {f"detector:{d.name}": d.fingerprint for d in detectors}
    return found | {f"calibration:{name}": c.id for name, c in calibrators.items()}
