"""Text for a terminal: untrusted names cannot move the cursor, and errors look alike everywhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from guard.errors import GuardError

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def safe(text: object) -> str:
    r"""Return `text` on one line, with control, direction and invisible characters as escapes: ESC becomes `\x1b`."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def fail(error: GuardError) -> None:
    """Print an error and the next step on stderr."""
    print(f"guard: {safe(error.message)} ({error.code})", file=sys.stderr)
    if error.hint:
        print(f"  {safe(error.hint)}", file=sys.stderr)


def fail_line(text: str) -> None:
    """Print one line on stderr about something that was left out."""
    print(f"guard: {safe(text)}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print `value` as JSON on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))


def console(*, stderr: bool = False) -> Console:
    """Return a console that treats no text as markup but our own."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def print_facts(facts: Mapping[str, Any], *, title: str = "") -> None:
    """Print names and values as an aligned list on stdout."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, show_edge=False, box=None, title=title or None, title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(safe(value)))
    console().print(table)


def print_rows(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table on stdout."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    console().print(table)
