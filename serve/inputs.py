"""From the PATHs of a command line to the list of inputs: every file once, in a fixed order, links never followed.

A path that cannot be an input (missing, a link, a device) stays in the list and carries its error, so that it gets its
line in the results like every other. What is left out on purpose is counted by reason: hidden files, and sidecars
such as a manifest or subtitles, which are text by name and by content. A path that is given itself is always an input.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from guard.errors import GuardError, InputError, InputNotFound, InputUnreadable
from guard.types import ErrorInfo
from serve.sidecars import is_sidecar

_MAGIC = frozenset("*?[")


def display(path: str) -> str:
    r"""Return `path` as text that JSON and terminals can carry: bytes that are not UTF-8 become `\xff` escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a scan, before it is opened."""

    path: str
    """As the operating system knows it; bytes that are not UTF-8 are surrogate escapes."""
    size_bytes: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    error: ErrorInfo | None = None
    """Set where the path cannot be opened as an input."""

    @property
    def source(self) -> str:
        """The path as shown in results."""
        return display(self.path)

    @property
    def identity(self) -> tuple[str, int | None, int | None, int | None]:
        """Path, size and times of change: what a resumed run compares to see whether a file is still the same.

        Anybody may set `mtime_ns` back (`touch -d`); `ctime_ns` is the system's own.
        """
        return self.path, self.size_bytes, self.mtime_ns, self.ctime_ns

    def to_json(self) -> dict[str, object]:
        """Return what identifies the input as JSON values; the bytes of the path only where they are not plain text."""
        plain: dict[str, object] = {
            "size_bytes": self.size_bytes,
            "mtime_ns": self.mtime_ns,
            "ctime_ns": self.ctime_ns,
        }
        if self.source != self.path:
            plain["path_base64"] = base64.b64encode(os.fsencode(self.path)).decode()
        return plain


def path_from_json(source: str, plain: Mapping[str, object]) -> str:
    """Return the path of the input shown as `source`, of which `Input.to_json` wrote `plain`."""
    encoded = plain.get("path_base64")
    return os.fsdecode(base64.b64decode(str(encoded))) if encoded else source


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of the files met are inputs."""

    include: tuple[str, ...] = ()
    """Globs; where given, a file must match one. Matched against the name and the path below the PATH given."""
    exclude: tuple[str, ...] = ()
    """Globs; a file that matches one is left out, even if included."""
    shard: tuple[int, int] = (1, 1)
    """(i, n): keep the i-th of n disjoint shards, counted from 1, by hash of the path."""
    limit: int | None = None
    """Keep at most this many inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The inputs of a scan, in order, and what was left out."""

    inputs: tuple[Input, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of files by reason: hidden, sidecar, excluded, not_included, other_shard, over_limit, run_directory."""
    sidecars: tuple[str, ...] = ()
    """Paths of the sidecars, as shown, in the order met."""


def parse_list(content: bytes, *, null: bool) -> list[str]:
    """Return the paths of a list on standard input, separated by newlines, or by NUL bytes."""
    return [os.fsdecode(line) for line in content.split(b"\0" if null else b"\n") if line]


def list_inputs(
    paths: Iterable[str],
    *,
    literal: Iterable[str] = (),
    selection: Selection | None = None,
    run_directory: str | None = None,
) -> Listing:
    """Return every input below `paths`.

    Args:
        paths: files, directories or globs, as given on the command line.
        literal: more paths in which `*?[` are ordinary characters, such as the lines of a list.
        selection: filters; everything by default.
        run_directory: where results go; it is never an input itself.
    """
    selection = selection or Selection()
    walk = _Walk(selection, _identity_of(run_directory))
    found = [
        *_flatten(walk.below(path) for path in _expand_all(paths)),
        *_flatten(walk.below(path) for path in literal),
    ]
    mine = [entry for entry in found if in_shard(entry.path, selection.shard)]
    kept = mine if selection.limit is None else mine[: selection.limit]
    walk.left_out["other_shard"] += len(found) - len(mine)
    walk.left_out["over_limit"] += len(mine) - len(kept)
    return Listing(
        inputs=tuple(kept),
        left_out={name: count for name, count in walk.left_out.items() if count},
        sidecars=tuple(display(path) for path in walk.sidecars),
    )


def in_shard(path: str, shard: tuple[int, int]) -> bool:
    """Whether `path` belongs to shard (i, n). The shards of one n are disjoint and complete, on every machine."""
    index, total = shard
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big") % total == index - 1


def expand(pattern: str) -> list[str]:
    """Return what a glob matches, sorted bytewise, each once. `**` crosses directories, never links."""
    anchor = "/" if pattern.startswith("/") else ""
    parts = [part for part in pattern.split("/") if part]
    return list(dict.fromkeys(_expand(anchor, parts)))


def _flatten(groups: Iterable[Iterable[Input]]) -> Iterator[Input]:
    for group in groups:
        yield from group


def _expand_all(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        matches = expand(path) if _MAGIC & set(path) and not os.path.lexists(path) else []
        yield from matches or [path]


def _expand(base: str, parts: Sequence[str]) -> Iterator[str]:
    if not parts:
        yield base or "."
        return
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _expand(base, rest)
        for entry in _entries(base or "."):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _expand(os.path.join(base, entry.name), parts)  # noqa: PTH118 - names may be any bytes
    elif _MAGIC & set(head):
        for entry in _entries(base or "."):
            hidden = entry.name.startswith(".") and not head.startswith(".")
            if not hidden and fnmatch.fnmatchcase(entry.name, head):
                yield from _step(os.path.join(base, entry.name), entry, rest)  # noqa: PTH118
    else:
        below = os.path.join(base, head)  # noqa: PTH118
        if os.path.lexists(below):
            yield from _expand(below, rest)


def _step(path: str, entry: os.DirEntry[str], rest: Sequence[str]) -> Iterator[str]:
    """Go one directory down; a link is given back as itself, to be refused by name."""
    if not rest or (entry.is_symlink() and os.path.isdir(path)):  # noqa: PTH112
        yield path
    elif entry.is_dir(follow_symlinks=False):
        yield from _expand(path, rest)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return []


class _Walk:
    """Lists what lies below a path, and counts what it leaves out."""

    def __init__(self, selection: Selection, run_directory: tuple[int, int] | None) -> None:
        self.left_out: Counter[str] = Counter()
        self.sidecars: list[str] = []
        self._selection = selection
        self._run_directory = run_directory

    def below(self, path: str) -> Iterator[Input]:
        """Yield `path` itself where it is a file or at fault, or every file below it, depth first, sorted bytewise."""
        try:
            status = os.lstat(path)
        except (OSError, ValueError) as error:
            yield Input(path=path, error=_lstat_error(path, error).info())
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._directory(path, status)
        elif self._wanted(os.path.basename(path), path):  # noqa: PTH119
            yield _input(path, status)

    def _directory(self, top: str, status: os.stat_result) -> Iterator[Input]:
        todo = [(top, status)]  # an explicit stack: a hostile tree may be deeper than Python's own
        while todo:
            path, status = todo.pop()
            if not stat.S_ISDIR(status.st_mode):
                relative = os.path.relpath(path, top)
                if self._wanted(os.path.basename(path), relative) and not self._is_sidecar(path, relative, status):  # noqa: PTH119
                    yield _input(path, status)
                continue
            if (status.st_dev, status.st_ino) == self._run_directory:
                self.left_out["run_directory"] += 1
                continue
            try:
                todo.extend(self._children(path))
            except OSError as error:
                yield Input(path=path, error=_directory_error(path, error).info())

    def _children(self, directory: str) -> list[tuple[str, os.stat_result]]:
        """Return the entries of `directory`, last first, since the stack takes the last."""
        with os.scandir(directory) as entries:
            listed = sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True)
        seen = [entry for entry in listed if not entry.name.startswith(".")]
        self.left_out["hidden"] += len(listed) - len(seen)
        children = []
        for entry in seen:
            try:
                children.append((os.path.join(directory, entry.name), entry.stat(follow_symlinks=False)))  # noqa: PTH118
            except FileNotFoundError:  # gone since it was listed: there is nothing to report on
                continue
        return children

    def _is_sidecar(self, path: str, relative: str, status: os.stat_result) -> bool:
        """Whether to leave a file out as text about media; never one that `--include` asks for."""
        if self._selection.include or not is_sidecar(path, status):
            return False
        self.left_out["sidecar"] += 1
        self.sidecars.append(path)
        return True

    def _wanted(self, name: str, relative: str) -> bool:
        def matches(globs: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(relative, glob) for glob in globs)

        if matches(self._selection.exclude):
            self.left_out["excluded"] += 1
            return False
        if self._selection.include and not matches(self._selection.include):
            self.left_out["not_included"] += 1
            return False
        return True


def _identity_of(path: str | None) -> tuple[int, int] | None:
    try:
        status = os.stat(path) if path else None  # noqa: PTH116
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status else None


def _input(path: str, status: os.stat_result) -> Input:
    problem = _kind_error(path, status.st_mode)
    return Input(
        path=path,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        error=problem.info() if problem else None,
    )


def _kind_error(path: str, mode: int) -> InputError | None:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    kinds |= {stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device"}
    if stat.S_ISREG(mode):
        return None
    kind = kinds.get(stat.S_IFMT(mode), "not a regular file")
    return InputUnreadable(f"{display(path)!r} is {kind}; only regular files are read.")


def _lstat_error(path: str, error: OSError | ValueError) -> GuardError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        hint = "Fetch it first: `guard scan` reads files." if "://" in path else "Check the path."
        return InputNotFound(f"There is no file {display(path)!r}.", hint=hint)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return InputUnreadable(f"{display(path)!r} cannot be read: {reason}.")


def _directory_error(path: str, error: OSError) -> InputUnreadable:
    return InputUnreadable(
        f"The directory {display(path)!r} cannot be listed: {error.strerror}.",
        hint="Nothing below it was scanned; check its permissions.",
    )
