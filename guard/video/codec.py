"""Values to JSON and back, for the wire between worker and parent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from guard.errors import InputError, error_for_code
from guard.interfaces import SamplingNeeds
from guard.limits import Limits
from guard.types import Coverage, MediaInfo
from guard.video.reader import ReadRequest, ReadResult
from guard.video.sampling import SamplingConfig
from guard.video.wire import WireError

_MAX_TEXT = 200


def request_to_json(request: ReadRequest) -> dict[str, Any]:
    """Return the message of a job."""
    return asdict(request)


def request_from_json(message: Mapping[str, Any]) -> ReadRequest:
    """Return the job of a message; the parent is trusted."""
    return ReadRequest(
        task=message["task"],
        needs=SamplingNeeds(**message["needs"]),
        sampling=SamplingConfig(**message["sampling"]),
        limits=Limits(**message["limits"]),
        seed=message["seed"],
        times_seconds=tuple(message["times_seconds"]),
    )


def result_to_json(result: ReadResult) -> dict[str, Any]:
    """Return the last message of a job."""
    return {
        "media": {**asdict(result.media), "streams": dict(result.media.streams)},
        "coverage": asdict(result.coverage),
    }


def result_from_json(message: Mapping[str, Any]) -> ReadResult:
    """Return the result of a message from the worker, each field checked. Raises `WireError`."""
    media, coverage = _mapping(message, "media"), _mapping(message, "coverage")
    complete, problem = flag(coverage, "complete"), _problem(coverage)
    if complete != (problem is None):
        raise WireError(f"complete: {complete} with the problem {problem!r}")
    streams = _mapping(media, "streams")
    return ReadResult(
        media=MediaInfo(
            container=text(media, "container"),
            codec=text(media, "codec"),
            width=integer(media, "width"),
            height=integer(media, "height"),
            declared_duration_seconds=optional_number(media, "declared_duration_seconds"),
            decoded_duration_seconds=optional_number(media, "decoded_duration_seconds"),
            fps=optional_number(media, "fps"),
            rotation_degrees=integer(media, "rotation_degrees"),
            vfr=None if media.get("vfr") is None else flag(media, "vfr"),
            streams={key[:20]: integer(streams, key) for key in list(streams)[:16]},
        ),
        coverage=Coverage(
            frames_scored=integer(coverage, "frames_scored"),
            frames_decoded=integer(coverage, "frames_decoded"),
            largest_gap_seconds=_seconds(coverage, "largest_gap_seconds"),
            full_decode=flag(coverage, "full_decode"),
            decoded_seconds=_seconds(coverage, "decoded_seconds"),
            declared_seconds=optional_number(coverage, "declared_seconds"),
            complete=complete,
            sampler=text(coverage, "sampler"),
            seed=integer(coverage, "seed"),
            problem=problem,
        ),
    )


def text(message: Mapping[str, Any], key: str) -> str:
    """Return a short printable text field."""
    value = message.get(key)
    if not isinstance(value, str):
        raise WireError(f"{key}: expected text, got {type(value).__name__}")
    return "".join(char if char.isprintable() else "?" for char in value[:_MAX_TEXT])


def integer(message: Mapping[str, Any], key: str) -> int:
    """Return a non-negative integer field."""
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise WireError(f"{key}: expected an integer >= 0, got {value!r:.40}")
    return value


def number(message: Mapping[str, Any], key: str) -> float:
    """Return a finite number field."""
    value = message.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise WireError(f"{key}: expected a finite number, got {value!r:.40}")
    return float(value)


def numbers(message: Mapping[str, Any], key: str, count: int) -> list[float]:
    """Return a list of exactly `count` finite numbers."""
    values = message.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise WireError(f"{key}: expected {count} numbers")
    return [number({key: value}, key) for value in values]


def integers(message: Mapping[str, Any], key: str, count: int) -> list[int]:
    """Return a list of exactly `count` non-negative integers."""
    values = message.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise WireError(f"{key}: expected {count} integers")
    return [integer({key: value}, key) for value in values]


def optional_number(message: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number field, or None."""
    return None if message.get(key) is None else number(message, key)


def flag(message: Mapping[str, Any], key: str) -> bool:
    """Return a boolean field."""
    value = message.get(key)
    if not isinstance(value, bool):
        raise WireError(f"{key}: expected true or false, got {value!r:.40}")
    return value


def _seconds(message: Mapping[str, Any], key: str) -> float:
    value = number(message, key)
    if value < 0:
        raise WireError(f"{key}: expected seconds >= 0, got {value!r:.40}")
    return value


def _problem(coverage: Mapping[str, Any]) -> str | None:
    """Return the code of what made a decode incomplete: only an input's own fault, since verdicts and exit codes are
    decided by it."""
    if coverage.get("problem") is None:
        return None
    code = text(coverage, "problem")
    if not issubclass(error_for_code(code), InputError):
        raise WireError(f"problem: {code!r:.40} is no error of an input")
    return code


def _mapping(message: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = message.get(key)
    if not isinstance(value, dict):
        raise WireError(f"{key}: expected an object, got {type(value).__name__}")
    return value
