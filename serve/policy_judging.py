"""What `guard policy` asks of the installation: which stages could judge a rule, and verdicts on a golden set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from guard import plugins
from guard.config import Settings
from guard.errors import InputError
from guard.types import Policy, Verdict, Video
from guard.verdict import failed
from policies.golden import Judge
from policies.lint import Configured


def configured(settings: Settings) -> Configured:
    """Return the stages that `settings` configure; detectors are built to ask what they cover."""
    detectors = [plugins.load("detector", name) for name in settings.detectors]
    return Configured(
        covered=tuple(sorted({category for detector in detectors for category in detector.categories})),
        open_vocabulary="open_vocabulary" in settings.detectors,
        slow=settings.slow_url is not None,
    )


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
