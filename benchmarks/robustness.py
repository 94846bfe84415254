"""Whether what uploaders do to a clip changes what the detector says of it.

    python benchmarks/robustness.py --data DIR

Every clip of the validation split is transcoded (libx264, CRF 20 unless said) and scored again. Beside each metric: its
difference to the untouched clips, with a paired bootstrap over groups, and how many videos change sides at the
threshold of 5 % false positives on untouched clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import common
import cv2
import numpy as np
from common import Scored, Scorer, encode, frame_rate, interval, kept_file, read_frames, tell

from fast_path import dataset, metrics
from guard.types import UInt8Array

Change = Callable[[UInt8Array], UInt8Array]


def mirror(image: UInt8Array) -> UInt8Array:
    return image[:, ::-1]


def crop(kept: float) -> Change:
    """Keep the middle `kept` of width and height."""

    def change(image: UInt8Array) -> UInt8Array:
        height, width = image.shape[:2]
        h, w = round(height * kept), round(width * kept)
        top, left = (height - h) // 2, (width - w) // 2
        return image[top : top + h, left : left + w]

    return change


def letterbox(image: UInt8Array) -> UInt8Array:
    """Add black bars above and below: a third of the picture's height in all."""
    bar = image.shape[0] // 6
    return cv2.copyMakeBorder(np.ascontiguousarray(image), bar, bar, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def logo(image: UInt8Array) -> UInt8Array:
    """Put a half-transparent badge with a word into the upper right corner, and a banner of text along the bottom."""
    height, width = image.shape[:2]
    drawn = np.ascontiguousarray(image).copy()
    top, right, side = height // 20, width - width // 20, max(8, height // 5)
    cv2.rectangle(drawn, (right - 2 * side, top), (right, top + side), (250, 210, 40), -1)
    cv2.circle(drawn, (right - side // 2, top + side // 2), side // 3, (30, 60, 200), -1)
    cv2.putText(
        drawn, "LIVE", (right - 2 * side + 3, top + side // 2), cv2.FONT_HERSHEY_SIMPLEX, side / 60, (0, 0, 0), 1
    )
    mixed = cv2.addWeighted(drawn, 0.75, np.ascontiguousarray(image), 0.25, 0)
    cv2.rectangle(mixed, (0, height - height // 10), (width, height), (20, 20, 20), -1)
    cv2.putText(
        mixed, "breaking news  www.example.org", (4, height - 5), cv2.FONT_HERSHEY_SIMPLEX, height / 600, (255,) * 3, 1
    )
    return mixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """One way to change a clip."""

    change: Change = lambda image: image
    crf: int = 20
    speed: float = 1.0
    fps: float | None = None
    """Frames that are kept of a second; None keeps all."""
    held: bool = False
    """With `fps`: whether each kept frame is repeated, so that the file plays at 30 a second all the same."""


TRANSFORMS = {
    "mirror": Transform(change=mirror),
    "crop_half_of_each_side": Transform(change=crop(0.5)),
    "crop_half_of_the_area": Transform(change=crop(0.5**0.5)),
    "crf_35": Transform(crf=35),
    "speed_1.5": Transform(speed=1.5),
    "letterbox": Transform(change=letterbox),
    "logo_overlay": Transform(change=logo),
    "5_frames_a_second": Transform(fps=5.0),
    "5_held_to_30": Transform(fps=5.0, held=True),
}


def transcoded(row: dataset.Row, name: str, cache: Path) -> Path:
    """Return the changed clip, made once."""
    how = TRANSFORMS[name]

    def make(target: Path) -> None:
        fps = how.fps or frame_rate(row.path)
        times = round(30 / fps) if how.held else 1
        frames = (how.change(image) for image in paced(row.path, fps, how.speed) for _ in range(times))
        encode(frames, target, fps * times, crf=how.crf)

    return kept_file(cache, ["robust-1", row.sha256, name], make)


def paced(path: Path, fps: float, speed: float) -> Iterator[UInt8Array]:
    """Yield frames for a constant rate; at a speed of 1.5 every third frame is dropped."""
    number = 0
    for now, image in read_frames(path):
        if now / speed >= (number - 0.5) / fps:
            yield image
            number += 1
            while (number + 0.5) / fps < now / speed:  # a gap in the stream: the picture stays
                yield image
                number += 1


def compared(before: Scored, after: Scored, draws: int) -> dict[str, Any]:
    """Return metrics of `after` and their paired differences to `before`, over the clips that both have."""
    common_paths = {row.path for row in before.rows} & {row.path for row in after.rows}
    a, b = (np.flatnonzero([row.path in common_paths for row in made.rows]) for made in (before, after))
    groups = [before.rows[i].group for i in a]
    result: dict[str, Any] = {}
    for c, category in enumerate(before.categories):
        truth = before.truth[a, c]
        old, new = before.scores[a, c].astype(np.float64), after.scores[b, c].astype(np.float64)
        entry: dict[str, Any] = {}
        for name, metric in metrics.METRICS.items():
            changes = [metric(truth[d], new[d]) - metric(truth[d], old[d]) for d in common.group_draws(groups, draws)]
            entry[name] = metrics.estimate(metric, truth, new, groups, draws=draws).as_dict()
            entry[name] |= {"change": metric(truth, new) - metric(truth, old), "change_interval": interval(changes)}
        limit = float(np.quantile(old[~truth], 0.95)) if (~truth).any() else 1.0
        entry["changed_sides"] = {
            "threshold": limit,
            "violating_lost": int(np.sum(truth & (old > limit) & (new <= limit))),
            "violating_gained": int(np.sum(truth & (old <= limit) & (new > limit))),
            "others_alarmed": int(np.sum(~truth & (old <= limit) & (new > limit))),
            "others_calmed": int(np.sum(~truth & (old > limit) & (new <= limit))),
        }
        entry["mean_score_change_violating"] = float(np.mean((new - old)[truth])) if truth.any() else None
        entry["mean_score_change_others"] = float(np.mean((new - old)[~truth])) if (~truth).any() else None
        result[category] = entry
    return result


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.parser(__doc__, "robustness")
    parser.add_argument("--transforms", nargs="+", choices=list(TRANSFORMS), default=list(TRANSFORMS))
    options = parser.parse_args(argv)
    detector = common.build_detector(options)
    rows = common.rows_of(options)
    result: dict[str, Any] = {"transforms": {}}
    with Scorer(detector, options.cache) as scorer:
        before = scorer.table(rows)
        readable = []
        for row in before.rows:
            try:
                for name in options.transforms:
                    transcoded(row, name, options.cache)
                readable.append(row)
            except (av.error.FFmpegError, UnicodeDecodeError) as error:
                tell(f"left out {row.path.name}: {error}")
            tell(f"transcoded {row.path.name}")
        result = {**common.about(detector, before), "transcoded": len(readable)}
        result["untouched"] = compared(before, before, options.draws)
        result["transforms"] = {}
        for name in options.transforms:
            after = scorer.table(readable, lambda row, name=name: transcoded(row, name, options.cache))
            result["transforms"][name] = compared(before, after, options.draws)
    common.save(options.out, result)


if __name__ == "__main__":
    main()
