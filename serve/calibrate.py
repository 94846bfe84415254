"""Score the clips of a manifest as a scan would, and fit a calibration to what the detector said of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fast_path import provenance
from fast_path.calibrate import CalibrationSet, calibrate, label_matrix
from fast_path.calibration_file import CalibrationFile
from fast_path.dataset import Row, read_manifest
from fast_path.loading import CLASSIFIERS, load_detectors
from fast_path.risk import Guarantee
from guard.config import Settings
from guard.errors import GuardError, InvalidManifest, UsageError
from guard.interfaces import Detector
from guard.screening import Screening
from guard.types import ErrorInfo, Float32Array
from guard.video.sampling import SamplingConfig
from guard.video.sandbox import SandboxedDecoder
from guard.video.source import open_video

Step = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the thresholds shall promise; see `fast_path.calibrate.calibrate`."""

    fnr: float | None = None
    fpr: float | None = None
    budget: float | None = None
    guarantee: Guarantee = "expected"
    delta: float = 0.1
    escalate_unproven: bool = False
    only: tuple[str, ...] = ()
    never_block: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse before hours of scoring what would be refused after."""
        if (self.fnr is None) != (self.fpr is None):
            raise UsageError("--fnr and --fpr belong together: give both, or --budget alone.")
        if self.fnr is None and self.budget is None:
            raise UsageError("Say what to calibrate for: --fnr and --fpr, or --budget.")
        for name in ("fnr", "fpr", "budget", "delta"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise UsageError(f"--{name} must be between 0 and 1, both excluded; got {value!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscored:
    """A clip that gave no whole score."""

    path: str
    error: ErrorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a detector said of the clips of a split."""

    data: CalibrationSet
    unscored: tuple[Unscored, ...]


def detector_of(name: str | None, folder: Path | None) -> Detector:
    """Return a detector by name, or the one that a checkpoint of `guard train fast` makes.

    A checkpoint says nothing of a detector that runs none, such as `flash`.

    Raises:
        UnknownPart: there is no such detector.
        InvalidConfig: the checkpoint is absent or does not fit.
    """
    name = name or "tiny"
    (detector,) = load_detectors([name], folder if name in CLASSIFIERS else None)
    return detector


def check_categories(detector: Detector, target: Target) -> None:
    """Raise `UsageError` for a category that the detector does not score, before anything is scored."""
    for option, names in (("--category", target.only), ("--never-block", target.never_block)):
        for name in names:
            if name not in detector.categories:
                raise UsageError(f"{option} {name}: {detector.name} scores {', '.join(detector.categories)}.")


def rows_of(manifest: Path, split: str) -> list[Row]:
    """Return the clips of one split.

    Raises:
        InvalidManifest: there are none, or one is a stretch of a longer video, which a scan would not see alone.
    """
    rows = read_manifest(manifest)
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        splits = ", ".join(sorted({row.split for row in rows}))
        raise InvalidManifest(f"{manifest} has no clips in the split {split!r}; it has: {splits}.")
    part = next((row for row in chosen if row.start_seconds or row.end_seconds is not None), None)
    if part is not None:
        raise InvalidManifest(
            f"{manifest}: {part.path.name} is labelled for a stretch of it; calibration scores whole files.",
            hint="Cut such stretches into files of their own.",
        )
    return chosen


def check_unseen(rows: Sequence[Row], name: str | None, folder: Path | None) -> int:
    """Return how many of `rows` helped to stop the training of the checkpoint in `folder` (None: the shipped one).

    Raises:
        InvalidManifest: some were trained on, so that scores of them prove nothing.
    """
    if (name or "tiny") not in CLASSIFIERS:
        return 0
    seen = provenance.load(folder)
    trained = [row for row in rows if seen.trained_on(row)]
    if trained:
        raise InvalidManifest(
            f"{len(trained)} of {len(rows)} clips were trained on, such as {trained[0].path.name}: scores of them "
            "prove nothing of new ones.",
            hint="Calibrate on another split.",
        )
    return sum(seen.stopped_by(row) for row in rows)


def score(rows: Sequence[Row], detector: Detector, settings: Settings, *, step: Step | None = None) -> Scored:
    """Score every clip as a scan with `settings` would: same sandbox, same sample, raw scores.

    A clip that cannot be decoded to its end is in `unscored`, with the reason, and not in the data: its label speaks of
    the whole of it. Raises `InvalidManifest` where none is left.
    """
    from guard.api import limits_of

    limits, sampling = limits_of(settings), SamplingConfig(max_gap_seconds=settings.max_gap_seconds, seed=settings.seed)
    kept: list[tuple[Row, Float32Array]] = []
    unscored: list[Unscored] = []
    with SandboxedDecoder(
        workers=settings.workers, limits=limits, sampling=sampling, reader=settings.reader
    ) as decoder:

        def one(row: Row) -> Float32Array | ErrorInfo:
            return _score_one(row, detector, decoder)

        for done, (row, result) in enumerate(_ahead(one, rows, settings.workers), 1):
            if isinstance(result, ErrorInfo):
                unscored.append(Unscored(path=str(row.path), error=result))
            else:
                kept.append((row, result))
            if step is not None:
                step("score", done, len(rows))
    if not kept:
        first = unscored[0].error
        raise InvalidManifest(f"None of the {len(rows)} clips could be scored; the first: {first.message}")
    data = CalibrationSet(
        categories=detector.categories,
        scores=np.stack([scores for _, scores in kept]),
        labels=label_matrix([row.labels for row, _ in kept], detector.categories),
        groups=tuple(row.group for row, _ in kept),
        detector=detector.name,
        fingerprint=detector.fingerprint,
        max_gap_seconds=settings.max_gap_seconds,
    )
    return Scored(data=data, unscored=tuple(unscored))


def fit(scored: Scored, target: Target) -> CalibrationFile:
    """Return the calibration. Raises `InfeasibleTarget` with the bound that shows why."""
    return calibrate(
        scored.data,
        fnr=target.fnr,
        fpr=target.fpr,
        budget=target.budget,
        guarantee=target.guarantee,
        delta=target.delta,
        escalate_unproven=target.escalate_unproven,
        only=target.only,
        never_block=target.never_block,
    )


def _score_one(row: Row, detector: Detector, decoder: SandboxedDecoder) -> Float32Array | ErrorInfo:
    try:
        video = open_video(row.path.absolute(), name=str(row.path), limits=decoder.limits)
        screening = Screening([detector], {}, video.sha256)
        coverage = decoder.feed(video, detector.needs, screening).coverage
        scores = screening.finish(coverage)
    except GuardError as error:
        return error.info()
    if screening.errors:
        return screening.errors[0]
    if not coverage.complete:
        code = coverage.problem or "truncated"
        return ErrorInfo(code=code, message="Only a part of it could be decoded.", hint="", retryable=False)
    return scores[0].probability


def _ahead(
    one: Callable[[Row], Float32Array | ErrorInfo], rows: Sequence[Row], workers: int
) -> Iterator[tuple[Row, Float32Array | ErrorInfo]]:
    """Yield results in order, with every decoder busy and one row waiting behind it."""
    waiting: deque[tuple[Row, Future[Float32Array | ErrorInfo]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="guard-calibrate") as threads:
        for row in rows:
            waiting.append((row, threads.submit(one, row)))
            if len(waiting) > workers + 1:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
