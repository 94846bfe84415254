"""The front door: build a guard once, ask it about videos."""

from __future__ import annotations

import importlib
import logging
import math
import platform
import threading
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
from guard.texts import TextGuard, TextJudge, TextStages
from guard.types import Frames, Policy, Verdict, Video
from guard.verdict import failed

if TYPE_CHECKING:
    from guard.limits import Limits
    from guard.video.sandbox import SandboxedDecoder

log = logging.getLogger(__name__)

DEFAULT_POLICY = "default"
SCREEN_POLICY = "screen"
"""Only the rules that the embedded classifier can judge alone; says so in its description."""
SCREEN_TEXT_POLICY = "screen-text"
"""The same for texts: used where no policy was asked for and no slow path is configured."""


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
        self._texts: TextGuard | None = None
        self._own_text_policy: Policy | None = None
        self._text_lock = threading.Lock()

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
        chosen = policy is not None or settings.policy is not None or settings.slow_url is not None
        if policy is None or isinstance(policy, str):
            policy = load_policy(settings if policy is None else settings.model_copy(update={"policy": policy}))
        limits = limits_of(settings)
        pipeline = Pipeline(_stages(settings, policy, limits), policy, workers=settings.workers, seed=settings.seed)
        made = cls(pipeline, settings, limits)
        if not chosen:
            made._own_text_policy = load_named(SCREEN_TEXT_POLICY)
        return made

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

    def check_text(self, text: str, policy: Policy | str | None = None, *, name: str = "text") -> Verdict:
        """Return the verdict on one text: a title, caption, comment, or words seen or heard.

        The same thresholds, routing and decision as for videos; what the embedded classifier cannot settle goes to
        the slow path where one is configured, and is `review` where none is. Safe to call from several threads.

        Args:
            text: the text; nothing in it raises, and what cannot be read is never `allow`.
            policy: a policy, or the name or path of one; None takes the guard's own. A guard that was given no policy
                and no slow path judges texts under `screen-text`, since its own `screen` says nothing of texts.
            name: how the verdict calls the text.

        Raises:
            TypeError: `text` is not a `str`.
            UsageError: there is no such policy.
        """
        return self.check_texts([text], policy, name=name)[0]

    def check_texts(
        self, texts: Sequence[str], policy: Policy | str | None = None, *, name: str = "text"
    ) -> list[Verdict]:
        """Return one verdict per text, in order: see `check_text`."""
        return self._text_guard().check(texts, self.text_policy(policy), source=name)

    def text_policy(self, policy: Policy | str | None = None) -> Policy:
        """Return the policy that decides on texts. Raises `UsageError` where there is none of that name."""
        if isinstance(policy, Policy):
            return policy
        if policy is not None:
            return load_named(policy)  # read each time: a layer may have changed since
        return self._own_text_policy or self.policy

    def _text_guard(self) -> TextGuard:
        """Build the text stages on first use: most guards see no text."""
        with self._text_lock:
            if self._texts is None:
                self._texts = TextGuard(_text_stages(self.settings), seed=self.settings.seed)
            return self._texts

    def close(self) -> None:
        """Stop the decoder processes and the threads. What is under way fails: nobody waits for a long video."""
        close = getattr(self.pipeline.stages.decoder, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self.pipeline.close()
            if self._texts is not None:
                self._texts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_policy(settings: Settings) -> Policy:
    """Return the policy that `settings` name; without a name, the widest one that the configured stages can judge."""
    return load_named(policy_name(settings))


def policy_name(settings: Settings) -> str:
    """Return which policy `settings` name, or the one that is taken where they name none."""
    return settings.policy or (DEFAULT_POLICY if settings.slow_url else SCREEN_POLICY)


def load_named(name: str) -> Policy:
    """Return a policy by name or path. Raises `PolicyNotFound` or `InvalidPolicy`."""
    policy: Policy = _upper("policies.load").load_policy(name)
    return policy


def _text_stages(settings: Settings) -> TextStages:
    classifier, screen = _upper("fast_path.text.classifier"), _upper("fast_path.text.screen")
    screener = screen.build(classifier.Config(), widened=_upper("policies.wording").widened)
    judge: TextJudge | None = None
    if settings.slow_url:
        judge = _upper("slow_path.text_judge").from_url(settings.slow_url, model=settings.slow_model)
    return TextStages(
        screener=screener,
        judge=judge,
        demonstrate=_upper("policies.demonstrate").for_text,
        versions=versions([screener.classifier], {screener.classifier.name: screener.calibrator}),
    )


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

    loaded = _upper("fast_path.loading").load_detectors(settings.detectors, settings.fast_checkpoint)
    detectors = tuple(d for d in loaded if serves(d, policy))
    sampling = SamplingConfig(max_gap_seconds=settings.max_gap_seconds, seed=settings.seed)
    calibration, router = _upper("fast_path.calibration"), _upper("fast_path.router")
    calibrators: dict[str, Calibrator] = calibration.load_calibrators(
        settings.calibration, detectors, loaded=loaded, max_gap_seconds=settings.max_gap_seconds
    )
    decoder = SandboxedDecoder(workers=settings.workers, limits=limits, sampling=sampling, reader=settings.reader)
    examples = examples_of(settings, policy, decoder, limits, loaded=loaded, used=detectors)
    for problem in examples.problems:
        log.warning("%s", problem)
    detectors += (examples.detector,) if examples.detector is not None else ()
    judge = _judge(settings, decoder) if settings.slow_url else None
    judged_by = {"slow_path:settings": judge.fingerprint} if judge is not None else {}
    return Stages(
        decoder=decoder,
        detectors=detectors,
        router=router.build(
            router.Config(
                thresholds=calibration.merged_thresholds(calibrators),
                # A gap that was asked for is not poor coverage; one far above it is.
                max_gap_seconds=max(router.Config().max_gap_seconds, 2 * settings.max_gap_seconds),
                widened=_upper("policies.wording").widened,
                # Weights in the place of the shipped ones were trained on labels of the user's own.
                shipped=frozenset() if settings.fast_checkpoint else router.Config().shipped,
            )
        ),
        calibrators=calibrators,
        judge=judge,
        versions=versions(detectors, calibrators) | judged_by,
    )


def examples_of(
    settings: Settings,
    policy: Policy,
    decoder: SandboxedDecoder,
    limits: Limits,
    *,
    loaded: Sequence[Detector],
    used: Sequence[Detector],
) -> Any:
    """Return `policies.example_detector.Examples`: the rules that examples alone can judge, and what stands against."""
    examples = _upper("policies.example_detector")
    covered = {category for detector in used for category in detector.categories}
    if not loaded or not examples.by_examples(policy, covered):
        return examples.Examples()
    return examples.from_policy(policy, example_sources(settings, decoder, limits, loaded), covered=covered)


def example_sources(settings: Settings, decoder: SandboxedDecoder, limits: Limits, loaded: Sequence[Detector]) -> Any:
    """Return `policies.example_detector.Sources`: encoders of the detectors, and where clips and embeddings are."""
    from guard.video.source import open_video

    examples, embedder_of = _upper("policies.example_detector"), _upper("fast_path.embedder").embedder_of
    return examples.Sources(
        embedders=[embedder for detector in loaded if (embedder := embedder_of(detector)) is not None],
        decoder=decoder,
        open_video=lambda path: open_video(path, limits=limits),
        store=_upper("policies.exemplar_store").ExemplarStore(_upper("policies.store").default_path(settings)),
        background=settings.background,
        slow=settings.slow_url is not None,
    )


def serves(detector: Detector, policy: Policy) -> bool:
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
