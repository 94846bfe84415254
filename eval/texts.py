"""Reading text benchmarks: the published files, or the same rows as labelled JSON lines (see `fast_path.text`).

A labelled line has id, text, labels (the source's own), split, dup_group and lang. Near copies share a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.building import finish
from eval.files import Collector, LabelFiles
from eval.types import About, Benchmark, Column, Gold
from guard.errors import InvalidManifest, UsageError

Labels = Mapping[str, int]
"""Column id to 1 or 0; a column that is absent is unknown."""
Reader = Callable[[Mapping[str, Any]], Labels]
"""From a row's own labels to ours; a `KeyError`, `ValueError` or `TypeError` means that they are damaged."""

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One text."""

    name: str
    text: str
    labels: Labels
    group: str = ""
    split: str = "test"
    stem: str = ""
    language: str = ""


def prepared(
    files: LabelFiles, name: str, reader: Reader, *, stem: Callable[[Mapping[str, Any]], str] = lambda _: ""
) -> Iterator[Entry]:
    """Yield the rows of `name`.jsonl. Raises `InvalidManifest` for a damaged one."""
    for where, row in files.json_lines(name):
        try:
            yield Entry(
                name=str(row["id"]),
                text=str(row["text"]),
                labels=reader(row["labels"]),
                group=str(row.get("dup_group") or row["id"]),
                split=str(row["split"]),
                stem=stem(row["labels"]),
                language=str(row.get("lang", "")),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidManifest(f"{where} is not a labelled text: {error!r}.") from error


def finish_texts(
    name: str,
    about: About,
    columns: Sequence[Column],
    entries: Iterable[Entry],
    files: LabelFiles,
    *,
    split: str,
    protocols: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Benchmark:
    """Return the benchmark of one split (`all` for every row).

    Raises:
        UsageError: no row is of that split; the message has the splits that there are.
    """
    found = Collector(benchmark=name, get=about.get)
    every = list(entries)
    splits = Counter(entry.split for entry in every)
    asked = [entry for entry in every if split in (ALL, entry.split)]
    columns, left_out = _labelled(columns, asked)
    notes = [*notes, *left_out]
    for entry in asked:
        if not any(column.id in entry.labels for column in columns):
            continue
        known = tuple(column.id for column in columns if column.id in entry.labels)
        gold = Gold(
            name=entry.name,
            labels=tuple(column for column in known if entry.labels[column]),
            known=None if len(known) == len(columns) else known,
            group=entry.group,
            split=entry.split,
            domain=entry.language,
            stem=entry.stem,
        )
        found.text(entry.text, gold)
    if not found.items:
        named = ", ".join(f"{key} ({count})" for key, count in splits.items()) or "none"
        raise UsageError(f"{name} has no row of the split {split!r}; its splits are {named}.", hint=about.get)
    return finish(found, about, columns, data_hash=f"{files.hash}-{split}", protocols=protocols, notes=notes)


def _labelled(columns: Sequence[Column], entries: Sequence[Entry]) -> tuple[tuple[Column, ...], list[str]]:
    """Return the columns that some entry has a label for, and what was left out, in words."""
    kept = tuple(column for column in columns if any(column.id in entry.labels for entry in entries))
    absent = [column.name for column in columns if column not in kept]
    silent = sum(not any(column.id in entry.labels for column in kept) for entry in entries)
    notes = [f"No row of this copy is labelled for {', '.join(absent)}."] if absent and kept else []
    return kept, notes + ([f"{silent} rows without any label were left out."] if silent else [])


def flag(value: object) -> int:
    """Return 1 or 0 for what label files write. Raises `ValueError` for anything else."""
    text = str(value).strip().lower()
    if text in ("1", "1.0", "true", "yes"):
        return 1
    if text in ("0", "0.0", "false", "no"):
        return 0
    raise ValueError(f"{value!r} is neither 0 nor 1")


def checked(where: str, labels: Callable[[], Labels]) -> Labels:
    """Return the labels of one row. Raises `InvalidManifest` that names the place."""
    try:
        return labels()
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidManifest(f"{where} has no usable label: {error!r}.") from error
