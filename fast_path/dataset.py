"""Manifests and clips for training: which videos there are, and the bursts that a training pass looks at."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from guard import taxonomy
from guard.errors import InvalidManifest, Undecodable
from guard.types import Float64Array, UInt8Array

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
        stream = container.streams.video[0]
        times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        span = float((max(times) - min(times)) * (stream.time_base or 0)) if times else 0.0
    end = span if row.end_seconds is None else min(span, row.end_seconds)
    return max(0.0, end - row.start_seconds)


def _nearest(row: Row, times: Float64Array, side_px: int) -> tuple[UInt8Array, NDArray[np.int64]]:
    """Decode once; return the frames that are nearest to any of `times`, and for each time which of them."""
    kept: list[UInt8Array] = []
    owner = np.zeros(len(times), np.int64)
    distance = np.full(len(times), np.inf)
    try:
        for seconds, frame in _frames(row):
            closer = np.abs(times - seconds) < distance
            if closer.any():
                distance[closer] = np.abs(times[closer] - seconds)
                owner[closer] = len(kept)
                kept.append(_scaled(frame, side_px))
            if kept and seconds > times[-1]:
                break
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        if not kept:
            raise Undecodable(f"{row.path} cannot be decoded: {error}.") from error
    if not kept:
        raise Undecodable(f"{row.path} gave no frame.")
    used, owner = np.unique(owner, return_inverse=True)
    return np.stack([kept[index] for index in used]), owner


def _frames(row: Row) -> Iterator[tuple[float, av.VideoFrame]]:
    with _opened(row.path) as container:
        stream = container.streams.video[0]
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
    missing = [name for name in ("path", "labels", "split", "group") if name not in raw]
    if missing:
        raise InvalidManifest(f"{where} lacks {', '.join(missing)}.")
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
        start_seconds=float(raw.get("start_s") or 0.0),
        end_seconds=float(raw["end_s"]) if raw.get("end_s") is not None else None,
        still=path.suffix.lower() in STILLS,
        extra={name: value for name, value in raw.items() if name not in known},
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidManifest(f"{path} cannot be read: {error}.") from error
