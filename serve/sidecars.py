"""Which files of a scanned directory only speak of media: manifests, subtitles, notes. Text by name and by content."""

from __future__ import annotations

import codecs
import os
import stat
import unicodedata

SIDECARS = frozenset(
    ".csv .htm .html .ini .json .jsonl .log .md .nfo .rst .srt .ass .sub .toml .tsv .txt .vtt .xml .yaml .yml".split()  # noqa: SIM905
)
"""Endings of files that speak of media. Playlists (.m3u8, .mpd) are not among them: they stand for a video."""
_HEAD_BYTES = 4096


def is_sidecar(path: str, status: os.stat_result) -> bool:
    """Whether a regular file is text by its name and by its first 4 KiB.

    The name alone decides nothing: a clip called `notes.txt` is an input. Neither does the content alone.
    """
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 - names may be any bytes
    if ending not in SIDECARS or not stat.S_ISREG(status.st_mode):
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return is_text(file.read(_HEAD_BYTES))
    except OSError:  # the scan will say why it cannot be read
        return False


def is_text(head: bytes) -> bool:
    """Whether `head`, which may be cut inside a character, is text: UTF-8, or UTF-16 with its mark, without control
    characters but white space. No container that is decoded starts so."""
    try:
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = codecs.getincrementaldecoder("utf-16")().decode(head)
        else:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return not any(unicodedata.category(letter) == "Cc" and letter not in "\t\n\r\f" for letter in text)
