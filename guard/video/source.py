"""Open an input, hash it, and see later that it is still the same."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from guard.errors import InputChanged, InputNotFound, InputUnreadable, TooLarge, Undecodable, UnsupportedMediaType
from guard.limits import Limits, refused_start
from guard.types import Video

_CHUNK = 1 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMEMBERED = 100_000
_Identity = tuple[int, int, int, int, int]


class _Identities:
    """What `stat` said of a path when it was hashed, so that an unchanged file need not be hashed again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[tuple[str, str], _Identity] = OrderedDict()

    def remember(self, path: Path, sha256: str, identity: _Identity) -> None:
        with self._lock:
            self._known[(str(path), sha256)] = identity
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def get(self, path: Path, sha256: str) -> _Identity | None:
        with self._lock:
            return self._known.get((str(path), sha256))


_identities = _Identities()


def open_video(
    source: Path | str | bytes | BinaryIO, name: str | None = None, *, limits: Limits | None = None
) -> Video:
    """Read an input once, hash it and check that it may be decoded.

    Args:
        source: A path (a regular file; links and devices are refused), the bytes themselves, or a binary file
            object that is read from where it stands.
        name: What verdicts call the input; by default the path, or `upload`.
        limits: Bounds; only `max_bytes` is used here.

    Raises:
        InputNotFound: there is no such file.
        InputUnreadable: not a regular file, no permission, or a read that failed.
        Undecodable: the file is empty.
        TooLarge: more than `limits.max_bytes`.
        UnsupportedMediaType: a playlist, a document or plain text.
    """
    bounds = limits or Limits()
    if isinstance(source, str | Path):
        return _from_path(Path(source), name, bounds)
    label = name or "upload"
    with _reading(label):
        data = bytes(source) if isinstance(source, bytes | bytearray | memoryview) else _read_all(source, bounds)
    _check_size(len(data), label, bounds)
    _check_start(data[:64], label)
    return Video(source=label, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def _from_path(path: Path, name: str | None, limits: Limits) -> Video:
    label = name or str(path)
    with _opened(path, label) as fd:
        before = _identity(fd)
        _check_size(before[2], label, limits)
        with _reading(label):
            _check_start(os.pread(fd, 64, 0), label)
            digest, size = _hash(fd)
        if _identity(fd) != before or size != before[2]:
            raise InputChanged(f"{label} was written to while it was read.")
    _identities.remember(path, digest, before)
    return Video(source=label, sha256=digest, size_bytes=size, path=path)


@contextmanager
def content_fd(video: Video) -> Iterator[int]:
    """Yield a readable descriptor of the content, at offset 0, and check before and after that it is what was hashed.

    Raises:
        InputChanged: the file is not the one that was hashed, or was written to meanwhile.
    """
    if video.data is not None:
        fd = os.memfd_create("guard-video", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(video.data)
            os.lseek(fd, 0, os.SEEK_SET)
            yield fd
        finally:
            os.close(fd)
        return
    assert video.path is not None  # noqa: S101  (Video holds a path or bytes)
    with _opened(video.path, video.source) as fd:
        before = _identity(fd)
        if before != _identities.get(video.path, video.sha256):
            _rehash(fd, video)
        yield fd
        if _identity(fd) != before:
            raise InputChanged(f"{video.source} was written to while it was decoded.")


def _rehash(fd: int, video: Video) -> None:
    with _reading(video.source):
        digest, _ = _hash(fd)
    if digest != video.sha256:
        raise InputChanged(
            f"{video.source} is not the file that was hashed: SHA-256 {digest}, expected {video.sha256}."
        )
    os.lseek(fd, 0, os.SEEK_SET)


@contextmanager
def _opened(path: Path, label: str) -> Iterator[int]:
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise InputNotFound(f"There is no file {label!r}.") from None
    except ValueError as error:  # a NUL in the name
        raise InputNotFound(f"{label!r} is not a file name: {error}.") from None
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
        raise InputUnreadable(f"Cannot open {label!r}: {why}.") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputUnreadable(f"{label!r} is not a regular file.")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _reading(label: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a bad disk, a network drive that went away: this input's failure, not the scan's
        raise InputUnreadable(f"Cannot read {label!r}: {error.strerror or error}.") from None


def _identity(fd: int) -> _Identity:
    info = os.fstat(fd)
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _hash(fd: int) -> tuple[str, int]:
    digest, offset = hashlib.sha256(), 0
    while chunk := os.pread(fd, _CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest(), offset


def _read_all(source: BinaryIO, limits: Limits) -> bytes:
    parts, total = [], 0
    while chunk := source.read(_CHUNK):
        parts.append(chunk)
        total += len(chunk)
        if total > limits.max_bytes:
            break
    return b"".join(parts)


def _check_size(size: int, label: str, limits: Limits) -> None:
    if size == 0:
        raise Undecodable(f"{label!r} is empty.")
    if size > limits.max_bytes:
        raise TooLarge(f"{label!r} holds {size} bytes or more; at most {limits.max_bytes} are allowed.")


def _check_start(head: bytes, label: str) -> None:
    kind = refused_start(head)
    if kind is not None:
        raise UnsupportedMediaType(f"{label!r} is {kind}, not a video; playlists and text are never opened.")
