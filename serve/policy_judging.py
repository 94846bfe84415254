"""What `guard policy` asks of the installation: which stages could judge a rule, and verdicts on a golden set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guard.config import Settings
from guard.errors import InputError, InvalidConfig
from guard.types import Policy, Verdict, Video
from guard.verdict import failed
from policies.example_detector import Examples, by_examples
from policies.golden import Judge
from policies.lint import Configured

if TYPE_CHECKING:
    from guard.limits import Limits
    from guard.video.sandbox import SandboxedDecoder


def configured(settings: Settings, policy: Policy | None = None) -> Configured:
    """Return the stages that `settings` configure; detectors are built to ask what they cover.

    With a policy, its examples are embedded, so that a rule is said to be judged by examples only where it is.
    """
    from fast_path.embedder import embedder_of
    from fast_path.evidence import RAISES_ONLY, SHIPPED
    from fast_path.loading import load_detectors
    from fast_path.text import classifier

    detectors = load_detectors(settings.detectors, settings.fast_checkpoint)
    clearing = [detector for detector in detectors if detector.name not in RAISES_ONLY]
    own = [detector for detector in clearing if settings.fast_checkpoint or detector.name not in SHIPPED]
    return Configured(
        covered=tuple(sorted({category for detector in clearing for category in detector.categories})),
        covered_by_own=tuple(sorted({category for detector in own for category in detector.categories})),
        covered_in_text=classifier.build(classifier.Config()).categories,
        open_vocabulary="open_vocabulary" in settings.detectors,
        few_shot=any(embedder_of(detector) is not None for detector in detectors),
        by_examples=None if policy is None else frozenset(prepare(settings, policy).categories),
        slow=settings.slow_url is not None,
    )


def remember(settings: Settings, content: Path | bytes) -> str:
    """Keep what the configured encoder makes of a clip or image, and return its SHA-256.

    An example with that hash is then compared with, though nobody keeps its file: what a service does with content that
    was judged as a job.

    Raises:
        InputError: it cannot be decoded.
        InvalidConfig: no encoder is configured.
        BackendError: the policy store cannot be written.
    """
    from fast_path.loading import load_detectors
    from guard.api import example_sources, limits_of
    from guard.video.source import open_video
    from policies import example_detector

    limits = limits_of(settings)
    loaded = load_detectors(settings.detectors, settings.fast_checkpoint)
    with _decoder(settings, limits) as decoder:
        sources = example_sources(settings, decoder, limits, loaded)
        if not sources.embedders:
            raise InvalidConfig("No configured detector has an encoder.", hint="Add 'tiny' to `detectors`.")
        video = open_video(content, limits=limits)
        for embedder in sources.embedders:
            example_detector.remember(video, embedder, sources)
    return video.sha256


def _decoder(settings: Settings, limits: Limits) -> SandboxedDecoder:
    from guard.video.sampling import SamplingConfig
    from guard.video.sandbox import SandboxedDecoder

    sampling = SamplingConfig(max_gap_seconds=settings.max_gap_seconds, seed=settings.seed)
    return SandboxedDecoder(workers=1, limits=limits, sampling=sampling, reader=settings.reader)


def prepare(settings: Settings, policy: Policy) -> Examples:
    """Embed the examples of `policy` that no scan has seen yet, and say which rules they judge here.

    Embeddings stay in the policy store: the clips may be moved afterwards.
    """
    if not by_examples(policy, ()):
        return Examples()
    from fast_path.loading import load_detectors
    from guard.api import examples_of, limits_of, serves

    limits = limits_of(settings)
    loaded = load_detectors(settings.detectors, settings.fast_checkpoint)
    with _decoder(settings, limits) as decoder:
        used = [detector for detector in loaded if serves(detector, policy)]
        found: Examples = examples_of(settings, policy, decoder, limits, loaded=loaded, used=used)
    return found


def judge(settings: Settings) -> Judge:
    """Return a function that gives one verdict per path under a policy, with the stages of `settings`.

    A path that cannot be read gets its `undecided` verdict in its place.
    """

    def verdicts(paths: Sequence[Path], policy: Policy) -> list[Verdict]:
        from guard.api import Guard

        refused: dict[int, Verdict] = {}
        with Guard.load(settings, policy=policy) as guard:

            def videos() -> Iterator[Video]:
                for index, path in enumerate(paths):
                    try:
                        yield guard.open(path.absolute(), name=str(path))
                    except InputError as error:
                        refused[index] = failed(source=str(path), sha256=None, policy=policy, error=error.info())

            judged = iter(list(guard.check_many(videos())))
        return [refused[index] if index in refused else next(judged) for index in range(len(paths))]

    return verdicts
