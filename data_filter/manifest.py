"""Manifests in and out: the kept manifest is the only link between the filter and training."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_filter.shards import atomic_write
from data_filter.types import FeatureView
from fast_path import dataset
from fast_path.dataset import Row
from guard.errors import UsageError
from guard.types import Float32Array

_KEEP = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<percent>%?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The rows of a manifest by what they are for."""

    pool: tuple[Row, ...]
    """`train`: what may be kept or dropped."""
    queries: tuple[Row, ...]
    """`val`: the default queries."""
    test: tuple[Row, ...]
    """Never looked at but to make sure that nothing of it is among queries and pool."""
    others: tuple[Row, ...]


def read(path: Path) -> Splits:
    """Read a manifest. Raises `InvalidManifest`, and `UsageError` where no row is for training."""
    rows = dataset.read_manifest(path)
    by = {name: tuple(row for row in rows if row.split == name) for name in ("train", "val", "test")}
    if not by["train"]:
        raise UsageError(f"{path} has no rows of the split 'train'; it has {sorted({row.split for row in rows})}.")
    counts = Counter(row_id(row, path.parent) for row in rows)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UsageError(
            f"{path} names {len(twice)} clips more than once, such as {twice[0]!r}.", hint="Keep one line."
        )
    others = tuple(row for row in rows if row.split not in by)
    return Splits(pool=by["train"], queries=by["val"], test=by["test"], others=others)


def row_id(row: Row, base: Path) -> str:
    """Return the id of a row: its path as the manifest has it, with the times of a segment."""
    name = os.path.relpath(row.path, base)
    if row.start_seconds == 0 and row.end_seconds is None:
        return name
    return f"{name}#{row.start_seconds:g}-{'' if row.end_seconds is None else format(row.end_seconds, 'g')}"


def categories_of(*parts: Sequence[Row]) -> tuple[str, ...]:
    """Return every label that occurs, sorted."""
    return tuple(sorted({label for rows in parts for row in rows for label in row.labels}))


def view_of(
    rows: Sequence[Row], ids: Sequence[str], categories: Sequence[str], embeddings: Float32Array
) -> FeatureView:
    """Return rows as scorers see them. A label is its own category only: an ancestor would blur the label sets."""
    targets = np.array([[float(c in row.labels) for c in categories] for row in rows], dtype=np.float32)
    return FeatureView(
        ids=tuple(ids),
        targets=targets.reshape(len(rows), len(categories)),
        categories=tuple(categories),
        loss="sigmoid",
        groups=tuple(row.group for row in rows),
        embeddings=embeddings,
    )


def parse_keep(text: str | float, total: int) -> int:
    """Return how many rows to keep for `2.4%`, `0.024` or `120`, at least one and rounded to the nearest.

    A number below 1 is a share, one from 1 on a count; a percent sign settles it.
    """
    found = _KEEP.fullmatch(str(text).strip())
    if found is None:
        raise UsageError(f"keep must be a share such as 2.4%, 0.024, or a count such as 120; got {text!r}.")
    number = float(found["number"])
    share = number / 100 if found["percent"] else number
    if not found["percent"] and number >= 1:
        if number != int(number):
            raise UsageError(f"A count must be whole; got {text!r}.", hint=f"Did you mean {text}%?")
        share = number / total
    if not 0 < share <= 1:
        raise UsageError(f"keep must be above 0 and at most all {total} rows; got {text!r}.")
    return max(1, round(share * total))


def record(row: Row, identifier: str, folder: Path) -> dict[str, Any]:
    """Return a manifest line for a row that will lie in `folder`; what the first manifest said beside is kept."""
    line: dict[str, Any] = {
        "path": os.path.relpath(row.path.resolve(), folder.resolve()),
        "labels": list(row.labels),
        "split": row.split,
        "group": row.group,
        "sha256": row.sha256,
        "id": identifier,
    }
    if row.start_seconds:
        line["start_s"] = row.start_seconds
    if row.end_seconds is not None:
        line["end_s"] = row.end_seconds
    return {**row.extra, **line}


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write records as lines, all or nothing."""
    atomic_write(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())
