"""Text that people give: one line, no control characters."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """Return `text` on one line, with single spaces.

    Raises:
        ValueError: it holds control characters (they could steer a terminal) or half a surrogate pair (no file could
            hold them).
    """
    line = " ".join(text.split())
    for character in line:
        if unicodedata.category(character) in {"Cc", "Cs"}:
            raise ValueError(f"the character U+{ord(character):04X} cannot stand in a policy; leave it out")
    return line
