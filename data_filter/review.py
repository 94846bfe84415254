"""The audit queue on disk: a person decides row by row, every decision is a line, and any of them can be taken back.

`queue.jsonl` holds the findings. `decisions.jsonl` only grows: the last line for an id counts, and `undo` is a line
too. The manifest itself is never written: `guard distill --decisions` applies them to the rows that it reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from data_filter import audit
from data_filter.audit import Finding
from data_filter.shards import atomic_write
from data_filter.types import BENIGN
from fast_path.dataset import Row
from guard import taxonomy
from guard.errors import UsageError

Action = Literal["keep", "relabel", "drop", "undo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person decided on one row."""

    id: str
    action: Action
    labels: tuple[str, ...] = ()
    """The right labels, for `relabel`; empty means benign."""
    by: str = ""
    note: str = ""
    at: str = ""
    """ISO time."""


class ReviewQueue:
    """A folder with the queue and its decisions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, findings: Sequence[Finding]) -> None:
        """Write the findings in doubt; decisions already taken stay."""
        lines = (json.dumps(audit.as_record(f), ensure_ascii=False) for f in findings if f.doubted)
        atomic_write(self.folder / "queue.jsonl", "".join(f"{line}\n" for line in lines).encode())

    def findings(self) -> list[dict[str, Any]]:
        """Return the queue, most suspicious first."""
        path = self.folder / "queue.jsonl"
        if not path.exists():
            raise UsageError(f"{self.folder} holds no queue.jsonl.", hint="Run `guard distill audit` first.")
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]

    def decide(self, decision: Decision) -> None:
        """Append a decision. Raises `UsageError` for a row that is not in the queue, or an action that does not
        exist."""
        if decision.action not in get_args(Action):
            raise UsageError(f"action must be one of {', '.join(get_args(Action))}; got {decision.action!r}.")
        if decision.id not in {finding["id"] for finding in self.findings()}:
            raise UsageError(f"{decision.id!r} is not in the queue of {self.folder}.")
        if decision.action != "relabel" and decision.labels:
            raise UsageError(f"labels go with relabel only; the action is {decision.action!r}.")
        labels = tuple(label for label in decision.labels if label != BENIGN)
        unknown = [label for label in labels if not taxonomy.is_known(label)]
        if unknown:
            guess = taxonomy.suggestion(unknown[0])
            raise UsageError(f"There is no category {unknown[0]!r}." + (f" Did you mean {guess!r}?" if guess else ""))
        stamp = decision.at or datetime.now(UTC).isoformat(timespec="seconds")
        record = {
            "id": decision.id,
            "action": decision.action,
            "labels": list(labels),
            "by": decision.by,
            "note": decision.note,
            "at": stamp,
        }
        with (self.folder / "decisions.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def decisions(self) -> dict[str, Decision]:
        """Return the decision in force for each row; an undone row is open again."""
        path = self.folder / "decisions.jsonl"
        found: dict[str, Decision] = {}
        if not path.exists():
            return found
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            try:
                raw = json.loads(line)
            except ValueError as error:  # a kill in the middle of a line
                raise UsageError(f"{path}, line {number} is no JSON: {error}.", hint="Remove the line.") from error
            decision = Decision(**{**raw, "labels": tuple(raw["labels"])})
            found.pop(decision.id, None)
            if decision.action != "undo":
                found[decision.id] = decision
        return found

    def pending(self) -> list[dict[str, Any]]:
        """Return the findings that nobody has decided on."""
        decided = self.decisions()
        return [finding for finding in self.findings() if finding["id"] not in decided]


def apply(
    rows: Sequence[Row], names: Sequence[str], decisions: Mapping[str, Decision]
) -> tuple[tuple[Row, ...], dict[str, str]]:
    """Return the rows with decisions applied, and those to leave out with reasons.

    `relabel` changes the labels and keeps the old ones as `labels_before_audit`; `drop` leaves a row out; `keep`
    changes nothing. `names` are the ids of `rows`.
    """
    found: list[Row] = []
    dropped: dict[str, str] = {}
    for row, name in zip(rows, names, strict=True):
        decision = decisions.get(name)
        if decision is not None and decision.action == "drop":
            dropped[name] = f"dropped by a person: {decision.by or 'no name given'}"
            continue
        if decision is not None and decision.action == "relabel":
            row = replace(row, labels=decision.labels, extra={**row.extra, "labels_before_audit": list(row.labels)})
        found.append(row)
    return tuple(found), dropped
