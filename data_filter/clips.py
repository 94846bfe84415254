"""What the filter reads of a clip in one decode: its embedding by the fast path's encoder, perceptual hashes, and a
thumbnail."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_filter import dedup
from data_filter.dedup import Hashes
from fast_path import dataset
from fast_path.dataset import Row
from fast_path.features import FeatureCache
from fast_path.interfaces import Encoder
from guard import plugins
from guard.errors import InputError, UsageError
from guard.types import Float32Array, UInt8Array

HASHED_FRAMES = 6
THUMBNAIL_PX = 96
VERSION = 3  # raise when a cached file would hold something else

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """How clips are looked at."""

    encoder: str = "tiny"
    encoder_settings: dict[str, Any] = field(default_factory=dict)
    min_bursts: int = 8
    gap_seconds: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Clip:
    """One manifest row, looked at."""

    row: Row
    embedding: Float32Array
    """float32 [2 D]: mean and maximum over the bursts; the maximum keeps what happened once."""
    hashes: Hashes
    key: str
    """Where the cache keeps what was read, the thumbnail among it: 200,000 pictures in memory would take a gigabyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Small JPEGs of the middle of clips, read when they are asked for."""

    cache: FeatureCache | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    """Cache keys by row id."""

    def get(self, name: str) -> bytes | None:
        """Return the picture of a row, or None where it was not decoded."""
        held = self.cache.load(self.keys[name]) if self.cache is not None and name in self.keys else None
        return None if held is None else held["thumbnail"].tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A row that could not be looked at: it is neither kept nor dropped, and it is listed."""

    row: Row
    code: str
    message: str


def read_clips(
    rows: Sequence[Row],
    settings: ClipSettings,
    cache: FeatureCache,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[list[Clip], list[Failure]]:
    """Look at every row; what was looked at before comes from the cache."""
    found: list[Clip] = []
    failed: list[Failure] = []
    read = partial(_read, settings=settings, cache=cache)
    for done, (row, result) in enumerate(zip(rows, _mapped(read, rows, workers), strict=True), 1):
        # a worker's answer is about a copy of the row; callers know the row itself
        result = replace(result, row=row)
        if isinstance(result, Clip):
            found.append(result)
        else:
            failed.append(result)
        if progress is not None:
            progress("read clips", done, len(rows))
    return found, failed


def _mapped(read: Callable[[Row], Any], rows: Sequence[Row], workers: int) -> Iterator[Any]:
    if workers < 2:
        yield from map(read, rows)
        return
    # spawned, not forked: a forked child would inherit locks of torch's threads
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(read, rows, chunksize=4)


def _read(row: Row, settings: ClipSettings, cache: FeatureCache) -> Clip | Failure:
    encoder = _encoder(settings)
    marks = {
        "filter": VERSION, "start": row.start_seconds, "end": row.end_seconds, "min_bursts": settings.min_bursts,
        "gap": settings.gap_seconds,
    }  # fmt: skip
    try:
        key = cache.key(row.sha256, encoder.fingerprint, marks)
        arrays = cache.get(key, lambda: _look(row, settings, encoder))
    except InputError as error:
        return Failure(row=row, code=error.code, message=error.message)
    return Clip(row=row, embedding=arrays["embedding"], hashes=arrays["hashes"], key=key)


def _look(row: Row, settings: ClipSettings, encoder: Encoder) -> dict[str, Any]:
    frames, spacing = encoder.clip_frames, encoder.clip_spacing_seconds
    length = dataset.duration_seconds(row)
    least = 1 if row.still else settings.min_bursts
    plan = dataset.even_plan(length, frames=frames, spacing=spacing, min_bursts=least, gap=settings.gap_seconds)
    (bursts,) = dataset.read_bursts(row, [plan], frames=frames, side_px=encoder.input_side_px)
    embeddings = encoder.embed(bursts)
    firsts = bursts[:, 0]
    at = np.unique(np.linspace(0, len(firsts) - 1, HASHED_FRAMES).round().astype(np.int64))
    return {
        "embedding": np.concatenate([embeddings.mean(axis=0), embeddings.max(axis=0)]).astype(np.float32),
        "hashes": dedup.clip_hashes(firsts[at], bursts[at, -1]),
        "thumbnail": np.frombuffer(_jpeg(firsts[len(firsts) // 2]), dtype=np.uint8),
    }


def _jpeg(image: UInt8Array) -> bytes:
    height, width = image.shape[:2]
    scale = THUMBNAIL_PX / height
    small = cv2.resize(image, (max(1, round(width * scale)), THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 70])
    if not done:
        raise UsageError("A thumbnail could not be encoded.")
    return bytes(data.tobytes())


_ENCODERS: dict[str, Encoder] = {}


def _encoder(settings: ClipSettings) -> Encoder:
    """Return the encoder, built once per process."""
    key = repr((settings.encoder, sorted(settings.encoder_settings.items())))
    if key not in _ENCODERS:
        _ENCODERS[key] = plugins.load("encoder", settings.encoder, **settings.encoder_settings)
    return _ENCODERS[key]


def read_embeddings(path: Path, ids: Sequence[str]) -> Float32Array:
    """Return float32 [N, D] for `ids` from an `.npz` with the arrays `ids` and `embeddings`, whatever order they are
    in there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held, values = file["ids"].tolist(), file["embeddings"]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path} must be an .npz with the arrays ids [N] and embeddings [N, D]: {error}.") from error
    where = {str(name): i for i, name in enumerate(held)}
    missing = [name for name in ids if name not in where]
    if missing:
        raise UsageError(f"{path} lacks embeddings for {len(missing)} of {len(ids)} rows, such as {missing[0]!r}.")
    found: Float32Array = np.ascontiguousarray(values[[where[name] for name in ids]], dtype=np.float32)
    return found
