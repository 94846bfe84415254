"""What goes wrong between a question to a VLM and a usable answer, as codes and one exception.

Codes that `guard.errors` knows keep their name (`vlm_unavailable`, `rate_limited`, `capacity`); the others begin with
`vlm_` and appear as `error_code` of a `Judgement`. None of them is ever read as "safe".
"""

from __future__ import annotations

from enum import StrEnum


class FailureCode(StrEnum):
    """Why a pass of the slow path gave no usable answer."""

    UNAVAILABLE = "vlm_unavailable"
    """No connection, a server error, or a connection that broke."""
    RATE_LIMITED = "rate_limited"
    CAPACITY = "capacity"
    """The server says that it is full (HTTP 503)."""
    TIMEOUT = "vlm_timeout"
    """No answer within the deadline."""
    REJECTED = "vlm_rejected"
    """The server refuses the request itself (HTTP 4xx): too long, unknown model, unsupported option."""
    IMAGE_MISMATCH = "vlm_image_mismatch"
    """The engine counted another number of images than were sent."""
    TRUNCATED = "vlm_truncated"
    """The answer was cut at its token limit."""
    EMPTY = "vlm_empty"
    REFUSED = "vlm_refused"
    """The model or a filter before it declined to answer."""
    INVALID_JSON = "vlm_invalid_json"
    INVALID_SCHEMA = "vlm_invalid_schema"
    """JSON, but with unknown or missing keys, wrong types, foreign rules, or times outside the video."""
    INCONSISTENT = "vlm_inconsistent"
    """The final answer contradicts its own checks."""
    INCOMPLETE = "vlm_incomplete"
    """Some rules that were asked are missing from the answer."""
    NO_FRAMES = "vlm_no_frames"
    """There was nothing to show: no frame could be chosen or encoded."""
    INTERNAL = "vlm_internal"
    """A fault of this program; the log has the details."""


RETRYABLE_REQUESTS = frozenset(
    {FailureCode.UNAVAILABLE, FailureCode.RATE_LIMITED, FailureCode.CAPACITY, FailureCode.TIMEOUT}
)
"""Failures of a request that may pass by themselves. A rejected request stays rejected."""

RETRYABLE_ANSWERS = frozenset(
    {
        FailureCode.INVALID_JSON,
        FailureCode.INVALID_SCHEMA,
        FailureCode.INCONSISTENT,
        FailureCode.INCOMPLETE,
        FailureCode.EMPTY,
    }
)
"""Failures of an answer that another sample may not have. A truncated or refused one tends to repeat itself."""


class EngineFailure(Exception):  # noqa: N818 - named for what it is to the judge, as the errors of `guard` are
    """An engine could not answer one request."""

    def __init__(self, code: FailureCode, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code in RETRYABLE_REQUESTS
