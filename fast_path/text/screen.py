"""Take texts through the same calibration, route and verdict as videos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from fast_path import router
from fast_path.calibration import FileCalibrator
from fast_path.calibration_file import CalibrationFile
from fast_path.text import classifier, model
from fast_path.text.classifier import TextClassifier, TextScores
from fast_path.text.normalise import normalise
from guard.interfaces import Calibrator, Router
from guard.known import settled
from guard.types import Judgement, Policy, Verdict, Video
from guard.verdict import Evidence, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Screener:
    """Classifier, calibration and router of texts."""

    classifier: TextClassifier
    calibrator: Calibrator
    router: Router

    def evidence(self, texts: Sequence[str], policy: Policy, *, source: str = "text") -> list[Evidence]:
        """Return what is known of each text before a slow path: ready for `guard.verdict.decide`."""
        scored = self.classifier.score(texts)
        return [self._evidence(text, one, policy, source) for text, one in zip(texts, scored, strict=True)]

    def screen(
        self,
        texts: Sequence[str],
        policy: Policy,
        *,
        judgements: Sequence[Judgement | None] | None = None,
        source: str = "text",
    ) -> list[Verdict]:
        """Return the verdict of each text; without a judgement, what screening leaves open is never `allow`."""
        found = self.evidence(texts, policy, source=source)
        return [
            decide(_with(one, answer)) for one, answer in zip(found, judgements or [None] * len(found), strict=True)
        ]

    def _evidence(self, text: str, scored: TextScores, policy: Policy, source: str) -> Evidence:
        calibrated = self.calibrator.apply(scored.scores)
        scores = settled((calibrated,), known_texts(text, policy))
        return Evidence(
            video=as_input(text, source=source),
            policy=policy,
            scores=scores,
            route=self.router.route(scores, policy, scored.coverage),
            coverage=scored.coverage,
        )


def build(
    config: classifier.Config, *, widened: Callable[[Policy], frozenset[str]] = lambda policy: frozenset()
) -> Screener:
    """Load classifier and calibration from one checkpoint folder.

    Args:
        config: settings of the classifier.
        widened: the rules whose words say more than the shipped weights were trained on; see `router.Config`.

    Raises:
        InvalidConfig: the checkpoint is not usable.
        CalibrationMismatch: the calibration is not readable, or was fitted for other weights.
    """
    built = classifier.build(config)
    folder = config.folder or Path(str(resources.files("fast_path").joinpath("weights", "text")))
    calibrator = FileCalibrator(CalibrationFile.load(folder / model.CALIBRATION))
    return Screener(
        classifier=built,
        calibrator=calibrator,
        router=router.build(
            router.Config(
                thresholds=calibrator.thresholds,
                widened=widened,
                shipped=frozenset({built.name} if config.folder is None else ()),
            )
        ),
    )


def known_texts(text: str, policy: Policy) -> tuple[str, ...]:
    """Return the active rules that have this very text, disguises undone, as an example of a violation, and not as one
    of none.

    Examples of texts that only resemble it are left to a language model: n-grams of a few texts tell little.
    """
    words = normalise(text).words
    found = []
    for rule in policy.active() if words else ():
        texts = [e for e in rule.exemplars if e.text and not (e.source or e.sha256)]
        labels = {e.violates for e in texts if _words(e.text) == words}
        found += [rule.category] * (labels == {True})
    return tuple(found)


@lru_cache(maxsize=4096)
def _words(text: str) -> str:
    return normalise(text).words


def as_input(text: str, *, source: str = "text") -> Video:
    """Return the text as an input value, with the hash of its UTF-8 bytes; lone surrogates are kept apart."""
    data = text.encode("utf-8", "surrogatepass")
    return Video(source=source, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def _with(evidence: Evidence, judgement: Judgement | None) -> Evidence:
    return Evidence(
        video=evidence.video,
        policy=evidence.policy,
        scores=evidence.scores,
        route=evidence.route,
        coverage=evidence.coverage,
        judgement=judgement,
    )
