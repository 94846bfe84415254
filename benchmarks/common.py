"""What the fast-path benchmarks share: clips of a split, scores kept between runs, transcoding, plain SVG charts."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import numpy as np
from numpy.typing import NDArray

from fast_path import dataset
from fast_path.calibrate import label_matrix
from fast_path.features import FeatureCache
from fast_path.scaling import choose
from guard import plugins
from guard.errors import InputError
from guard.interfaces import Detector
from guard.limits import Limits
from guard.types import Frames, Scores, UInt8Array
from guard.video.sampling import SamplingConfig
from guard.video.sandbox import SandboxedDecoder
from guard.video.source import open_video

ROOT = Path(__file__).resolve().parents[1]
Array = NDArray[np.float64]
AIMS = {"violence.fighting": 0.90, "illegal.fire": 0.97, "accidents.road": 0.92}


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Return the options that every script has."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--data", type=Path, required=True, help="folder with manifest.jsonl and the clips it names")
    made.add_argument("--split", default="val")
    made.add_argument("--clips", type=int, help="only so many clips, evenly over the manifest: for a trial")
    made.add_argument("--detector", default="tiny")
    made.add_argument("--weights", type=Path, help="checkpoint folder; by default the shipped one")
    made.add_argument("--untrained-seed", type=int, help="random weights, for tests of the scripts")
    made.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "guard-benchmarks")
    made.add_argument("--draws", type=int, default=1000, help="bootstrap draws of groups")
    made.add_argument("--out", type=Path, default=ROOT / "benchmarks" / f"{name}.json")
    made.add_argument("--plots", type=Path, default=ROOT / "docs" / "img")
    return made


def build_detector(options: argparse.Namespace) -> Detector:
    """Build the detector that the options name, on one thread."""
    import torch

    torch.set_num_threads(1)
    settings: dict[str, Any] = {}
    if options.weights is not None:
        settings["weights"] = options.weights
    if options.untrained_seed is not None:
        settings["untrained_seed"] = options.untrained_seed
    detector: Detector = plugins.load("detector", options.detector, **settings)
    return detector


def rows_of(options: argparse.Namespace, split: str | None = None) -> list[dataset.Row]:
    """Return the clips of a split; `--clips` thins them evenly."""
    rows = [r for r in dataset.read_manifest(options.data / "manifest.jsonl") if r.split == (split or options.split)]
    rows = [row for row in rows if not row.still]
    if not options.clips or options.clips >= len(rows):
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, options.clips).round().astype(int)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Scores of N clips, with what is known of the clips."""

    rows: tuple[dataset.Row, ...]
    categories: tuple[str, ...]
    scores: NDArray[np.float32]
    """float32 [N, C]: raw scores."""
    labels: NDArray[np.int8]
    """int8 [N, C]: 1 violates, 0 does not, -1 unknown."""
    failed: tuple[str, ...] = ()

    @property
    def groups(self) -> list[str]:
        """The group of each clip."""
        return [row.group for row in self.rows]

    @property
    def truth(self) -> NDArray[np.bool_]:
        """bool [N, C]."""
        return self.labels == 1


class Scorer:
    """Decodes and scores clips as the product does, and keeps the scores by content, model and sampling."""

    def __init__(self, detector: Detector, cache: Path, sampling: SamplingConfig | None = None) -> None:
        self.detector = detector
        self.sampling = sampling or SamplingConfig()
        limits = Limits(cpu_seconds=3600, wall_seconds=7200)
        self._limits = limits
        self._decoder = SandboxedDecoder(limits=limits, sampling=self.sampling)
        self._cache = FeatureCache(folder=cache / "scores")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def score(self, path: Path) -> Scores:
        """Return the raw scores of one file. Raises an `InputError` where it cannot be decoded."""
        video = open_video(path, limits=self._limits)
        settings = {"detector": self.detector.name, "sampling": repr(self.sampling), "needs": repr(self.detector.needs)}
        key = self._cache.key(video.sha256, self.detector.fingerprint, settings)

        def make() -> dict[str, NDArray[Any]]:
            sink = Sink(self.detector)
            fed = self._decoder.feed(video, self.detector.needs, sink)
            found = sink.session.finish(fed.coverage)
            return {
                "probability": found.probability,
                "moment_seconds": found.moment_seconds,
                "per_moment": found.per_moment,
            }

        arrays = self._cache.get(key, make)
        return Scores(
            categories=self.detector.categories,
            detector=self.detector.name,
            fingerprint=self.detector.fingerprint,
            **arrays,  # type: ignore[arg-type]  # the keys are those of `make`
        )

    def table(self, rows: Sequence[dataset.Row], path_of: Callable[[dataset.Row], Path] | None = None) -> Scored:
        """Score clips; those that cannot be decoded are named in `failed`."""
        kept, scores, failed = [], [], []
        for number, row in enumerate(rows, 1):
            try:
                scores.append(self.score(path_of(row) if path_of else row.path).probability)
                kept.append(row)
            except InputError as error:
                failed.append(f"{row.path.name}: {error.code}")
            tell(f"scored {number}/{len(rows)}")
        return scored(kept, self.detector.categories, np.stack(scores), failed)


class Sink:
    """Feeds a detector's session."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.restart()

    def restart(self) -> None:
        self.session = self._detector.begin()

    def take(self, frames: Frames) -> None:
        self.session.feed(frames)


def scored(
    rows: Sequence[dataset.Row], categories: Sequence[str], scores: NDArray[np.floating], failed: Sequence[str] = ()
) -> Scored:
    return Scored(
        rows=tuple(rows),
        categories=tuple(categories),
        scores=scores.astype(np.float32),
        labels=label_matrix([row.labels for row in rows], categories),
        failed=tuple(failed),
    )


def group_folds(truth: NDArray[np.bool_], groups: Sequence[str], folds: int = 5, seed: int = 0) -> NDArray[np.int64]:
    """Deal whole groups to folds, those with positives first, so that each fold gets its share: int64 [N]."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    positives, sizes = np.bincount(member, weights=truth), np.bincount(member)
    jitter = np.random.default_rng(seed).random(len(names))
    load = np.zeros((folds, 2))
    fold_of = np.zeros(len(names), np.int64)
    for group in sorted(range(len(names)), key=lambda g: (-positives[g], -sizes[g], jitter[g])):
        kind = 0 if positives[group] else 1
        target = min(range(folds), key=lambda f: (load[f, kind], load[f].sum(), f))
        fold_of[group] = target
        load[target, kind] += positives[group] or sizes[group]
    return fold_of[member]


def cross_calibrated(found: Scored, folds: int = 5) -> NDArray[np.float32]:
    """Return float32 [N, C]: each clip mapped by a scaling that was fitted without its group."""
    mapped = found.scores.copy()
    for column in range(len(found.categories)):
        truth = found.truth[:, column]
        fold = group_folds(truth, found.groups, folds)
        for index in range(folds):
            held = fold == index
            rest = [g for g, out in zip(found.groups, held, strict=True) if not out]
            scaling = choose(found.scores[~held, column].astype(np.float64), truth[~held], rest)
            mapped[held, column] = scaling.apply(found.scores[held, column])
    return mapped


def group_draws(groups: Sequence[str], draws: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield the clips of `draws` bootstrap samples of whole groups."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(member == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.concatenate([members[index] for index in rng.integers(0, len(names), len(names))])


def interval(values: Sequence[float]) -> list[float | None]:
    """Return the 2.5 % and 97.5 % points of the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    return [round(float(q), 4) for q in np.percentile(finite, [2.5, 97.5])] if finite else [None, None]


def wilson(hits: int, trials: int) -> list[float | None]:
    """Return the 95 % Wilson interval of a share."""
    if not trials:
        return [None, None]
    z, p = 1.96, hits / trials
    middle, half = p + z * z / (2 * trials), z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return [
        round(max(0.0, (middle - half) / (1 + z * z / trials)), 4),
        round((middle + half) / (1 + z * z / trials), 4),
    ]


def machine() -> str:
    return f"{os.cpu_count()} cores {platform.machine()}, no GPU, one thread, others at work beside"


def about(detector: Detector, found: Scored | None = None) -> dict[str, Any]:
    """Return what a result speaks of."""
    made: dict[str, Any] = {
        "machine": machine(),
        "detector": detector.name,
        "fingerprint": detector.fingerprint,
        "libraries": {"av": av.__version__, "numpy": np.__version__},
    }
    if found is not None:
        made |= {"clips": len(found.rows), "groups": len(set(found.groups)), "failed": list(found.failed)}
    return made


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write JSON without NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(result), indent=1, allow_nan=False)
    flat = re.sub(
        r"[\[{][^\[\]{}]*[\]}]", lambda inner: re.sub(r"\s*\n\s*", " ", inner[0]), text
    )  # innermost on one line
    path.write_text(flat + "\n")
    tell(f"wrote {path.name}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Transcoding

Painter = Callable[[Iterator[tuple[float, UInt8Array]], float], Iterator[UInt8Array]]
"""Frames with their times, and the frame rate, to frames at that rate."""


def read_frames(path: Path) -> Iterator[tuple[float, UInt8Array]]:
    """Yield time from the first frame, and uint8 [H, W, 3] RGB."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        first = None
        for frame in container.decode(stream):
            if frame.time is not None:
                first = frame.time if first is None else first
                yield frame.time - first, frame.to_ndarray(format="rgb24")


def frame_rate(path: Path) -> float:
    """Return the mean frame rate, 5 to 60."""
    with av.open(str(path), metadata_errors="ignore") as container:
        rate = container.streams.video[0].average_rate
    return min(60.0, max(5.0, float(rate or 25)))


def encode(
    frames: Iterator[UInt8Array], path: Path, fps: float, *, crf: int = 20, options: Mapping[str, str] | None = None
) -> None:
    """Write H.264 with libx264, one thread; odd sizes lose a row or column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.mp4")
    rate = Fraction(fps).limit_denominator(1001)
    settings = {"preset": "veryfast", "crf": str(crf), "threads": "1", **(options or {})}
    with av.open(str(part), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=rate, options=settings)
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(frames):
            even = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
            if number == 0:
                stream.width, stream.height = even.shape[1], even.shape[0]
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    part.replace(path)


def kept_file(cache: Path, marks: Sequence[object], make: Callable[[Path], None]) -> Path:
    """Return a made file, named by a hash of `marks`; made once."""
    name = hashlib.sha256(json.dumps([str(m) for m in marks]).encode()).hexdigest()[:32]
    path = cache / "media" / f"{name}.mp4"
    if not path.exists():
        make(path)
    return path


# Charts: two dozen lines of SVG spare a plotting library

_COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8d6a9f", "#edae49", "#555555")


def line_chart(
    path: Path, title: str, labels: tuple[str, str], series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> None:
    """Write lines (or, for a single point, a dot) as SVG."""
    width, height, left, right, top, bottom = 640, 380, 60, 16, 34, 46
    xs = [x for line in series.values() for x in line[0]]
    ys = [y for line in series.values() for y in line[1]]
    x0, x1 = min(0.0, *xs), max(xs) or 1.0
    y0, y1 = min(0.0, *ys), (max(ys) or 1.0) * 1.05

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return round(left + across * (width - left - right), 1), round(
            height - bottom - up * (height - top - bottom), 1
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="20" '
        f'font-size="14">{title}</text>'
    ]
    for step in range(6):
        x, y = x0 + (x1 - x0) * step / 5, y0 + (y1 - y0) * step / 5
        (px, base), (edge, py) = at(x, y0), at(x0, y)
        parts.append(
            f'<path d="M{edge} {py}H{width - right}" stroke="#ddd"/><text x="{edge - 6}" y="{py + 4}" '
            f'text-anchor="end">{y:.3g}</text><text x="{px}" y="{base + 16}" text-anchor="middle">{x:.3g}</text>'
        )
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle">{labels[0]}</text>'
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">{labels[1]}</text>'
    )
    for index, (name, (across, up)) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [at(float(x), float(y)) for x, y in zip(across, up, strict=True)]
        if len(points) == 1:
            parts.append(f'<circle cx="{points[0][0]}" cy="{points[0][1]}" r="5" fill="{colour}"/>')
        else:
            line = " ".join(f"{x},{y}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = top + 14 + 16 * index
        parts.append(f'<rect x="{left + 12}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{left + 28}" y="{y}">{name}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts) + "</svg>\n")
