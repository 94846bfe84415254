"""The history of one layer: a list of edits, each of which says who changed what and when, and how to take it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from policies.compose import Layer
from policies.patch import Patch

Action = Literal["block", "unblock", "extend", "lock", "exempt", "add-example", "revert"]
Kind = Literal["platform", "community", "user"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One patch before and after; None where there is none."""

    category: str
    before: Patch | None
    after: Patch | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One command of one person."""

    number: int
    """From 1 within the layer; the layer's version is the number of its last edit."""
    action: Action
    author: str
    at: str
    """UTC time, ISO 8601."""
    changes: tuple[Change, ...]
    note: str = ""
    reverts: int | None = None
    """Number of the edit that this one takes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A layer as the sum of its edits. A value: an edit gives a new one."""

    name: str
    kind: Kind = "user"
    below: str = "default"
    """What the layer lies on: a policy of the library, a policy file, or `layer:<name>`."""
    edits: tuple[Edit, ...] = ()

    @property
    def version(self) -> int:
        """Number of the last edit, 0 for none."""
        return len(self.edits)

    def patches(self) -> dict[str, Patch]:
        """Return what the layer says now, by category."""
        found: dict[str, Patch] = {}
        for edit in self.edits:
            for change in edit.changes:
                found.pop(change.category, None)
                if change.after is not None:
                    found[change.category] = change.after
        return found

    def layer(self) -> Layer:
        """Return the layer as `policies.compose` takes it."""
        return Layer(name=self.name, patches=self.patches(), version=str(self.version))

    def last_change(self, category: str) -> tuple[Edit, Change] | None:
        """Return the last edit that touched `category`, and what it did there."""
        for edit in reversed(self.edits):
            for change in edit.changes:
                if change.category == category:
                    return edit, change
        return None

    def with_edit(
        self,
        action: Action,
        after: Mapping[str, Patch | None],
        *,
        author: str,
        at: str,
        note: str = "",
        reverts: int | None = None,
    ) -> History:
        """Return the history with one edit more, which leaves the categories of `after` as given there."""
        now = self.patches()
        changes = tuple(Change(category=c, before=now.get(c), after=patch) for c, patch in after.items())
        edit = Edit(
            number=self.version + 1, action=action, author=author, at=at, changes=changes, note=note, reverts=reverts
        )
        return History(name=self.name, kind=self.kind, below=self.below, edits=(*self.edits, edit))
