"""Decontamination: what of a benchmark a training manifest has seen, by content and by look.

Content is the SHA-256 of the file; look is the perceptual hash of `data_filter.dedup`, which survives re-encoding,
other sizes and small crops. Both sides are read through the same eyes as the data filter's own leak check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_filter import dedup
from data_filter.dedup import Hashes
from data_filter.leakage import Fingerprint, Overlap, overlaps
from eval.runner import Progress
from eval.types import Benchmark
from fast_path import dataset
from fast_path.dataset import Row
from guard.errors import InputError

MOMENTS = 6
SPACING_SECONDS = 0.4
SIDE_PX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapReport:
    """What was found, and what could not be looked at."""

    found: tuple[Overlap, ...]
    """`id` names the benchmark's item, `test_id` the training clip that shows the same."""
    items: int
    training: int
    unread: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        pairs = [{"item": o.id, "training": o.test_id, "by": o.by} for o in self.found]
        counts = {by: sum(o.by == by for o in self.found) for by in ("content", "look", "group")}
        return {
            "items": self.items,
            "training": self.training,
            "overlapping": len(self.found),
            "by": counts,
            "share": len(self.found) / self.items if self.items else None,
            "pairs": pairs,
            "unread": list(self.unread),
        }


def check(
    benchmark: Benchmark, manifest: Path, *, split: str | None = "train", progress: Progress | None = None
) -> OverlapReport:
    """Compare every item of `benchmark` with every row of `manifest` (of one split; None: of all).

    Raises:
        InvalidManifest: the manifest cannot be read.
    """
    rows = [row for row in dataset.read_manifest(manifest) if split is None or row.split == split]
    unread: list[str] = []
    training = [(str(row.path), row) for row in rows]
    items = [(i.gold.name, _row(i.sample.path)) for i in benchmark.items if i.sample.path is not None]
    total = len(training) + len(items)
    seen = _fingerprints(training, "train", unread, progress, 0, total)
    asked = _fingerprints(items, "item", unread, progress, len(training), total)
    texts = _text_overlaps(benchmark, rows)
    return OverlapReport(
        found=(*overlaps(asked, seen), *texts),
        items=len(benchmark.items),
        training=len(rows),
        unread=tuple(unread),
    )


def hashes_of(row: Row) -> Hashes:
    """Return look and motion at six moments of a clip. Raises an `InputError` where it gives no frame."""
    length = dataset.duration_seconds(row)
    last = max(0.0, length - SPACING_SECONDS)
    plan = dataset.BurstPlan(
        starts_seconds=np.linspace(0, last, MOMENTS), spacing_seconds=np.full(MOMENTS, SPACING_SECONDS)
    )
    (bursts,) = dataset.read_bursts(row, [plan], frames=2, side_px=SIDE_PX)
    return dedup.clip_hashes(bursts[:, 0], bursts[:, 1])


def _fingerprints(
    named: Sequence[tuple[str, Row]],
    side: str,
    unread: list[str],
    progress: Progress | None,
    done: int,
    total: int,
) -> list[Fingerprint]:
    made = []
    for number, (name, row) in enumerate(named, done + 1):
        hashes: Hashes | None = None
        try:
            hashes = hashes_of(row)
        except InputError as error:
            unread.append(f"{name}: {error.code}")
        # Groups are names of one data set and mean nothing in another: each side has its own, so they never meet.
        made.append(Fingerprint(id=name, sha256=row.sha256, group=f"{side} {number}", hashes=hashes))
        if progress is not None:
            progress("hash", number, total)
    return made


def _row(path: Path) -> Row:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    still = path.suffix.lower() in dataset.STILLS
    return Row(path=path, labels=(), split="", group=str(path), sha256=digest, still=still)


def _text_overlaps(benchmark: Benchmark, rows: Sequence[Row]) -> list[Overlap]:
    """Return the texts of a benchmark that the manifest's rows carry word for word in a `text` field."""
    trained = {_folded(str(row.extra["text"])): str(row.path) for row in rows if row.extra.get("text")}
    return [
        Overlap(id=item.gold.name, test_id=trained[key], by="content")
        for item in benchmark.items
        if item.sample.text and (key := _folded(item.sample.text)) in trained
    ]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
