"""Reading label files: what is missing or malformed is named, with the place and the way to get it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.types import About, Gold, Item, Kind, Missing, Sample, sample_id
from guard.errors import InvalidManifest, UsageError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".flv", ".m4v", ".mpg", ".mpeg", ".3gp", ".ts")
_NAMED = 5


class LabelFiles:
    """The label files below one data folder, hashed as they are read."""

    def __init__(self, data: Path, about: About) -> None:
        """Raises `UsageError` where `data` is no folder."""
        if not data.is_dir():
            raise UsageError(f"The data folder {str(data)!r} does not exist.", hint=_how(about))
        self.data = data
        self.about = about
        self._digest = hashlib.sha256()

    @property
    def hash(self) -> str:
        """Identifies the content of every label file read so far."""
        return self._digest.hexdigest()[:16]

    def find(self, *names: str) -> Path:
        """Return the first of several places that exists. Raises `UsageError` that names them, and how to get them."""
        for name in names:
            if (self.data / name).exists():
                return self.data / name
        several = " or ".join(repr(name) for name in names)
        raise UsageError(f"{several} is missing below {str(self.data)!r}.", hint=_how(self.about))

    def text(self, *names: str) -> tuple[Path, str]:
        """Return the path and the text of a label file."""
        path = self.find(*names)
        try:
            content = path.read_bytes()
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidManifest(f"{path} cannot be read: {error}.") from error
        self._digest.update(content)
        return path, text

    def lines(self, *names: str) -> Iterator[tuple[str, str]]:
        """Yield place (`file, line 3`) and content of each line that is not blank."""
        path, text = self.text(*names)
        # Not `splitlines`, which also breaks at U+2028 and its like inside a text.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}, line {number}", line.strip("\r ")

    def table(self, *names: str, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
        """Yield place and row of a CSV or TSV file with a header; raises where one of `columns` is not in it."""
        path, text = self.text(*names)
        content = io.StringIO(text, newline="")
        if delimiter == "\t":
            reader = csv.DictReader(content, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.DictReader(content, delimiter=delimiter)
        found = [name.strip() for name in reader.fieldnames or ()]
        lacking = [name for name in columns if name not in found]
        if lacking:
            raise InvalidManifest(f"{path} lacks the column {lacking[0]!r}; it has {', '.join(found) or 'none'}.")
        for row in reader:
            yield f"{path}, line {reader.line_num}", {(k or "").strip(): (v or "").strip() for k, v in row.items()}

    def json_lines(self, *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield place and object of each line."""
        for where, line in self.lines(*names):
            yield where, as_object(line, where)


def as_object(text: str, where: str) -> dict[str, Any]:
    """Return a JSON object. Raises `InvalidManifest` for anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidManifest(f"{where} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidManifest(f"{where} is not an object; it is {type(value).__name__}.")
    return value


def pick(table: Mapping[str, Any], value: str, where: str, what: str) -> Any:
    """Return `table[value]`. Raises `InvalidManifest` that lists what is allowed."""
    if value not in table:
        raise InvalidManifest(f"{where}: {what} is {value!r}; it must be one of {', '.join(map(repr, table))}.")
    return table[value]


class VideoFolder:
    """The videos below some folders, by the stem of their names."""

    def __init__(self, data: Path, *folders: str) -> None:
        self._data = data
        self._folders = folders
        self._by_stem: dict[str, Path] = {}
        for folder in folders:
            for path in sorted((data / folder).rglob("*")):
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    self._by_stem.setdefault(path.stem, path)

    def get(self, stem: str) -> Path | None:
        """Return the video of that stem."""
        return self._by_stem.get(stem)

    def stems(self) -> tuple[str, ...]:
        """Return every stem, sorted."""
        return tuple(sorted(self._by_stem))

    def wanted(self, stem: str) -> str:
        """Return where a video that is not there should be."""
        return f"{self._folders[0].rstrip('/')}/{stem}.mp4".removeprefix("./").removeprefix("/")


@dataclass(slots=True)
class Collector:
    """Gathers the items of a benchmark, and names those whose content is not there."""

    benchmark: str
    get: str
    items: list[Item] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    duplicates: int = 0
    _names: set[tuple[str, str]] = field(default_factory=set)

    def video(self, path: Path | None, gold: Gold, *, wanted: str, policy: str = "") -> None:
        """Add a video; `path` None or not there makes it a missing one."""
        if not self._is_new(gold, policy):
            return
        if path is None or not path.is_file():
            self.missing.append(Missing(name=wanted, get=self.get))
            return
        self._add("video", gold, policy, path=path)

    def text(self, text: str, gold: Gold, *, policy: str = "") -> None:
        """Add a text."""
        if not self._is_new(gold, policy):
            return
        self._add("text", gold, policy, text=text)

    def _is_new(self, gold: Gold, policy: str) -> bool:
        if (gold.name, policy) in self._names:
            self.duplicates += 1
            return False
        self._names.add((gold.name, policy))
        return True

    def _add(self, kind: Kind, gold: Gold, policy: str, **content: Any) -> None:
        identifier = sample_id(self.benchmark, gold.name, policy)
        self.items.append(Item(sample=Sample(id=identifier, kind=kind, policy=policy, **content), gold=gold))

    @property
    def expected(self) -> int:
        """All items, missing ones included."""
        return len(self.items) + len(self.missing)


def missing_lines(missing: Sequence[Missing]) -> list[str]:
    """Return what is missing in a few lines: some names, the count, and how to get them."""
    if not missing:
        return []
    names = ", ".join(one.name for one in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [f"{len(missing)} files are missing: {names}{more}.", f"How to get them: {missing[0].get}"]


def _how(about: About) -> str:
    return f"{about.get} Expected below --data: {'; '.join(about.layout)}."
