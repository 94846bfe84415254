"""Layers on disk: every edit is kept, none overwrites another, and each layer's history can be read and taken back.

One SQLite file. An edit is written only as the next number of its layer; where another process wrote that number first,
the edit is made again on top of what is there now. So an edit by way of the API and one by way of the command line that
race are both kept, in the order in which they were written, or the second is refused with a reason.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from guard.config import Settings, load_settings
from guard.errors import BackendError, InvalidPolicy, LayerChanged, PolicyNotFound
from guard.types import Policy
from policies import describe, load, schema
from policies.canonical import patch_to_plain
from policies.compose import Composed, Layer, compose
from policies.edits import Change, Edit, History, Kind
from policies.names import checked
from policies.patch import Patch
from policies.personalize import Outcome

PREFIX = "layer:"
"""A policy called `layer:<name>` is that layer on all the layers below it."""
MAX_DEPTH = 8
"""Layers on top of each other; platform, community and user are three."""
FILE = "policies.sqlite3"
_BUSY_SECONDS = 30.0
_ATTEMPTS = 50
"""An attempt fails only where another writer succeeded: this many lost races in a row mean that something is wrong."""

_TABLES = """
CREATE TABLE IF NOT EXISTS layers (name TEXT PRIMARY KEY, kind TEXT NOT NULL, below TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS edits (
    layer TEXT NOT NULL REFERENCES layers(name), number INTEGER NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (layer, number)
);
"""


def default_path(settings: Settings | None = None) -> Path:
    """Return the store of this process: `GUARD_POLICY_STORE`, or a file in the home of video-guard."""
    settings = settings or load_settings()
    return Path(settings.policy_store) if settings.policy_store else settings.home / FILE


class PolicyStore:
    """The layers of one installation. Safe for many threads and processes; each call opens its own connection."""

    def __init__(self, path: Path) -> None:
        """Use the SQLite file `path`; a directory stands for the file `policies.sqlite3` in it."""
        self.path = path / FILE if path.is_dir() else path

    def create(self, name: str, *, kind: Kind = "user", below: str = "default") -> History:
        """Make an empty layer on top of `below`, or return the one that is there.

        Raises:
            InvalidPolicy: it is there already on top of something else, or the name or kind is not allowed.
            PolicyNotFound: there is no `below`.
        """
        if kind not in get_args(Kind):
            raise InvalidPolicy(f"The kind of a layer is one of {', '.join(get_args(Kind))}; got {kind!r}.")
        name = checked(name)
        if below not in load.library() and Path(below).is_file():
            below = str(Path(below).resolve())  # the layer is used from other folders as well
        self.below(History(name=name, kind=kind, below=below))
        with self._connect() as connection:
            connection.execute("INSERT OR IGNORE INTO layers VALUES (?, ?, ?)", (name, kind, below))
        found = self.history(name)
        if (found.kind, found.below) != (kind, below):
            raise InvalidPolicy(f"The layer {name!r} is there already, as {found.kind} on {found.below!r}.")
        return found

    def layers(self) -> tuple[History, ...]:
        """Return every layer, by name."""
        with self._connect() as connection:
            rows = connection.execute("SELECT name FROM layers ORDER BY name").fetchall()
        return tuple(self.history(name) for (name,) in rows)

    def history(self, name: str) -> History:
        """Return one layer with all its edits. Raises `PolicyNotFound` with the layers there are."""
        with self._connect() as connection:
            row = connection.execute("SELECT kind, below FROM layers WHERE name = ?", (name,)).fetchone()
            if row is None:
                known = [found for (found,) in connection.execute("SELECT name FROM layers ORDER BY name")]
                raise PolicyNotFound(
                    f"There is no layer {name!r}; the store has: {', '.join(known) or 'none'}.",
                    hint="The first `guard policy block NAME --layer LAYER` makes it.",
                )
            query = "SELECT number, content FROM edits WHERE layer = ? ORDER BY number"
            edits = tuple(_edit(number, content) for number, content in connection.execute(query, (name,)))
        return History(name=name, kind=row[0], below=row[1], edits=edits)

    def below(self, history: History) -> Composed:
        """Return what a layer lies on."""
        layers, base = self._stack(history)
        return compose(base, layers)

    def effective(self, name: str) -> Composed:
        """Return the policy of a layer: its base under every layer up to this one, with who decided what.

        Raises:
            InvalidPolicy: a layer below has since locked what this one loosens; the message names both.
        """
        history = self.history(name)
        layers, base = self._stack(history)
        composed = compose(base, [*layers, history.layer()])
        about = describe.description(base, composed.policy)
        return replace(composed, policy=replace(composed.policy, description=about))

    def update(self, name: str, edit: Callable[[History, Composed], Outcome]) -> Outcome:
        """Apply one edit to the newest version of a layer and keep it; nothing is written where it changes nothing.

        Args:
            name: the layer.
            edit: a pure function such as `personalize.block`, of the layer and the policy below. It is called again on
                the new state of things where another writer was faster.
        """
        for _ in range(_ATTEMPTS):
            history = self.history(name)
            outcome = edit(history, self.below(history))
            if outcome.history.version == history.version or self._append(name, outcome.history.edits[-1]):
                return outcome
        raise LayerChanged(f"The layer {name!r} changed {_ATTEMPTS} times while one edit was made; try again.")

    def append(self, name: str, edit: Edit, *, expected_version: int) -> None:
        """Keep an edit made on top of `expected_version`. Raises `LayerChanged` where that is not the newest."""
        if edit.number != expected_version + 1 or not self._append(name, edit):
            newest = self.history(name).version
            raise LayerChanged(f"The layer {name!r} is at version {newest}, the edit was made on {expected_version}.")

    def _append(self, name: str, edit: Edit) -> bool:
        """Write the edit under its number; False where that number is taken or would leave a hole."""
        content = json.dumps(_to_plain(edit), ensure_ascii=True)
        with self._connect() as connection:
            try:
                cursor = connection.execute(
                    "INSERT INTO edits SELECT ?, ?, ? "
                    "WHERE (SELECT coalesce(max(number), 0) FROM edits WHERE layer = ?) = ?",
                    (name, edit.number, content, name, edit.number - 1),
                )
            except sqlite3.IntegrityError:
                return False
            return cursor.rowcount == 1

    def _stack(self, history: History) -> tuple[list[Layer], Policy]:
        """Return the layers under `history`, the lowest first, and the policy they lie on."""
        layers: list[Layer] = []
        seen, below = {history.name}, history.below
        while below.startswith(PREFIX):
            name = below.removeprefix(PREFIX)
            if name in seen or len(seen) >= MAX_DEPTH:
                raise InvalidPolicy(
                    f"The layers {', '.join(sorted(seen))} form a circle, or are more than {MAX_DEPTH}."
                )
            seen.add(name)
            lower = self.history(name)
            layers.insert(0, lower.layer())
            below = lower.below
        return layers, load.load_policy(below)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection:
                connection.executescript(_TABLES)
                with connection:  # one transaction: all of it or nothing
                    yield connection
        except (sqlite3.DatabaseError, OSError) as error:
            raise BackendError(
                f"The policy store {str(self.path)!r} cannot be used: {error}.",
                hint="Set GUARD_POLICY_STORE to a file that this user may write.",
            ) from error


def effective(name: str, path: Path | None = None) -> Composed:
    """Return the effective policy of a layer in the store of this process, or in the store at `path`."""
    return PolicyStore(path or default_path()).effective(name)


def _to_plain(edit: Edit) -> dict[str, object]:
    return {
        "action": edit.action,
        "author": edit.author,
        "at": edit.at,
        "note": edit.note,
        "reverts": edit.reverts,
        "changes": [
            {"category": c.category, "before": _patch_to_plain(c.before), "after": _patch_to_plain(c.after)}
            for c in edit.changes
        ],
    }


def _patch_to_plain(patch: Patch | None) -> dict[str, object] | None:
    return None if patch is None else patch_to_plain(patch)


def _edit(number: int, content: str) -> Edit:
    try:
        plain = json.loads(content)
        changes = tuple(
            Change(
                category=c["category"],
                before=_patch(c["category"], c["before"]),
                after=_patch(c["category"], c["after"]),
            )
            for c in plain["changes"]
        )
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InvalidPolicy(f"Edit {number} in the policy store cannot be read: {error}.") from error
    return Edit(
        number=number,
        action=plain["action"],
        author=plain["author"],
        at=plain["at"],
        note=plain["note"],
        reverts=plain["reverts"],
        changes=changes,
    )


def _patch(category: str, plain: object) -> Patch | None:
    return None if plain is None else schema.to_patch(category, schema.RuleModel.model_validate(plain))
