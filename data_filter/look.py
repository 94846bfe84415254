"""Looking at the rows of a manifest: embeddings, fingerprints, duplicates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from data_filter import clips, dedup, leakage, manifest
from data_filter.audit import AuditConfig
from data_filter.clips import Clip, ClipSettings, Pictures
from data_filter.leakage import Fingerprint
from data_filter.types import FeatureView
from data_filter.warmup import WarmUpConfig
from fast_path.dataset import Row
from fast_path.features import FeatureCache
from guard.errors import UsageError

Progress = Callable[[str, int, int], None]
Named: TypeAlias = list[tuple[Row, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """Settings of a run; they go into `run.json` and decide whether a run may be resumed."""

    keep: str = "2.4%"
    scorer: str = "grad_cos"
    scorer_settings: dict[str, Any] = field(default_factory=dict)
    selector: str = "facility_location"
    selector_settings: dict[str, Any] = field(default_factory=dict)
    audit: AuditConfig | None = field(default_factory=AuditConfig)
    """None looks for no wrong labels."""
    drop_doubtful: bool = False
    """Leave out rows whose label is likely wrong until a person has decided; otherwise they only wait in the queue.
    Among the likely wrong ones are the hard ones, which teach most (docs/distill.md)."""
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
class Inputs:
    """The files of a run."""

    manifest: Path
    queries: Path | None = None
    """Another manifest, all of whose rows are queries; without, the `val` rows are."""
    embeddings: Path | None = None
    """`.npz` with `ids` and `embeddings` for every pool and query row; without, the encoder makes them."""
    decisions: Path | None = None
    """Folder of a review queue whose decisions count."""
    cache: Path | None = None
    """Folder of what was read of clips; None keeps it in the run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The rows of a manifest, looked at."""

    pool: FeatureView
    queries: FeatureView | None
    rows: tuple[Row, ...]
    prints: tuple[Fingerprint, ...]
    query_prints: tuple[Fingerprint, ...]
    test_prints: tuple[Fingerprint, ...]
    pictures: Pictures
    failures: tuple[clips.Failure, ...]

    def without(self, ids: Collection[str]) -> Looked:
        """Return this without some rows of the pool."""
        left = [i for i, name in enumerate(self.pool.ids) if name not in ids]
        if len(left) < 2:
            raise UsageError(f"Fewer than two training rows are left of {len(self.rows)}.")
        return replace(
            self,
            pool=self.pool.take(left),
            rows=tuple(self.rows[i] for i in left),
            prints=tuple(self.prints[i] for i in left),
        )


def look(
    splits: manifest.Splits,
    asked: Sequence[Row],
    inputs: Inputs,
    settings: DistillConfig,
    out: Path,
    progress: Progress | None,
) -> Looked:
    """Look at the pool, the queries and the test rows; clips come from the cache where they were seen before."""
    if not settings.decode and inputs.embeddings is None:
        raise UsageError("Without decoding, embeddings must be given.", hint="Pass --embeddings FILE.")
    base = inputs.manifest.parent
    folders = (base, base if inputs.queries is None else inputs.queries.parent, base)
    parts: list[Named] = [
        [(row, manifest.row_id(row, folder)) for row in rows]
        for rows, folder in zip((splits.pool, asked, splits.test), folders, strict=True)
    ]
    cache = FeatureCache(folder=inputs.cache or out / "cache")
    seen: dict[int, Clip] = {}
    failures: list[clips.Failure] = []
    if settings.decode:
        every = [row for part in parts for row, _ in part]
        found, failures = clips.read_clips(every, settings.clips, cache, workers=settings.workers, progress=progress)
        seen = {id(clip.row): clip for clip in found}
    failed = {id(failure.row) for failure in failures}
    # test rows stay: content and group of one that cannot be read still count
    pool, queries = ([item for item in part if id(item[0]) not in failed] for part in parts[:2])
    if len(pool) < 2:
        raise UsageError(f"{inputs.manifest}: fewer than two training rows could be looked at.", hint=_first(failures))
    categories = manifest.categories_of([row for row, _ in pool], [row for row, _ in queries])
    return Looked(
        pool=_view(pool, categories, seen, inputs.embeddings),
        queries=_view(queries, categories, seen, inputs.embeddings) if queries else None,
        rows=tuple(row for row, _ in pool),
        prints=_prints(pool, seen),
        query_prints=_prints(queries, seen),
        test_prints=_prints(parts[2], seen),
        pictures=Pictures(cache=cache, keys={name: seen[id(row)].key for row, name in pool if id(row) in seen}),
        failures=tuple(failures),
    )


def _view(rows: Named, categories: Sequence[str], seen: Mapping[int, Clip], embeddings: Path | None) -> FeatureView:
    names = [name for _, name in rows]
    if embeddings is not None:
        values = clips.read_embeddings(embeddings, names)
    else:
        values = np.stack([seen[id(row)].embedding for row, _ in rows])
    return manifest.view_of([row for row, _ in rows], names, categories, values)


def _prints(rows: Named, seen: Mapping[int, Clip]) -> tuple[Fingerprint, ...]:
    return tuple(
        Fingerprint(
            id=name,
            sha256=row.sha256,
            group=row.group,
            hashes=seen[id(row)].hashes if id(row) in seen else None,
        )
        for row, name in rows
    )


def _first(failures: Sequence[clips.Failure]) -> str:
    return f"The first failure: {failures[0].row.path.name}: {failures[0].message}" if failures else ""


def leaks(looked: Looked) -> dict[str, str]:
    """Return the rows of the pool that show what the test split or a query shows, with reasons.

    They must go before anything is trained: a head that saw them would carry their labels into every score. Of
    queries only the very same file counts; clips that look like a query are what a filter is for.
    """
    asked = {p.sha256: p.id for p in looked.query_prints}
    found = {p.id: f"is a query: {asked[p.sha256]} is the same file" for p in looked.prints if p.sha256 in asked}
    for o in leakage.overlaps(looked.prints, looked.test_prints):
        found[o.id] = f"overlaps with the test split: {o.test_id} ({o.by})"
    return found


def duplicates(looked: Looked) -> tuple[dict[str, str], list[dedup.NearPair]]:
    """Return rows to leave out with reasons: later copies, and copies that disagree on the label."""
    at = [i for i, p in enumerate(looked.prints) if p.hashes is not None]
    hashes = [h for i in at if (h := looked.prints[i].hashes) is not None]
    near = [replace(p, first=at[p.first], second=at[p.second]) for p in dedup.near_pairs(hashes)]
    # cuts of one video at different times look alike without being copies
    pairs = [p for p in near if not _apart(looked.rows[p.first], looked.rows[p.second])]
    known = {(p.first, p.second) for p in pairs}
    pairs += [p for p in _same_file(looked.rows) if (p.first, p.second) not in known]
    dropped: dict[str, str] = {}
    strata = looked.pool.strata()
    for members in dedup.clusters(len(looked.prints), pairs):
        agree = len({strata[i] for i in members}) == 1
        for i in members[1:] if agree else members:
            first = looked.prints[members[0]].id
            reason = f"near-duplicate: of {first}" if agree else f"near-duplicates with different labels: as {first}"
            dropped[looked.prints[i].id] = reason
    return dropped, pairs


def _same_file(rows: Sequence[Row]) -> list[dedup.NearPair]:
    """Return pairs of rows with the same content and times, which need no decoding to be told."""
    first: dict[tuple[str, float, float | None], int] = {}
    found = []
    for i, row in enumerate(rows):
        j = first.setdefault((row.sha256, row.start_seconds, row.end_seconds), i)
        if j != i:
            found.append(dedup.NearPair(first=j, second=i, bits=0.0))
    return found


def _apart(first: Row, second: Row) -> bool:
    """Whether two rows are cuts of one file that share less than half of the shorter one."""
    if first.sha256 != second.sha256:
        return False
    ends = [row.end_seconds if row.end_seconds is not None else float("inf") for row in (first, second)]
    shared = min(ends) - max(first.start_seconds, second.start_seconds)
    shorter = min(end - row.start_seconds for end, row in zip(ends, (first, second), strict=True))
    return shared < shorter / 2
