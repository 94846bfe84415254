"""Harm categories, their stable ids, and what other systems call them.

Ids are dotted paths: `violence.fighting` is a child of `violence`. An id is never renamed or given another meaning; new
ones are added. The six roots without a pack follow SafeWatch (arXiv 2412.06878, table of categories); the others are
packs that a policy must ask for. The mappings name the closest key of each scheme, for export, not for scoring. The
table itself is `taxonomy.psv` beside this file, one category a line, cells parted by `|`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

OPENAI_KEYS: tuple[str, ...] = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
"""The 13 keys of the OpenAI moderation endpoint, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One harm category."""

    id: str
    name: str
    openai: str | None = None
    aws: str | None = None
    dsa: str | None = None
    """Category of a DSA statement of reasons."""
    llama_guard: str | None = None
    """S-code of Llama Guard 3 and 4."""
    pack: str | None = None
    """Safety pack that switches it on; None for the six default roots."""

    @property
    def parent(self) -> str | None:
        """The id one level up, or None for a root."""
        return self.id.rpartition(".")[0] or None


CUSTOM_ROOT = "custom"
"""Categories that a policy invents live under this root, such as `custom.parkour`."""

_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


@cache
def categories() -> Mapping[str, Category]:
    """Return every built-in category by id, parents before children."""
    text = resources.files("guard").joinpath("taxonomy.psv").read_text(encoding="utf-8")
    _, *rows = (tuple(cell or None for cell in line.split("|")) for line in text.splitlines())
    table: dict[str, Category] = {}
    for identifier, name, openai, aws, dsa, llama_guard, pack in rows:
        if identifier is None or name is None:
            raise ValueError("guard/taxonomy.psv: a row lacks its id or its name")
        table[identifier] = Category(
            id=identifier, name=name, openai=openai, aws=aws, dsa=dsa, llama_guard=llama_guard, pack=pack
        )
    return MappingProxyType(table)


def is_known(identifier: str) -> bool:
    """Whether `identifier` is built in, or well-formed below `custom`."""
    return identifier in categories() or (
        identifier.startswith(f"{CUSTOM_ROOT}.") and _ID.fullmatch(identifier) is not None
    )


def suggestion(identifier: str) -> str | None:
    """Return the built-in id closest to `identifier`, or None where none is close."""
    close = difflib.get_close_matches(identifier, categories(), n=1, cutoff=0.6)
    return close[0] if close else None


def covers(general: str, specific: str) -> bool:
    """Whether a rule on `general` speaks of `specific`: the same id, or one of its descendants."""
    return specific == general or specific.startswith(f"{general}.")
