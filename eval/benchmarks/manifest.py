"""Any labelled set of videos or pictures: a manifest as training reads it (see docs/files.md)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles, as_object
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from fast_path.dataset import Row, read_manifest
from guard import taxonomy
from guard.errors import UsageError

ABOUT = About(
    title="Any manifest of videos with category labels",
    kind="video",
    get="Write one JSON line or CSV row for each clip: path, labels, split, group (docs/files.md).",
    layout=("manifest.jsonl or manifest.csv (or --set file=NAME)", "the clips that it names"),
    notes=("Columns are the labels that occur in the chosen split; give --set columns=a,b to choose them.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Which manifest, and which part of it."""

    data: Path
    file: str = ""
    """Name below `data`; empty takes manifest.jsonl or manifest.csv."""
    split: str = "val"
    columns: str = ""
    """Category ids, separated by commas; empty takes every label that occurs."""
    raw_labels: str = ""
    """Take only rows whose `raw_label` is one of these, separated by commas."""


def build(config: Config) -> Benchmark:
    """Read the manifest. Raises `UsageError` where it is missing or the split is empty, `InvalidManifest` otherwise."""
    files = LabelFiles(config.data, ABOUT)
    path, _ = files.text(*([config.file] if config.file else ["manifest.jsonl", "manifest.csv"]))
    rows = rows_of(path, config.split, tuple(filter(None, config.raw_labels.split(","))))
    columns = columns_of(rows, tuple(filter(None, config.columns.split(","))))
    return benchmark_of("manifest", ABOUT, rows, columns, files, path.parent)


def rows_of(path: Path, split: str, raw_labels: Sequence[str]) -> list[Row]:
    """Return the rows of one split. Raises `UsageError` where there are none."""
    every = _read(path)
    kept = [row for row in every if row.split == split and (not raw_labels or row.extra.get("raw_label") in raw_labels)]
    if not kept:
        splits = ", ".join(sorted({row.split for row in every}))
        raise UsageError(f"{path} has no such rows of the split {split!r}; its splits are {splits}.")
    return kept


def _read(path: Path) -> list[Row]:
    """Read the manifest, with a stand-in for each hash that it lacks: a clip that is missing must not end the reading,
    and the content is hashed when it is opened anyway."""
    if path.suffix == ".csv":
        return read_manifest(path)
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            plain = as_object(line, f"{path}, line {number}")
            plain.setdefault("sha256", hashlib.sha256(str(plain.get("path")).encode()).hexdigest())
            plain["path"] = os.path.abspath(path.parent / str(plain.get("path")))  # noqa: PTH100 - links stay
            lines.append(json.dumps(plain) + "\n")
    filled = scratch() / path.name
    filled.write_text("".join(lines), encoding="utf-8")
    return read_manifest(filled)


def columns_of(rows: Sequence[Row], chosen: Sequence[str]) -> tuple[Column, ...]:
    """Return a column for each chosen category, or for each label that occurs."""
    names = chosen or sorted({label for row in rows for label in row.labels})
    unknown = [name for name in names if not taxonomy.is_known(name)]
    if unknown or not names:
        guess = taxonomy.suggestion(unknown[0]) if unknown else None
        what = (
            f"There is no category {unknown[0]!r}." if unknown else "No row has a label, so there is nothing to score."
        )
        raise UsageError(what + (f" Did you mean {guess!r}?" if guess else ""))
    known = taxonomy.categories()
    return tuple(Column(id=n, name=known[n].name if n in known else n, accepts=(n,)) for n in names)


def benchmark_of(
    name: str, about: About, rows: Sequence[Row], columns: Sequence[Column], files: LabelFiles, base: Path
) -> Benchmark:
    """Return the benchmark of some manifest rows; a label counts for its own column and for the ones above it."""
    found = Collector(benchmark=name, get=about.get)
    for row in rows:
        shown = os.path.relpath(row.path, base)
        labels = tuple(c.id for c in columns if any(taxonomy.covers(c.id, label) for label in row.labels))
        end = row.end_seconds
        gold = Gold(
            name=shown,
            labels=labels,
            group=row.group,
            split=row.split,
            stem=str(row.extra.get("raw_label") or (row.labels[0] if row.labels else "benign")),
            spans_seconds=((row.start_seconds, end),) if row.labels and end is not None else None,
        )
        found.video(row.path, gold, wanted=shown)
    return finish(found, about, columns, data_hash=files.hash)


def miniature(data: Path) -> Config:
    """Write four clips of two categories below `data`."""
    labels: tuple[list[str], ...] = (["violence.fighting"], ["illegal.fire"], [], [])
    lines = []
    for seed, own in enumerate(labels):
        write_tiny(data / f"clips/{seed}.mp4", seed)
        line = {"path": f"clips/{seed}.mp4", "labels": own, "split": "val", "group": f"g{seed}"}
        lines.append(json.dumps(line) + "\n")
    (data / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
