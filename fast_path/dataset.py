"""Manifests and clips for training: which videos there are, and the bursts that a training pass looks at."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from guard import taxonomy
from guard.errors import InvalidManifest, NoVideoStream, Undecodable
from guard.limits import Limits
from guard.types import Float64Array, UInt8Array
from guard.video.av_frame import Painter

STILLS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
WINDOW_SECONDS = 2.0  # what training shows of a clip at once
MAX_BURSTS = 64  # per pass over one video: an hour of footage must not outweigh everything else


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a manifest."""

    path: Path
    labels: tuple[str, ...]
    """Category ids; empty means benign."""
    split: str
    group: str
    """Rows of one group share a camera, a source video or a look; a split never separates them."""
    sha256: str
    start_seconds: float = 0.0
    end_seconds: float | None = None
    still: bool = False
    extra: dict[str, Any] = field(default_factory=dict, compare=False)


def read_manifest(path: Path) -> list[Row]:
    """Read a manifest, JSONL or CSV; paths in it are relative to its folder.

    Raises:
        InvalidManifest: a line lacks a field, names an unknown category, or splits a group.
    """
    rows = [_row(raw, path, number) for number, raw in _lines(path)]
    if not rows:
        raise InvalidManifest(f"{path} holds no rows.")
    splits: dict[str, str] = {}
    for row in rows:
        if splits.setdefault(row.group, row.split) != row.split:
            raise InvalidManifest(
                f"{path}: group {row.group!r} is in the splits {splits[row.group]!r} and {row.split!r}."
            )
    return rows


def check_splits(rows: Sequence[Row]) -> None:
    """Raise `InvalidManifest` where a group, or one content under two names, is in two splits.

    Of rows that were read from several manifests: one manifest alone keeps its groups together.
    """
    for kind in ("group", "sha256"):
        first: dict[str, Row] = {}
        for row in rows:
            name = str(getattr(row, kind))
            seen = first.setdefault(name, row)
            if seen.split != row.split:
                raise InvalidManifest(
                    f"The {kind} {name!r} is in two splits: {seen.path} in {seen.split!r}, {row.path} in "
                    f"{row.split!r}.",
                    hint="What is measured on must not be learned from: move one of them.",
                )


def left_open(row: Row, categories: Sequence[str]) -> str | None:
    """Return the first category of which the labels of `row` say neither yes nor no, if there is one.

    `violence` may or may not be `violence.fighting`; as a negative it would teach the classifier to pass fights.
    """
    for category in categories:
        below = any(taxonomy.covers(category, label) for label in row.labels)
        if not below and any(taxonomy.covers(label, category) for label in row.labels):
            return category
    return None


def targets(rows: Sequence[Row], categories: Sequence[str]) -> NDArray[np.float32]:
    """Return float32 [N, C] of 0 and 1; a label counts for its own category and for every listed ancestor."""
    hits = [[any(taxonomy.covers(category, label) for label in row.labels) for category in categories] for row in rows]
    return np.asarray(hits, np.float32).reshape(len(rows), len(categories))


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstPlan:
    """Where to take bursts in one video."""

    starts_seconds: Float64Array
    """float64 [T], increasing: time of the first frame of each burst."""
    spacing_seconds: Float64Array
    """float64 [T]: time between the frames of each."""


def even_plan(
    duration_seconds: float, *, frames: int, spacing: float, min_bursts: int = 8, gap: float = 2.0
) -> BurstPlan:
    """Return the places that the product's sampler would take, without its jitter: what validation looks at."""
    count = min(MAX_BURSTS, max(min_bursts, int(np.ceil(duration_seconds / gap))))
    last = max(0.0, duration_seconds - spacing * (frames - 1))
    return BurstPlan(starts_seconds=np.linspace(0, last, count), spacing_seconds=np.full(count, spacing))


def random_plan(
    duration_seconds: float, *, frames: int, spacing: float, rng: np.random.Generator, min_bursts: int = 8
) -> BurstPlan:
    """Return random places inside random windows of `WINDOW_SECONDS`, with a random spacing.

    Long clips are then looked at as densely as short ones, and the frame rate (0.7 to 1.4 times `spacing`) says
    nothing: in small sets of clips, length and rate give the class away.
    """
    windows = int(np.clip(duration_seconds / 8, 1, MAX_BURSTS // min_bursts))
    spaces = spacing * rng.uniform(0.7, 1.4, windows * min_bursts)
    room = np.maximum(1e-3, duration_seconds - spaces * (frames - 1))
    first = np.repeat(rng.uniform(0, np.maximum(1e-3, duration_seconds - WINDOW_SECONDS), windows), min_bursts)
    starts = first + rng.uniform(0, 1, len(first)) * np.maximum(0, np.minimum(WINDOW_SECONDS, room - first))
    order = np.argsort(starts)
    starts, spaces = starts[order], spaces[order]
    return BurstPlan(starts_seconds=starts, spacing_seconds=spaces)


def read_bursts(row: Row, plans: Sequence[BurstPlan], *, frames: int, side_px: int) -> list[UInt8Array]:
    """Return, for each plan, uint8 [T, L, H, W, 3] of one video: one pass of decoding, the nearest frame at each time.

    Raises:
        Undecodable: no frame could be read.
    """
    wanted = [p.starts_seconds[:, None] + p.spacing_seconds[:, None] * np.arange(frames) for p in plans]
    if row.still:
        picture = _still(row.path, side_px)
        return [np.broadcast_to(picture, (*w.shape, *picture.shape)) for w in wanted]
    times = np.unique(np.concatenate([w.ravel() for w in wanted]))
    pictures, nearest = _nearest(row, times, side_px)
    return [pictures[nearest[np.searchsorted(times, w)]] for w in wanted]


def duration_seconds(row: Row) -> float:
    """Return the time between first and last frame, found by reading packets without decoding; 0 for a still."""
    if row.still:
        return 0.0
    with _opened(row.path) as container:
        stream = _video_stream(container, row.path)
        try:
            times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        except (av.error.FFmpegError, UnicodeDecodeError) as error:
            raise Undecodable(f"{row.path} cannot be read to its end: {error}.") from error
        span = float((max(times) - min(times)) * (stream.time_base or 0)) if times else 0.0
    end = span if row.end_seconds is None else min(span, row.end_seconds)
    return max(0.0, end - row.start_seconds)


def _nearest(row: Row, times: Float64Array, side_px: int) -> tuple[UInt8Array, NDArray[np.int64]]:
    """Decode once; return the frames that are nearest to any of `times`, and for each time which of them.

    Only those are kept and scaled: an hour of footage holds a hundred thousand others.
    """
    kept: list[UInt8Array] = []
    owner = np.zeros(len(times), np.int64)
    painter = Painter(side_px, Limits())
    before: tuple[float, av.VideoFrame] | None = None
    owned = 0  # times whose nearest frame is known

    def settle(until: int) -> None:
        nonlocal owned
        if before is not None and until > owned:
            owner[owned:until] = len(kept)
            kept.append(_painted(before[1], side_px, painter))
            owned = until

    try:
        for seconds, frame in _frames(row):
            if before is not None and seconds <= before[0]:
                continue  # out of order, which a decoder does only to broken streams
            if before is not None:  # halfway between two frames belongs to the first
                settle(int(np.searchsorted(times, (before[0] + seconds) / 2, side="right")))
            before = (seconds, frame)
            if owned == len(times):
                break
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        reached = "nowhere" if before is None else f"{before[0]:.1f} s"
        raise Undecodable(f"{row.path} cannot be decoded beyond {reached}: {error}.") from error
    if before is None:
        raise Undecodable(f"{row.path} gave no frame.")
    settle(len(times))
    return np.stack(kept), owner


def _frames(row: Row) -> Iterator[tuple[float, av.VideoFrame]]:
    with _opened(row.path) as container:
        stream = _video_stream(container, row.path)
        stream.thread_count = 1
        first: float | None = None
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                continue
            seconds = float(frame.pts * frame.time_base)
            first = seconds if first is None else first
            offset = seconds - first - row.start_seconds
            if row.end_seconds is not None and seconds - first > row.end_seconds:
                return
            if offset >= 0:
                yield offset, frame


def _opened(path: Path) -> Any:
    try:
        return av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as error:
        raise Undecodable(f"{path} cannot be opened: {error}.") from error


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise NoVideoStream(f"{path} holds no video stream.")
    return container.streams.video[0]


def _painted(frame: av.VideoFrame, side_px: int, painter: Painter) -> UInt8Array:
    """A phone stores upright pictures lying, with a note to turn them: they are turned here as for scoring."""
    return painter.paint(frame) if frame.rotation else _scaled(frame, side_px)


def _scaled(frame: av.VideoFrame, side_px: int) -> UInt8Array:
    scale = side_px / min(frame.width, frame.height)
    width, height = (min(2 * side_px, round(length * scale / 2) * 2) for length in (frame.width, frame.height))
    picture = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    return np.asarray(picture.to_ndarray(), np.uint8)


def _still(path: Path, side_px: int) -> UInt8Array:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise Undecodable(f"{path} is no picture that can be read.")
    scale = side_px / min(picture.shape[:2])
    height, width = (min(2 * side_px, max(side_px, round(length * scale))) for length in picture.shape[:2])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                for number, record in enumerate(csv.DictReader(file), 2):
                    labels = [label for label in (record.get("labels") or "").replace(";", " ").split() if label]
                    yield number, {**{k: v for k, v in record.items() if v not in (None, "")}, "labels": labels}
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, json.loads(line)
    except (OSError, ValueError) as error:
        raise InvalidManifest(f"{path} cannot be read: {error}.") from error


def _row(raw: dict[str, Any], manifest: Path, number: int) -> Row:
    where = f"{manifest}, line {number}"
    if not isinstance(raw, dict):
        raise InvalidManifest(f"{where} must hold an object; got {raw!r}.")
    missing = [name for name in ("path", "labels", "split", "group") if name not in raw]
    if missing:
        raise InvalidManifest(f"{where} lacks {', '.join(missing)}.")
    if not isinstance(raw["labels"], list) or not all(isinstance(label, str) for label in raw["labels"]):
        raise InvalidManifest(
            f"{where}: labels must be a list of category ids, empty for benign; got {raw['labels']!r}."
        )
    start, end = (_seconds(raw, name, where) for name in ("start_s", "end_s"))
    if end is not None and end <= (start or 0.0):
        raise InvalidManifest(f"{where}: end_s must be after start_s; got {start or 0.0:g} and {end:g}.")
    for label in raw["labels"]:
        if not taxonomy.is_known(label):
            guess = taxonomy.suggestion(label)
            raise InvalidManifest(
                f"{where}: unknown category {label!r}." + (f" Did you mean {guess!r}?" if guess else "")
            )
    path = manifest.parent / raw["path"]
    known = {"path", "labels", "split", "group", "sha256", "start_s", "end_s"}
    return Row(
        path=path,
        labels=tuple(raw["labels"]),
        split=str(raw["split"]),
        group=str(raw["group"]),
        sha256=raw.get("sha256") or _sha256(path),
        start_seconds=start or 0.0,
        end_seconds=end,
        still=path.suffix.lower() in STILLS,
        extra={name: value for name, value in raw.items() if name not in known},
    )


def _seconds(raw: dict[str, Any], name: str, where: str) -> float | None:
    given = raw.get(name)
    try:
        value = None if given is None else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if value is not None and not 0 <= value < math.inf:
        raise InvalidManifest(f"{where}: {name} must be seconds, 0 or more; got {given!r}.")
    return value


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidManifest(f"{path} cannot be read: {error}.") from error
