"""Which results are true of every copy of a content, and which only of the one attempt that gave them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guard import errors

_NOT_OF_CONTENT = (
    errors.InputNotFound,
    errors.InputUnreadable,
    errors.InputChanged,
    errors.DecodeTimeout,
    errors.DecoderCrashed,
    errors.DecoderMemory,
    errors.UrlFetchFailed,
)


def speaks_of_content(record: Mapping[str, Any]) -> bool:
    """Whether a line is true of every copy of its content.

    A clip that is cut off is so wherever it lies. One that ran into a clock on a busy machine, or met a VLM that was
    down, might have fared better under its other name.
    """
    if record["error"] is None or record["decision"] == "block":
        return True
    kind = errors.error_for_code(record["error"]["code"])
    return issubclass(kind, errors.InputError) and kind not in _NOT_OF_CONTENT
