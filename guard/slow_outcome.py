"""What a judgement that settles nothing is called in a verdict: what happened, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from guard.errors import error_for_code
from guard.types import ErrorInfo, Judgement

_HAPPENED: Mapping[str, str] = MappingProxyType(
    {
        "vlm_unavailable": "The slow path could not be reached, or its server failed.",
        "vlm_timeout": "The slow path gave no answer in time.",
        "vlm_rejected": "The server of the slow path refused the request.",
        "rate_limited": "The server of the slow path refused the request: there are too many.",
        "capacity": "The server of the slow path says that it is full.",
        "vlm_no_frames": "There was no frame to show to the slow path.",
        "vlm_truncated": "The slow path answered, but its answer was cut off.",
        "vlm_empty": "The slow path gave an empty answer.",
        "vlm_refused": "The model of the slow path declined to answer.",
        "vlm_internal": "The slow path failed by a fault of this program; the log has the details.",
    }
)
"""By error code of a judgement; the names are those of `slow_path.failures.FailureCode`."""


def slow_error(judgement: Judgement) -> ErrorInfo | None:
    """Return why a judgement settles nothing, or None where it is an answer."""
    if judgement.status == "ok":
        return None
    code = judgement.error_code or judgement.status
    kind = error_for_code(code)
    if judgement.status == "video_error":
        message = "The frames for the slow path could not be decoded."
    else:
        unusable = f"The slow path answered, but not in a form that can be used ({judgement.status})."
        message = _HAPPENED.get(code, unusable)
    return ErrorInfo(code=code, message=message, hint=kind.default_hint, retryable=kind.retryable)
