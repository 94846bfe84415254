"""Where in a video something happens: overlap of stretches in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.metrics.confusion import Confusion
from eval.metrics.ranking import Ranked


class Stretch(NamedTuple):
    """A stretch of one video, in seconds; `score` ranks predictions."""

    start: float
    end: float
    score: float = 1.0


class Located(NamedTuple):
    """The true and the predicted stretches of one video."""

    truth: Sequence[Stretch]
    predicted: Sequence[Stretch]
    seconds: float
    """Length of the video."""


def iou(a: Stretch, b: Stretch) -> float:
    """Return intersection over union of two stretches; 0 where they do not meet, also for two empty ones."""
    shared = max(0.0, min(a.end, b.end) - max(a.start, b.start))
    union = (a.end - a.start) + (b.end - b.start) - shared
    return shared / union if union > 0 else 0.0


def segment_ap(videos: Sequence[Located], threshold: float) -> float | None:
    """Return average precision of the predicted stretches at an overlap of at least `threshold`; None without truth.

    Predictions of all videos are taken by falling score; each true stretch is found once, by the first prediction that
    overlaps it most, and later ones on the same stretch count as false (the rule of ActivityNet and THUMOS).
    """
    total = sum(len(video.truth) for video in videos)
    if not total:
        return None
    ranked = sorted(((p.score, v, p) for v, video in enumerate(videos) for p in video.predicted), key=lambda r: -r[0])
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, video, predicted in ranked:
        free = [(iou(t, predicted), j) for j, t in enumerate(videos[video].truth) if (video, j) not in taken]
        best, at = max(free, default=(0.0, -1))
        hits.append(best >= threshold and best > 0)
        if hits[-1]:
            taken.add((video, at))
    found = np.asarray(hits, bool)
    if not found.any():
        return 0.0
    # stretches that no prediction found are missing from the ranking, and lower the recall at its end
    area = Ranked(found, np.asarray([score for score, _, _ in ranked], np.float64)).average_precision()
    return None if area is None else area * int(found.sum()) / total


def durations(videos: Sequence[Located]) -> Confusion:
    """Return the seconds rightly and wrongly covered, over all videos: duration F1 and overlap follow from it."""
    tp = fp = fn = whole = 0.0
    for video in videos:
        truth, predicted = _merged(video.truth), _merged(video.predicted)
        shared = sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in truth for b in predicted)
        tp += shared
        fp += sum(p.end - p.start for p in predicted) - shared
        fn += sum(t.end - t.start for t in truth) - shared
        whole += video.seconds
    return Confusion(tp=tp, fp=fp, fn=fn, tn=max(0.0, whole - tp - fp - fn))


def mean_iou(videos: Sequence[Located]) -> float | None:
    """Return the mean over videos with truth of covered-seconds intersection over union; None without any."""
    values = []
    for video in videos:
        if video.truth:
            one = durations([video])
            covered = one.tp + one.fp + one.fn
            if covered > 0:  # a true stretch without length covers nothing that could be found
                values.append(one.tp / covered)
    return float(np.mean(values)) if values else None


def _merged(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Return the stretches in order, overlapping ones joined and empty ones dropped."""
    made: list[Stretch] = []
    for one in sorted(s for s in stretches if s.end > s.start):
        if made and one.start <= made[-1].end:
            made[-1] = Stretch(made[-1].start, max(made[-1].end, one.end), max(made[-1].score, one.score))
        else:
            made.append(one)
    return made
