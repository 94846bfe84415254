"""`guard distill annotate`: the clips of a manifest that a person should label, the most useful first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_filter import annotate, clips, manifest, results
from data_filter.annotate import AnnotateConfig
from data_filter.look import DistillConfig, Progress
from fast_path import dataset
from fast_path.features import FeatureCache


def run_annotate(
    path: Path,
    out: Path,
    count: int,
    config: AnnotateConfig | None = None,
    *,
    settings: DistillConfig | None = None,
    embeddings: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Write `annotate.jsonl` to `out` and return its lines: manifest lines with `pick` and `reach`.

    Labels in the manifest are ignored; `test` rows are never offered.
    """
    wanted = settings or DistillConfig()
    rows = tuple(row for row in dataset.read_manifest(path) if row.split != "test")
    failures: list[clips.Failure] = []
    if embeddings is None:
        held = FeatureCache(folder=cache or out / "cache")
        seen, failures = clips.read_clips(rows, wanted.clips, held, workers=wanted.workers, progress=progress)
        rows = tuple(clip.row for clip in seen)
        names = [manifest.row_id(row, path.parent) for row in rows]
        values = np.stack([clip.embedding for clip in seen]) if seen else np.zeros((0, 1), dtype=np.float32)
    else:
        names = [manifest.row_id(row, path.parent) for row in rows]
        values = clips.read_embeddings(embeddings, names)
    results.write_failures(out, failures)
    picks = annotate.pick(values, count, config)
    lines = [
        {**manifest.record(rows[i], names[i], out), "pick": rank, "reach": round(float(reach), 4)}
        for rank, (i, reach) in enumerate(zip(picks.indices, picks.reach, strict=True), 1)
    ]
    manifest.write_jsonl(out / "annotate.jsonl", lines)
    return lines
