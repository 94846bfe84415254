"""Leakage: rows of queries or pool that show what the test split shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_filter import dedup
from data_filter.dedup import Hashes
from guard.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What identifies a clip for leakage: content, source group, look."""

    id: str
    sha256: str
    """Of the file, whatever part of it the row is about: two cuts of one video leak into each other."""
    group: str
    hashes: Hashes | None = None
    """None where the clip was not decoded; only content and group are compared then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A row that shows what a test row shows."""

    id: str
    test_id: str
    by: str
    """`content`, `group` or `look`."""


def overlaps(rows: Sequence[Fingerprint], test: Sequence[Fingerprint]) -> list[Overlap]:
    """Return the rows that overlap with test rows, each once, by the surest reason."""
    contents = {t.sha256: t.id for t in test}
    groups = {t.group: t.id for t in test}
    looks: dict[int, int] = {}
    left = [i for i, row in enumerate(rows) if row.hashes is not None]
    right = [j for j, row in enumerate(test) if row.hashes is not None]
    for pair in dedup.near_pairs(_hashes(rows, left), _hashes(test, right)):
        looks.setdefault(left[pair.first], right[pair.second])
    found = []
    for i, row in enumerate(rows):
        if row.sha256 in contents:
            found.append(Overlap(id=row.id, test_id=contents[row.sha256], by="content"))
        elif row.group in groups:
            found.append(Overlap(id=row.id, test_id=groups[row.group], by="group"))
        elif i in looks:
            found.append(Overlap(id=row.id, test_id=test[looks[i]].id, by="look"))
    return found


def _hashes(rows: Sequence[Fingerprint], at: Sequence[int]) -> list[Hashes]:
    return [hashes for i in at if (hashes := rows[i].hashes) is not None]


def refuse(queries: Sequence[Fingerprint], test: Sequence[Fingerprint]) -> None:
    """Raise `UsageError` where a query overlaps with the test split: choosing by test clips would spoil every later
    number."""
    found = overlaps(queries, test)
    if found:
        shown = "; ".join(f"{o.id} = {o.test_id} ({o.by})" for o in found[:3])
        raise UsageError(
            f"{len(found)} of {len(queries)} queries overlap with the test split: {shown}.",
            hint="Take them out of the queries, or move them and their group out of the test split.",
        )
