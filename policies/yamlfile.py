"""Read YAML that a stranger wrote: bounded in size, depth and number of nodes, without aliases, with line numbers.

Aliases are refused rather than bounded: ten lines of them can unfold to gigabytes, and a policy needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from guard.errors import InvalidPolicy

MAX_BYTES = 1_000_000
"""A policy of a thousand rules with examples stays under this."""
MAX_DEPTH = 12
"""Nesting of lists and mappings; a policy needs five."""
MAX_NODES = 50_000

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The value of a YAML text (mappings, lists, texts and None), and where each part of it stands."""

    value: Any
    lines: Mapping[Path, int]
    """Path of keys and indices to the line (from 1) of the key or item."""

    def line(self, path: Path) -> int | None:
        """Return the line of `path`, or of the nearest part around it; None where nothing is known."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None


def read(text: str | bytes, *, where: str) -> Document:
    """Parse one YAML document.

    Args:
        text: the content; bytes must be UTF-8.
        where: how messages call the file.

    Raises:
        InvalidPolicy: it is too large, too deep, not UTF-8, not YAML, repeats a key, or uses aliases or tags.
    """
    content = _decode(text, where)
    try:
        node = yaml.compose(content, Loader=_BoundedLoader)
        if node is None:
            return Document(value=None, lines={})
        lines: dict[Path, int] = {(): node.start_mark.line + 1}
        return Document(value=_plain(node, (), lines, where), lines=lines)
    except _RefusedError as error:
        raise InvalidPolicy(f"{where}, line {error.line}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidPolicy(f"{where}{line}: not YAML: {error.problem or error}.") from error
    except yaml.YAMLError as error:
        raise InvalidPolicy(f"{where}: not YAML: {error}.") from error


class _RefusedError(Exception):
    def __init__(self, message: str, node_line: int) -> None:
        super().__init__(message)
        self.line = node_line + 1


class _BoundedLoader(yaml.SafeLoader):
    """Counts nodes and depth while composing, so that a bomb is refused before it is unfolded."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line
        if isinstance(event, yaml.AliasEvent):
            message = f"YAML aliases (*{event.anchor}) are not allowed in a policy; write the text out."
            raise _RefusedError(message, line)
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES:
            raise _RefusedError(f"more than {MAX_NODES} values; a policy may hold at most that many.", line)
        if self._depth > MAX_DEPTH:
            raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels.", line)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int], where: str) -> Any:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in _TAGS:
        raise _RefusedError(f"the YAML tag {node.tag!r} is not allowed in a policy.", node.start_mark.line)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines, where)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            lines[(*path, index)] = child.start_mark.line + 1
            items.append(_plain(child, (*path, index), lines, where))
        return items
    # The text as written: the schema knows the types, and YAML would read `off` as false and 1.10 as 1.1.
    return None if kind == "null" else node.value


def _mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int], where: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line
        if not isinstance(key_node, yaml.ScalarNode):
            raise _RefusedError("a key must be plain text.", line)
        key = key_node.value
        if key in found:
            raise _RefusedError(f"the key {key!r} appears twice; keep one of them.", line)
        lines[(*path, key)] = line + 1
        found[key] = _plain(value_node, (*path, key), lines, where)
    return found


def _decode(text: str | bytes, where: str) -> str:
    size = len(text)
    if size > MAX_BYTES:
        raise InvalidPolicy(f"{where} has {size} bytes; a policy may have at most {MAX_BYTES}.")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPolicy(f"{where} is not UTF-8: {error.reason} at byte {error.start}.") from error
