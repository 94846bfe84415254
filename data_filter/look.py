"""Looking at the rows of a manifest: embeddings, fingerprints, duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_filter import clips, dedup, leakage, manifest
from data_filter.audit import AuditConfig
from data_filter.clips import Clip, ClipSettings
from data_filter.leakage import Fingerprint
from data_filter.types import FeatureView
from data_filter.warmup import WarmUpConfig
from fast_path.dataset import Row
from fast_path.features import FeatureCache
from guard.errors import UsageError

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """Settings of a run; they go into `run.json` and decide whether a run may be resumed."""

    keep: str = "2.4%"
    scorer: str = "grad_cos"
    scorer_settings: dict[str, Any] = field(default_factory=dict)
    selector: str = "facility_location"
    selector_settings: dict[str, Any] = field(default_factory=dict)
    audit: AuditConfig | None = field(default_factory=AuditConfig)
    """None keeps likely wrong labels in."""
    dedup: bool = True
    decode: bool = True
    """Without, embeddings must be given, and look-alikes of test clips cannot be found."""
    floor: int = 1
    """The run fails where a label set with rows to give has fewer picks than this."""
    seed: int = 0
    workers: int = 1
    clips: ClipSettings = field(default_factory=ClipSettings)
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The rows of a manifest, looked at."""

    pool: FeatureView
    queries: FeatureView | None
    rows: tuple[Row, ...]
    prints: tuple[Fingerprint, ...]
    query_prints: tuple[Fingerprint, ...]
    test_prints: tuple[Fingerprint, ...]
    thumbnails: dict[str, bytes]
    failures: tuple[clips.Failure, ...]


def look(
    splits: manifest.Splits,
    asked: Sequence[Row],
    path: Path,
    query_path: Path,
    settings: DistillConfig,
    embeddings: Path | None,
    out: Path,
    progress: Progress | None,
) -> Looked:
    """Look at the pool, the queries and the test rows; clips come from the cache under `out` where they were seen
    before."""
    if not settings.decode and embeddings is None:
        raise UsageError("Without decoding, embeddings must be given.", hint="Pass --embeddings FILE.")
    named = [(row, manifest.row_id(row, path.parent)) for row in splits.pool]
    asked_named = [(row, manifest.row_id(row, query_path.parent)) for row in asked]
    test_named = [(row, manifest.row_id(row, path.parent)) for row in splits.test]
    seen: dict[int, Clip] = {}
    failures: list[clips.Failure] = []
    if settings.decode:
        every = [row for row, _ in (*named, *asked_named, *test_named)]
        cache = FeatureCache(folder=out / "cache")
        found, failures = clips.read_clips(every, settings.clips, cache, workers=settings.workers, progress=progress)
        seen = {id(clip.row): clip for clip in found}
        failed = {id(failure.row) for failure in failures}
        named = [(row, name) for row, name in named if id(row) not in failed]
        asked_named = [(row, name) for row, name in asked_named if id(row) not in failed]
    if len(named) < 2:
        raise UsageError(f"{path}: fewer than two training rows could be looked at.", hint="See RUN/run.json.")
    categories = manifest.categories_of([row for row, _ in named], [row for row, _ in asked_named])

    def view(rows: Sequence[tuple[Row, str]]) -> FeatureView:
        names = [name for _, name in rows]
        if embeddings is not None:
            values = clips.read_embeddings(embeddings, names)
        else:
            values = np.stack([seen[id(row)].embedding for row, _ in rows])
        return manifest.view_of([row for row, _ in rows], names, categories, values)

    def prints(rows: Sequence[tuple[Row, str]]) -> tuple[Fingerprint, ...]:
        return tuple(
            Fingerprint(
                id=name,
                sha256=f"{row.sha256}#{row.start_seconds:g}-{row.end_seconds}",
                group=row.group,
                hashes=seen[id(row)].hashes if id(row) in seen else None,
            )
            for row, name in rows
        )

    return Looked(
        pool=view(named),
        queries=view(asked_named) if asked_named else None,
        rows=tuple(row for row, _ in named),
        prints=prints(named),
        query_prints=prints(asked_named),
        test_prints=prints(test_named),
        thumbnails={name: seen[id(row)].thumbnail for row, name in (*named, *asked_named) if id(row) in seen},
        failures=tuple(failures),
    )


def duplicates(looked: Looked, settings: DistillConfig) -> tuple[dict[str, str], list[dedup.NearPair]]:
    """Return rows to leave out with reasons: look-alikes of test clips, later copies, copies that disagree on the
    label."""
    dropped = {
        o.id: f"overlaps with the test split: {o.test_id} ({o.by})"
        for o in leakage.overlaps(looked.prints, looked.test_prints)
    }
    if not settings.dedup:
        return dropped, []
    at = [i for i, p in enumerate(looked.prints) if p.hashes is not None]
    hashes = [h for i in at if (h := looked.prints[i].hashes) is not None]
    pairs = [replace(p, first=at[p.first], second=at[p.second]) for p in dedup.near_pairs(hashes)]
    # cuts of one video at different times look alike without being copies
    pairs = [p for p in pairs if not _other_segment(looked.rows[p.first], looked.rows[p.second])]
    strata = looked.pool.strata()
    for members in dedup.clusters(len(looked.prints), pairs):
        agree = len({strata[i] for i in members}) == 1
        for i in members[1:] if agree else members:
            first = looked.prints[members[0]].id
            reason = f"near-duplicate: of {first}" if agree else f"near-duplicates with different labels: as {first}"
            dropped.setdefault(looked.prints[i].id, reason)
    return dropped, pairs


def _other_segment(first: Row, second: Row) -> bool:
    return first.sha256 == second.sha256 and first.start_seconds != second.start_seconds
