"""What goes with exemplars and outlives a process: embeddings, and reviewers' overrides that wait to be confirmed.

Exemplars themselves are part of a policy, so they are versioned, hashed and shown with it. Embeddings are a cache
beside it: one per content and encoder. An override becomes an exemplar only after somebody confirmed it, since one
slip of a reviewer would otherwise teach every later verdict.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from guard.errors import BackendError, InvalidPolicy
from guard.types import Exemplar, Float32Array, Policy, require
from policies.exemplars import Demonstration
from policies.exemplars import content_key as content_key

Status = Literal["waiting", "confirmed", "rejected"]

_TABLES = """
CREATE TABLE IF NOT EXISTS embeddings (
    content TEXT NOT NULL, encoder TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (content, encoder)
);
CREATE TABLE IF NOT EXISTS overrides (
    number INTEGER PRIMARY KEY AUTOINCREMENT, layer TEXT NOT NULL, exemplar TEXT NOT NULL, reviewer TEXT NOT NULL,
    at TEXT NOT NULL, status TEXT NOT NULL, decided_by TEXT NOT NULL DEFAULT ''
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A reviewer's decision against a verdict, with the rationale that was typed."""

    number: int
    layer: str
    exemplar: Exemplar
    reviewer: str
    at: str
    """UTC time, ISO 8601."""
    status: Status
    decided_by: str = ""


class ExemplarStore:
    """Embeddings and overrides in one SQLite file, which may be the policy store's own."""

    def __init__(self, path: Path) -> None:
        """Use the file `path`; it is made on the first call."""
        self.path = path

    def save_embedding(self, exemplar: Exemplar, encoder: str, vector: Float32Array) -> None:
        """Keep float32 [D] for the content of `exemplar`, replacing what the same encoder gave before."""
        require(vector.dtype == np.float32 and vector.ndim == 1, "vector", "float32 [D]", (vector.dtype, vector.shape))
        require(bool(np.isfinite(vector).all()), "vector", "finite", vector)
        row = (content_key(exemplar), encoder, vector.astype("<f4").tobytes())
        with self._connect() as connection:
            connection.execute("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", row)

    def embedding(self, exemplar: Exemplar, encoder: str) -> Float32Array | None:
        """Return float32 [D], or None where this encoder has not seen the content."""
        query = "SELECT vector FROM embeddings WHERE content = ? AND encoder = ?"
        with self._connect() as connection:
            row = connection.execute(query, (content_key(exemplar), encoder)).fetchone()
        return None if row is None else np.frombuffer(row[0], "<f4").astype(np.float32)

    def demonstrations(self, policy: Policy, encoder: str) -> tuple[Demonstration, ...]:
        """Return every exemplar of the active rules, with its embedding where there is one."""
        found = []
        for exemplar in (e for rule in policy.active() for e in rule.exemplars):
            vector = self.embedding(exemplar, encoder)
            name = encoder if vector is not None else ""
            found.append(Demonstration(exemplar=exemplar, embedding=vector, encoder=name))
        return tuple(found)

    def missing(self, policy: Policy, encoder: str) -> tuple[Exemplar, ...]:
        """Return the exemplars that an encoder still has to see."""
        return tuple(d.exemplar for d in self.demonstrations(policy, encoder) if d.embedding is None)

    def propose(self, layer: str, exemplar: Exemplar, *, reviewer: str, at: str) -> Override:
        """Keep a reviewer's override until it is confirmed. Raises `InvalidPolicy` without a rationale or a rule."""
        if not exemplar.rationale.strip() or not exemplar.rule:
            raise InvalidPolicy(
                "An override needs its rule and a rationale: an example without a reason teaches little."
            )
        values = (layer, _to_json(exemplar), reviewer, at, "waiting")
        with self._connect() as connection:
            cursor = connection.execute(
                "INSERT INTO overrides (layer, exemplar, reviewer, at, status) VALUES (?, ?, ?, ?, ?)", values
            )
            number = int(cursor.lastrowid or 0)
        return self.override(number)

    def override(self, number: int) -> Override:
        """Return one override. Raises `InvalidPolicy` where there is none of that number."""
        with self._connect() as connection:
            row = connection.execute(f"{_SELECT} WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise InvalidPolicy(f"There is no override {number}.")
        return _override(row)

    def overrides(self, layer: str, status: Status = "waiting") -> tuple[Override, ...]:
        """Return the overrides of a layer in one status, the oldest first."""
        query = f"{_SELECT} WHERE layer = ? AND status = ? ORDER BY number"
        with self._connect() as connection:
            return tuple(_override(row) for row in connection.execute(query, (layer, status)))

    def decide(self, number: int, *, confirm: bool, by: str) -> Override:
        """Confirm or reject a waiting override, once; what is confirmed may then be added as an exemplar.

        The one who confirms must not be the reviewer: see `policies.commands.add_examples` for the step that follows.

        Raises:
            InvalidPolicy: it was decided already, or by the reviewer themself.
        """
        found = self.override(number)
        if by.strip() == found.reviewer.strip():
            raise InvalidPolicy(f"Override {number} is {found.reviewer!r}'s own; somebody else must confirm it.")
        status: Status = "confirmed" if confirm else "rejected"
        with self._connect() as connection:
            cursor = connection.execute(
                "UPDATE overrides SET status = ?, decided_by = ? WHERE number = ? AND status = 'waiting'",
                (status, by, number),
            )
            if cursor.rowcount != 1:
                raise InvalidPolicy(f"Override {number} was {found.status} by {found.decided_by!r} already.")
        return self.override(number)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=30.0)) as connection:
                connection.executescript(_TABLES)
                with connection:
                    yield connection
        except (sqlite3.DatabaseError, OSError) as error:
            raise BackendError(f"The exemplar store {str(self.path)!r} cannot be used: {error}.") from error


_SELECT = "SELECT number, layer, exemplar, reviewer, at, status, decided_by FROM overrides"


def _to_json(exemplar: Exemplar) -> str:
    names = ("rule", "violates", "text", "rationale", "source", "sha256")
    return json.dumps({name: getattr(exemplar, name) for name in names})


def _override(row: Sequence[object]) -> Override:
    number, layer, exemplar, reviewer, at, status, decided_by = row
    return Override(
        number=int(str(number)),
        layer=str(layer),
        exemplar=Exemplar(**json.loads(str(exemplar))),
        reviewer=str(reviewer),
        at=str(at),
        status=_status(str(status)),
        decided_by=str(decided_by),
    )


def _status(value: str) -> Status:
    if value not in get_args(Status):
        raise InvalidPolicy(f"The exemplar store holds the status {value!r}, which there is not.")
    return cast(Status, value)
