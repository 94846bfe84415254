"""The footage of `needle.py`: clips at one size and rate, cut and joined by packets: no frame is encoded twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import common
import cv2
import numpy as np
from common import kept_file, tell

from fast_path import dataset
from guard.errors import InputError
from guard.types import UInt8Array

FPS, SIZE = 25, (416, 256)  # width and height: most clips are 256 px on their short side
ENCODER = {"bf": "0", "g": str(FPS), "keyint_min": str(FPS), "sc_threshold": "0", "x264-params": "repeat-headers=1"}
"""A key frame each second and no reordering: footage can then be cut and joined without another encode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One encoded stretch: packets by second, each second starting with a key frame."""

    path: Path
    seconds: float


def fitted(image: UInt8Array, mirrored: bool) -> UInt8Array:
    """Scale and crop to the one size; nothing is padded."""
    width, height = SIZE
    scale = max(width / image.shape[1], height / image.shape[0])
    new = (max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale)))
    big = cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (new[1] - height) // 2, (new[0] - width) // 2
    cut = big[top : top + height, left : left + width]
    return cut[:, ::-1] if mirrored else cut


def resampled(path: Path, start: float, seconds: float | None, mirrored: bool = False) -> Iterator[UInt8Array]:
    """Yield frames at the one rate, each the last one shown by then."""
    number, last = 0, None
    for now, image in common.read_frames(path):
        while last is not None and start + number / FPS < now - 1e-6:
            if seconds is not None and number >= round(seconds * FPS):
                return
            yield fitted(last, mirrored)
            number += 1
        last = image
    wanted = number + 1 if seconds is None else round(seconds * FPS)
    while last is not None and number < wanted:
        yield fitted(last, mirrored)
        number += 1


def piece(
    cache: Path, row: dataset.Row, start: float = 0.0, seconds: float | None = None, mirrored: bool = False
) -> Piece:
    def make(target: Path) -> None:
        common.encode(resampled(row.path, start, seconds, mirrored), target, FPS, options=ENCODER)

    path = kept_file(cache, ["piece-1", row.sha256, f"{start:.3f}", seconds, mirrored, SIZE, FPS], make)
    with av.open(str(path)) as container:
        return Piece(path=path, seconds=container.streams.video[0].frames / FPS)


def packets(made: Piece) -> list[tuple[bytes, bool]]:
    with av.open(str(made.path)) as container:
        return [(bytes(p), p.is_keyframe) for p in container.demux(container.streams.video[0]) if p.size]


def joined(parts: Sequence[list[tuple[bytes, bool]]], template: Piece, target: Path) -> None:
    """Write packets one after the other, a frame every 1 / FPS seconds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(template.path)) as source, av.open(str(target), "w", format="mp4") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        base = Fraction(1, FPS * 512)
        for number, (data, key) in enumerate(packet for part in parts for packet in part):
            packet = av.Packet(data)
            packet.pts = packet.dts = number * 512
            packet.time_base, packet.stream, packet.is_keyframe, packet.duration = base, stream, key, 512
            out.mux(packet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Haystack:
    """Clean footage, and where a needle was put into it."""

    path: Path
    seconds: float
    start_seconds: float | None = None
    """Where the needle begins; None without one."""


def haystack(
    cache: Path, clean: Sequence[Piece], seconds: float, needle: Piece | None, rng: np.random.Generator
) -> Haystack:
    """Join clean pieces in random order up to `seconds`, and put the needle before a random second."""
    order = [clean[i] for i in rng.permutation(len(clean))]
    place = float(rng.random())
    marks = ["hay-1", seconds, needle.path.name if needle else "", place, *(p.path.name for p in order)]
    chunks = [chunk for made in order for chunk in by_second(packets(made))]
    kept, total = [], 0
    for chunk in chunks:
        if total >= seconds * FPS:
            break
        kept.append(chunk)
        total += len(chunk)
    at = int(place * (len(kept) + 1))
    start = sum(len(chunk) for chunk in kept[:at]) / FPS
    if needle is not None:
        kept = [*kept[:at], packets(needle), *kept[at:]]
    path = kept_file(cache, marks, lambda target: joined(kept, order[0], target))
    length = sum(len(chunk) for chunk in kept) / FPS
    return Haystack(path=path, seconds=length, start_seconds=start if needle else None)


def by_second(stream: list[tuple[bytes, bool]]) -> list[list[tuple[bytes, bool]]]:
    starts = [i for i, (_, key) in enumerate(stream) if key]
    return [stream[a:b] for a, b in zip(starts, [*starts[1:], len(stream)], strict=True)]


def usable(cache: Path, rows: Sequence[dataset.Row], mirrored: bool = False) -> list[Piece]:
    made = []
    for row in rows:
        try:
            made.append(piece(cache, row, mirrored=mirrored))
        except (InputError, av.error.FFmpegError):
            tell(f"left out {row.path.name}")
    return made
