"""Content on disk, under names that we make: no name of a client ever becomes a path."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from guard.errors import BackendError, Capacity

_NAME = re.compile(r"[0-9a-f]{32}(\.[a-z0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Content that is on disk."""

    name: str
    sha256: str
    size_bytes: int


class Blobs:
    """One folder of content, readable by this user only."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BackendError(f"The folder for content, {str(folder)!r}, cannot be made: {error.strerror}.") from error

    def new_name(self, suffix: str = "") -> str:
        """Return a name that nobody has."""
        return secrets.token_hex(16) + suffix

    def path(self, name: str) -> Path:
        """Return where `name` lies. Raises `ValueError` for a name that is not ours."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a name of stored content: {name[:60]!r}")
        return self.folder / name[:2] / name

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file to write; it is there under `name`, on disk for good, once the block ends, or not at all."""
        path = self.path(name)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        partial = path.with_name(f"{path.name}.part")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def put(self, data: bytes, suffix: str = "") -> Stored:
        """Keep `data`."""
        name = self.new_name(suffix)
        with self.create(name) as file:
            file.write(data)
        return Stored(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    def delete(self, name: str | None) -> None:
        """Remove it; what is gone already is fine."""
        if name is not None:
            self.path(name).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Return the bytes of everything in the folder; looks at every file."""
        total = 0
        for path in self.folder.glob("??/*"):
            try:
                total += path.stat().st_size
            except OSError:  # deleted meanwhile
                continue
        return total

    def require_room(self, size_bytes: int, used_bytes: int) -> None:
        """Raise `Capacity` unless `size_bytes` more fit within the bound, and on the disk with a tenth to spare."""
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        if used_bytes + size_bytes > self.max_bytes or size_bytes > free * 0.9:
            raise Capacity("There is no room for more content at present.")

    def sweep(self, known: set[str], *, older_than: float) -> int:
        """Delete files that no row speaks of and that were last written before `older_than` (Unix time)."""
        deleted = 0
        for path in self.folder.glob("??/*"):
            try:
                if path.name.removesuffix(".part") not in known and path.stat().st_mtime < older_than:
                    path.unlink(missing_ok=True)
                    deleted += 1
            except OSError:
                continue
        return deleted
