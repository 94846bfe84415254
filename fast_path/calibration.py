"""Apply a calibration: raw scores to probabilities, and the thresholds that belong to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fast_path.calibration_file import CalibrationFile
from fast_path.scaling import map_scores
from guard.errors import CalibrationMismatch
from guard.interfaces import Calibrator, Detector
from guard.types import Scores, Thresholds

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class FileCalibrator:
    """`guard.interfaces.Calibrator` over a calibration file."""

    file: CalibrationFile

    @property
    def id(self) -> str:
        """Identifies the calibration in verdicts."""
        return self.file.id

    @property
    def thresholds(self) -> dict[str, Thresholds]:
        """The fitted thresholds by category."""
        return self.file.thresholds()

    def apply(self, scores: Scores) -> Scores:
        """Return calibrated scores, moments included.

        Raises:
            CalibrationMismatch: the scores are another detector's, another model's, or calibrated already.
        """
        mine, given = (self.file.detector, self.file.fingerprint), (scores.detector, scores.fingerprint)
        if mine != given:
            raise CalibrationMismatch(
                f"Calibration {self.id} was fitted for {_shown(mine)}; got scores of {_shown(given)}."
            )
        missing = [category for category in scores.categories if category not in self.file.categories]
        if missing:
            raise CalibrationMismatch(f"Calibration {self.id} has no category {missing[0]!r}.")
        if scores.calibration is not None:
            raise CalibrationMismatch(f"These scores have been calibrated already, by {scores.calibration}.")
        maps = [self.file.categories[category].scaling() for category in scores.categories]
        return replace(
            scores,
            probability=map_scores(scores.probability[None], maps)[0],
            per_moment=map_scores(scores.per_moment, maps),
            calibration=self.id,
        )


def load_calibrators(
    path: Path | None,
    detectors: Iterable[Detector],
    *,
    loaded: Iterable[Detector] | None = None,
    max_gap_seconds: float | None = None,
) -> dict[str, Calibrator]:
    """Return the calibrators for `detectors`, by detector name.

    A file that was asked for must fit. Beside it, those shipped with the embedded weights are taken where they fit; a
    detector that none fits gives raw scores, and the default thresholds apply.

    Args:
        path: the file that was asked for, if any.
        detectors: those that will score.
        loaded: those that the settings name: one that no rule needs may have a calibration all the same, but a file
            for none of them was asked for in error. None: nothing is known of the others.
        max_gap_seconds: how densely videos will be sampled, if that is known. Thresholds prove nothing at another
            density: scores of one video change with it.

    Raises:
        CalibrationMismatch: `path` is no calibration, or one for another detector, model or sampling gap.
    """
    known = {detector.name: detector.fingerprint for detector in detectors}
    shipped = [CalibrationFile.load(found) for found in sorted(_WEIGHTS.rglob("calibration.json"))]
    fitting = [f for f in shipped if known.get(f.detector) == f.fingerprint and f.serves(max_gap_seconds)]
    found: dict[str, Calibrator] = {file.detector: FileCalibrator(file) for file in fitting}
    if path is None:
        return found
    file = CalibrationFile.load(path)
    named = known | {detector.name: detector.fingerprint for detector in loaded or ()}
    if loaded is not None or file.detector in named:
        _check_fits(file, path, named, max_gap_seconds)
    return found | ({file.detector: FileCalibrator(file)} if file.detector in known else {})


def _check_fits(file: CalibrationFile, path: Path, known: Mapping[str, str], max_gap_seconds: float | None) -> None:
    mine = (file.detector, file.fingerprint)
    if known.get(file.detector) != file.fingerprint:
        models = ", ".join(_shown(item) for item in known.items()) or "none"
        raise CalibrationMismatch(f"{path} was fitted for {_shown(mine)}; the models in use are: {models}.")
    if not file.serves(max_gap_seconds):
        raise CalibrationMismatch(
            f"{path} was fitted with a frame at least every {file.max_gap_seconds:g} s; max_gap_seconds is "
            f"{max_gap_seconds:g}, and scores change with it.",
            hint="Calibrate with the gap that you use: GUARD_MAX_GAP_SECONDS holds for `guard calibrate` too.",
        )


def merged_thresholds(calibrators: Mapping[str, Calibrator]) -> dict[str, Thresholds]:
    """Return one pair of thresholds per category for the router: of several calibrations, the more cautious on each
    side."""
    merged: dict[str, Thresholds] = {}
    for calibrator in calibrators.values():
        found: Mapping[str, Thresholds] = getattr(calibrator, "thresholds", {})
        for category, new in found.items():
            old = merged.get(category, new)
            merged[category] = Thresholds(
                clear_below=min(old.clear_below, new.clear_below), block_at=max(old.block_at, new.block_at)
            )
    return merged


def _shown(model: tuple[str, str]) -> str:
    return f"{model[0]} {model[1]}"
