"""What `guard policy` asks of the installation: which stages could judge a rule, and verdicts on a golden set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from guard.config import Settings
from guard.errors import InputError
from guard.types import Policy, Verdict, Video
from guard.verdict import failed
from policies.example_detector import Examples, by_examples
from policies.golden import Judge
from policies.lint import Configured


def configured(settings: Settings, policy: Policy | None = None) -> Configured:
    """Return the stages that `settings` configure; detectors are built to ask what they cover.

    With a policy, its examples are embedded, so that a rule is said to be judged by examples only where it is.
    """
    from fast_path.embedder import embedder_of
    from fast_path.loading import load_detectors
    from fast_path.text import classifier

    detectors = load_detectors(settings.detectors, settings.fast_checkpoint)
    return Configured(
        covered=tuple(sorted({category for detector in detectors for category in detector.categories})),
        covered_in_text=classifier.build(classifier.Config()).categories,
        open_vocabulary="open_vocabulary" in settings.detectors,
        few_shot=any(embedder_of(detector) is not None for detector in detectors),
        by_examples=None if policy is None else frozenset(prepare(settings, policy).categories),
        slow=settings.slow_url is not None,
    )


def prepare(settings: Settings, policy: Policy) -> Examples:
    """Embed the examples of `policy` that no scan has seen yet, and say which rules they judge here.

    Embeddings stay in the policy store: the clips may be moved afterwards.
    """
    if not by_examples(policy, ()):
        return Examples()
    from fast_path.loading import load_detectors
    from guard.api import examples_of, limits_of, serves
    from guard.video.sampling import SamplingConfig
    from guard.video.sandbox import SandboxedDecoder

    limits = limits_of(settings)
    loaded = load_detectors(settings.detectors, settings.fast_checkpoint)
    sampling = SamplingConfig(max_gap_seconds=settings.max_gap_seconds, seed=settings.seed)
    with SandboxedDecoder(workers=1, limits=limits, sampling=sampling, reader=settings.reader) as decoder:
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
