"""Find a film inside a picture: a motion photo shows a still to a decoder and a clip to a person's phone.

HEIC keeps the clip in a box of its own (`mpvd`), JPEG behind the end of the picture. Either way it begins as every file
of the ISO base media format does (ISO/IEC 14496-12, 4.3): four bytes of size, `ftyp`, a brand of four printable signs.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from io import RawIOBase

_MARK = b"ftyp"
_CHUNK = 1 << 20
_HEAD, _TAIL = 4, 8
"""Bytes before the mark (the size of the box) and from the mark to the end of the brand."""
_SMALLEST, _LARGEST = 16, 1024
"""Sizes that a `ftyp` box has; a random mark in compressed data passes this once in millions of times."""


def embedded_films(file: IO[bytes] | RawIOBase) -> int:
    """Return how many files of the ISO base media format begin inside `file`, its own beginning aside.

    Reads the file once, a mebibyte at a time, and leaves its position as it was.
    """
    place = file.tell()
    try:
        file.seek(0)
        return _count(file)
    finally:
        file.seek(place)


def _count(file: IO[bytes] | RawIOBase) -> int:
    found, kept, offset = 0, b"", 0
    while chunk := file.read(_CHUNK):
        data = kept + chunk
        at = data.find(_MARK)
        while 0 <= at <= len(data) - _TAIL:
            found += _begins(data, at) and offset + at > _HEAD
            at = data.find(_MARK, at + 1)
        # A mark whose brand is not read yet is looked at again, with the size before it.
        keep = min(len(data), _HEAD + _TAIL - 1)
        kept, offset = data[len(data) - keep :], offset + len(data) - keep
    return found


def _begins(data: bytes, at: int) -> bool:
    if at < _HEAD:
        return False
    size = int.from_bytes(data[at - _HEAD : at], "big")
    brand = data[at + len(_MARK) : at + _TAIL]
    return _SMALLEST <= size <= _LARGEST and all(0x20 <= byte < 0x7F for byte in brand)
