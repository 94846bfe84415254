"""A short violation in five minutes of clean footage: how short may it be, and how often does clean footage alarm?

    python benchmarks/needle.py --data DIR [--repeats 24] [--dense-repeats 8]

Clean footage is the benign clips of the split, centre-cropped to one size and re-encoded at one rate, in random order;
where they do not fill five minutes they come again, mirrored. The needle is a piece of a violating clip, at a random
place of the clip (`random`: the piece may show nothing of the event, labels are per clip) or around the moment that the
detector scores highest when it sees the clip alone (`peak`: what is left is what sampling and pooling lose).

Found means: the score of the video reaches the threshold, and so does a moment within the needle, give or take the
sampling gap; `found_by_chance` is the same at places without one. `loud` counts videos whose score reaches it, wherever
from. Thresholds are `clear_below` (below it the fast path lets a video pass) and `block_at` of the calibration that
ships with the weights, or of one fitted to this split.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Scored, Scorer, interval, tell, wilson
from needle_footage import Haystack, Piece, haystack, piece, usable

from fast_path import dataset, metrics
from fast_path.calibrate import CalibrationSet, calibrate
from fast_path.calibration import FileCalibrator, load_calibrators
from guard.errors import InfeasibleTarget
from guard.segments import segments_of
from guard.types import Scores, Thresholds
from guard.video.sampling import SamplingConfig

LENGTHS = (0.2, 0.5, 1.0, 2.0, 5.0)
DENSE_GAP = 0.05


def thresholds_of(found: Scored, scorer: Scorer, rate: float) -> tuple[FileCalibrator, str]:
    """Return the shipped calibration where it fits, otherwise one fitted to this split."""
    shipped = load_calibrators(None, [scorer.detector]).get(scorer.detector.name)
    if isinstance(shipped, FileCalibrator):
        return shipped, "shipped"
    data = CalibrationSet(
        categories=found.categories, scores=found.scores, labels=found.labels, groups=tuple(found.groups),
        detector=scorer.detector.name, fingerprint=scorer.detector.fingerprint,
    )  # fmt: skip
    try:
        return FileCalibrator(calibrate(data, budget=rate)), f"fitted to this split, budget {rate}"
    except InfeasibleTarget:
        file = calibrate(data, fnr=rate, fpr=rate, escalate_unproven=True)
        return FileCalibrator(file), f"fitted to this split, both risks {rate}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one video with a needle gave, by kind of threshold."""

    category: str
    score: float
    found: dict[str, bool]
    loud: dict[str, bool]


def limits_of(thresholds: Thresholds) -> dict[str, float]:
    return {"clear_below": thresholds.clear_below, "block_at": thresholds.block_at}


def trial(
    scores: Scores, hay: Haystack, needle_seconds: float, category: str, limits: dict[str, float], gap: float
) -> Trial:
    column = scores.categories.index(category)
    assert hay.start_seconds is not None
    near = (scores.moment_seconds >= hay.start_seconds - gap) & (
        scores.moment_seconds <= hay.start_seconds + needle_seconds + gap
    )
    video = float(scores.probability[column])
    peak = float(scores.per_moment[near, column].max(initial=0.0))
    return Trial(
        category=category,
        score=video,
        found={name: video >= limit and peak >= limit for name, limit in limits.items()},
        loud={name: video >= limit for name, limit in limits.items()},
    )


def start_of(
    row: dataset.Row, seconds: float, kind: str, scorer: Scorer, category: str, rng: np.random.Generator
) -> float:
    """Return where in the clip the needle begins."""
    room = max(0.0, dataset.duration_seconds(row) - seconds)
    if kind == "random":
        return float(rng.uniform(0, room))
    scores = scorer.score(row.path)
    peak = scores.moment_seconds[int(np.argmax(scores.per_moment[:, scores.categories.index(category)]))]
    return float(np.clip(peak - seconds / 2, 0, room))


class Search:
    """Runs trials with one sampling."""

    def __init__(
        self, options: argparse.Namespace, scorer: Scorer, calibrator: FileCalibrator, clean: Sequence[Piece]
    ) -> None:
        self.options, self.scorer, self.calibrator, self.clean = options, scorer, calibrator, clean

    def calibrated(self, path: Path) -> Scores:
        return self.calibrator.apply(self.scorer.score(path))

    def trial(self, row: dataset.Row, category: str, seconds: float, kind: str, repeat: int, clips: Scorer) -> Trial:
        """Return what one video with a needle gives. Needles are the same for all samplings."""
        rng = np.random.default_rng([11, repeat])
        start = start_of(row, seconds, kind, clips, category, rng)
        needle = piece(self.options.cache, row, start, seconds)
        hay = haystack(self.options.cache, self.clean, self.options.minutes * 60, needle, rng)
        limits = limits_of(self.calibrator.thresholds[category])
        return trial(self.calibrated(hay.path), hay, seconds, category, limits, self.scorer.sampling.max_gap_seconds)

    def cleans(self) -> list[Haystack]:
        """Return videos of clean footage alone."""
        return [
            haystack(self.options.cache, self.clean, self.options.minutes * 60, None, np.random.default_rng([13, i]))
            for i in range(self.options.cleans)
        ]

    def false_alarms(self, unique: Sequence[Piece]) -> dict[str, Any]:
        """Return alarms per hour on the footage, each clip seen once, and the share of long videos that alarm."""
        hours = sum(made.seconds for made in unique) / 3600
        alone = [self.calibrated(made.path) for made in unique]
        long = [self.calibrated(hay.path) for hay in self.cleans()]
        result: dict[str, Any] = {"clips": len(unique), "minutes": hours * 60, "long_videos": len(long)}
        for category in self.scorer.detector.categories:
            column = alone[0].categories.index(category)
            entry = {}
            for name, limit in limits_of(self.calibrator.thresholds[category]).items():
                counts = np.asarray(
                    [
                        len(segments_of(s, {category: limit}, duration_seconds=m.seconds))
                        for s, m in zip(alone, unique, strict=True)
                    ]
                )
                lengths = np.asarray([m.seconds for m in unique]) / 3600
                draws = [
                    float(counts[d].sum() / lengths[d].sum())
                    for d in common.group_draws([str(i) for i in range(len(counts))], self.options.draws)
                ]
                entry[name] = {
                    "threshold": limit,
                    "alarms_per_hour": float(counts.sum() / hours),
                    "interval": interval(draws),
                    "long_videos_loud": int(sum(s.probability[column] >= limit for s in long)),
                }
            result[category] = entry
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One sampling with one kind of piece."""

    name: str
    search: Search
    kind: str
    repeats: int


def run_trials(
    ways: Sequence[Way], options: argparse.Namespace, rows: Sequence[dataset.Row], clips: Scorer
) -> dict[str, dict[float, list[Trial]]]:
    """Run all ways and lengths in turns, so that each has as many trials as the others if time runs out."""
    categories = clips.detector.categories
    made: dict[str, dict[float, list[Trial]]] = {way.name: {s: [] for s in options.lengths} for way in ways}
    until = time.monotonic() + 60 * options.at_most_minutes
    for repeat in range(max(way.repeats for way in ways)):
        row = rows[repeat % len(rows)]
        category = next(c for c in categories if dataset.targets([row], [c])[0, 0] > 0)
        for way in ways:
            if repeat >= way.repeats or time.monotonic() > until:
                continue
            found = [way.search.trial(row, category, s, way.kind, repeat, clips) for s in options.lengths]
            for seconds, one in zip(options.lengths, found, strict=True):
                made[way.name][seconds].append(one)
            tell(f"needle {way.name}: {repeat + 1}/{way.repeats}")
    return made


def recall(trials: dict[float, list[Trial]], clean: Sequence[Scores], search: Search) -> dict[str, Any]:
    """Return recall by length, for all categories together and for each."""
    return {
        str(seconds): {
            "all": shares(some),
            "found_by_chance": by_chance(some, clean, seconds, search),
            "auroc_against_clean": separation(some, clean),
        }
        | {c: shares([t for t in some if t.category == c]) for c in sorted({t.category for t in some})}
        for seconds, some in trials.items()
        if some
    }


def by_chance(trials: Sequence[Trial], clean: Sequence[Scores], seconds: float, search: Search) -> dict[str, float]:
    """Return how often a place without a needle would count as found: every second of the clean videos is tried."""
    gap = search.scorer.sampling.max_gap_seconds
    hits: dict[str, list[float]] = {"clear_below": [], "block_at": []}
    for one in trials:
        limits = limits_of(search.calibrator.thresholds[one.category])
        for scores in clean:
            places = np.arange(0.0, float(scores.moment_seconds[-1]))
            hays = [Haystack(path=Path(), seconds=0.0, start_seconds=float(place)) for place in places]
            tried = [trial(scores, hay, seconds, one.category, limits, gap) for hay in hays]
            for name, values in hits.items():
                values.append(float(np.mean([t.found[name] for t in tried])))
    return {name: float(np.mean(values)) for name, values in hits.items()}


def shares(trials: Sequence[Trial]) -> dict[str, Any]:
    n = len(trials)
    made: dict[str, Any] = {"n": n}
    for name in ("clear_below", "block_at"):
        found, loud = (sum(getattr(t, kind)[name] for t in trials) for kind in ("found", "loud"))
        made[name] = {"found": found / n, "interval": wilson(found, n), "loud": loud / n}
    return made


def separation(trials: Sequence[Trial], clean: Sequence[Scores]) -> float:
    """Return how well the score tells videos with a needle from clean ones: mean AUROC over categories, by trials."""
    values, weights = [], []
    for category in sorted({t.category for t in trials}):
        with_needle = [t.score for t in trials if t.category == category]
        without = [float(s.probability[s.categories.index(category)]) for s in clean]
        truth = np.r_[np.ones(len(with_needle), bool), np.zeros(len(without), bool)]
        values.append(metrics.auroc(truth, np.r_[with_needle, without]))
        weights.append(len(with_needle))
    return float(np.average(values, weights=weights))


def interleaved(rows: Sequence[dataset.Row], categories: Sequence[str]) -> list[dataset.Row]:
    """Return violating clips, the categories taking turns, one group after the other."""
    queues = []
    for category in categories:
        mine = [row for row in rows if dataset.targets([row], [category])[0, 0] > 0]
        order = np.random.default_rng(5).permutation(len(mine))
        queues.append([mine[i] for i in order])
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.parser(__doc__, "needle")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--lengths", type=float, nargs="+", default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=24, help="videos per length at the default gap")
    parser.add_argument("--dense-repeats", type=int, default=8, help="videos per length at every frame")
    parser.add_argument("--at-most-minutes", type=float, default=60.0, help="start no further trials after this")
    parser.add_argument("--cleans", type=int, default=6, help="long videos without a needle")
    parser.add_argument(
        "--budget", type=float, default=0.3, help="where no calibration ships: escalated share to fit for"
    )
    options = parser.parse_args(argv)
    detector = common.build_detector(options)
    rows = common.rows_of(options)
    benign = [row for row in rows if not row.labels]
    unique = usable(options.cache, benign)
    clean = list(unique)
    if sum(made.seconds for made in unique) < options.minutes * 60:
        clean += usable(options.cache, benign, mirrored=True)
    violating = interleaved(rows, detector.categories)
    with (
        Scorer(detector, options.cache) as default,
        Scorer(detector, options.cache, SamplingConfig(max_gap_seconds=DENSE_GAP)) as dense,
    ):
        found = default.table(rows)
        calibrator, origin = thresholds_of(found, default, options.budget)
        usual, every = (Search(options, scorer, calibrator, clean) for scorer in (default, dense))
        ways = [
            Way(name="default_gap random", search=usual, kind="random", repeats=options.repeats),
            Way(name="default_gap peak", search=usual, kind="peak", repeats=options.repeats),
            Way(name="every_frame peak", search=every, kind="peak", repeats=options.dense_repeats),
        ]
        alarms = {
            name: search.false_alarms(unique) for name, search in (("default_gap", usual), ("every_frame", every))
        }
        cleans = {
            name: [search.calibrated(h.path) for h in search.cleans()]
            for name, search in (("default_gap", usual), ("every_frame", every))
        }
        trials = run_trials(ways, options, violating, default)
        gaps = {"default_gap": default.sampling.max_gap_seconds, "every_frame": DENSE_GAP}
        result = {
            **common.about(detector, found),
            "clean_minutes_unique": sum(made.seconds for made in unique) / 60,
            "video_minutes": options.minutes,
            "calibration": {
                "origin": origin,
                "id": calibrator.id,
                "thresholds": {c: limits_of(t) for c, t in calibrator.thresholds.items()},
            },
            **{
                name: {"gap_seconds": gap, "false_alarms": alarms[name]}
                | {
                    way.kind: recall(trials[way.name], cleans[name], way.search)
                    for way in ways
                    if way.name.startswith(name)
                }
                for name, gap in gaps.items()
            },
        }
    common.save(options.out, result)
    lines = {}
    for where, kind in (("default_gap", "random"), ("default_gap", "peak"), ("every_frame", "peak")):
        for name in ("clear_below", "block_at"):
            points = [(float(s), e["all"][name]["found"]) for s, e in result[where][kind].items()]
            if points:
                lines[f"{where}, {kind} piece, {name}"] = ([p[0] for p in points], [p[1] for p in points])
    labels = ("seconds of the violating piece in five minutes", "share found")
    common.line_chart(options.plots / "needle.svg", "Needle in clean footage", labels, lines)


if __name__ == "__main__":
    main()
