"""Texts from a stream, one verdict each: what `guard text` reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from guard.errors import InputError, InputUnreadable, TooLarge
from guard.types import ErrorInfo, Policy, Verdict
from guard.verdict import failed

if TYPE_CHECKING:
    from guard.api import Guard

MAX_LINE_BYTES = 4 << 20
"""Of one line of JSON: fifty thousand characters escaped twice are 600 KiB."""
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInput:
    """One text, or why there is none."""

    name: str
    text: str = ""
    error: ErrorInfo | None = None


def plain_lines(lines: Iterable[bytes], name: str = "stdin") -> Iterator[TextInput]:
    """Yield one text per line, as it stands; an empty line is a text too."""
    for number, line in enumerate(lines, start=1):
        label = f"{name}:{number}"
        yield _checked(line, label, lambda text, label: TextInput(name=label, text=text))


def json_lines(lines: Iterable[bytes], name: str = "stdin") -> Iterator[TextInput]:
    """Yield one text per line of JSON: a string, or an object with `text` and, if it has one, `id`.

    A line that is neither keeps its place and carries its error. Blank lines are left out.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _checked(line, f"{name}:{number}", _from_json)


def verdicts(guard: Guard, texts: Iterable[TextInput], policy: Policy) -> Iterator[Verdict]:
    """Yield one verdict per text, in order, as soon as its batch is judged."""
    waiting = iter(texts)
    while batch := list(islice(waiting, BATCH)):
        judged = iter(guard.check_texts([item.text for item in batch if item.error is None], policy))
        for item in batch:
            if item.error is not None:
                yield failed(source=item.name, sha256=None, policy=policy, error=item.error)
            else:
                yield replace(next(judged), source=item.name)


def _checked(line: bytes, label: str, read: Any) -> TextInput:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise TooLarge(f"{label} has {len(line)} bytes; a line may have {MAX_LINE_BYTES}.", hint="Split the text.")
        try:
            text = line.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputUnreadable(f"{label} is not UTF-8: {error}.", hint="Convert it to UTF-8.") from error
        found: TextInput = read(text, label)
    except InputError as error:
        return TextInput(name=label, error=error.info())
    return found


def _from_json(line: str, label: str) -> TextInput:
    hint = 'A line is a JSON string, or an object such as {"id": "7", "text": "..."}; --plain takes lines as they are.'
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputUnreadable(f"{label} is not JSON: {error}.", hint=hint) from error
    if isinstance(value, str):
        return TextInput(name=label, text=value)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        shown = f"an object with {', '.join(value) or 'nothing'}" if isinstance(value, dict) else type(value).__name__
        raise InputUnreadable(f"{label} holds no text; got {shown}.", hint=hint)
    return TextInput(name=str(value.get("id", label)), text=value["text"])
