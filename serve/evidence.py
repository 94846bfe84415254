"""Pictures of the moments that a decision rests on, as JPEG files beside the results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from guard.errors import GuardError
from guard.types import UInt8Array

if TYPE_CHECKING:
    from guard.api import Guard
    from guard.types import Video
    from guard.video.sandbox import SandboxedDecoder

log = logging.getLogger(__name__)

FOLDER = "evidence"
_PICTURES_PER_VIDEO = 3
_SIDE_PX = 180
_APART_SECONDS = 0.5
"""Peaks closer than this show the same picture."""
_JPEG_QUALITY = 80


def take_pictures(
    guard: Guard, run: Path, records: Iterable[Mapping[str, Any]], paths: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Write the peak frames of every blocked or doubtful video below `run`, and return them by content hash.

    A picture that is there already is kept. A video that no longer decodes has none: its verdict stands without.

    Args:
        guard: gives the sandboxed decoder.
        run: the run directory.
        records: lines of the scan.
        paths: where each content lies, by SHA-256.
    """
    taken: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        sha256 = record["sha256"]
        wanted = record["decision"] in ("block", "review") and record["segments"] and sha256 in paths
        if wanted and sha256 not in taken:
            taken[sha256] = _pictures_of(guard, run, record, paths[sha256])
    return taken


def peaks(segments: Iterable[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """Return (seconds, category) of the highest peaks that are not next to each other, in order of time."""
    chosen: list[tuple[float, str]] = []
    for segment in sorted(segments, key=lambda s: -s["peak_score"]):
        seconds = segment["peak_seconds"]
        if all(abs(seconds - other) >= _APART_SECONDS for other, _ in chosen):
            chosen.append((seconds, segment["category"]))
        if len(chosen) == _PICTURES_PER_VIDEO:
            break
    return sorted(chosen)


def _pictures_of(guard: Guard, run: Path, record: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    sha256 = record["sha256"]
    planned: list[dict[str, Any]] = [
        {"seconds": seconds, "category": category, "path": f"{FOLDER}/{sha256[:16]}-{round(seconds * 1000):08d}ms.jpg"}
        for seconds, category in peaks(record["segments"])
    ]
    missing = [picture for picture in planned if not (run / picture["path"]).exists()]
    try:
        if missing:
            video = guard.open(Path(path).absolute(), name=record["source"])
            if video.sha256 != sha256:
                log.warning("%s has changed since it was judged; no pictures of it", sha256)
                return []
            _write(guard, run, video, missing)
    except GuardError as error:
        log.warning("no pictures of %s: %s", sha256, error.code)
    return [picture for picture in planned if (run / picture["path"]).exists()]


def _write(guard: Guard, run: Path, video: Video, pictures: list[dict[str, Any]]) -> None:
    decoder = cast("SandboxedDecoder", guard.pipeline.stages.decoder)
    (run / FOLDER).mkdir(exist_ok=True)
    frames = decoder.frames_at(video, [picture["seconds"] for picture in pictures], _SIDE_PX)
    for picture in pictures:
        nearest = int(abs(frames.pts_seconds - picture["seconds"]).argmin())
        place = run / picture["path"]
        # A picture that is there counts as taken, so a kill must not leave a part of one under its name.
        partial = place.with_suffix(".tmp")
        partial.write_bytes(encode_jpeg(frames.images[nearest]))
        partial.replace(place)


def encode_jpeg(image: UInt8Array) -> bytes:
    """Return a uint8 [H, W, 3] RGB picture as JPEG; only pixels go in, so no metadata comes out."""
    import cv2

    done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise ValueError(f"no JPEG of a picture of shape {image.shape}")
    return bytes(encoded)
