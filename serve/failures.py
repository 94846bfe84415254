"""What an error means to the outside: one table from error class to HTTP status and process exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from guard import errors
from guard.errors import GuardError
from serve import request_errors


class Exit(IntEnum):
    """Exit codes of every `guard` command."""

    OK = 0
    FAIL_ON_MATCHED = 1
    USAGE = 2
    SOME_UNDECIDED = 3
    BACKEND_DOWN = 4
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Failure:
    """How one class of error is reported."""

    status: int
    """HTTP status of the response."""
    exit_code: Exit


def _usage(status: int) -> Failure:
    return Failure(status, Exit.USAGE)


def _input(status: int) -> Failure:
    return Failure(status, Exit.SOME_UNDECIDED)


def _backend(status: int) -> Failure:
    return Failure(status, Exit.BACKEND_DOWN)


FAILURES: Mapping[type[GuardError], Failure] = MappingProxyType(
    {
        errors.GuardError: _backend(500),
        errors.UsageError: _usage(400),
        errors.InvalidConfig: _usage(400),
        errors.PolicyNotFound: _usage(404),
        errors.InvalidPolicy: _usage(422),
        errors.RuleLocked: _usage(403),
        errors.LayerChanged: _usage(409),
        errors.InvalidManifest: _usage(422),
        errors.UnknownPart: _usage(400),
        errors.MissingExtra: _usage(501),
        errors.ResumeMismatch: _usage(409),
        errors.CalibrationMismatch: _usage(409),
        errors.InfeasibleTarget: _usage(422),
        request_errors.InvalidRequest: _usage(422),
        request_errors.Unauthorized: _usage(401),
        request_errors.Forbidden: _usage(403),
        request_errors.NotFound: _usage(404),
        request_errors.MethodNotAllowed: _usage(405),
        request_errors.Gone: _usage(410),
        request_errors.Conflict: _usage(409),
        request_errors.IdempotencyMismatch: _usage(422),
        request_errors.SyncTimeout: _usage(504),
        errors.InputError: _input(422),
        errors.InputNotFound: _input(404),
        errors.InputUnreadable: _input(422),
        errors.InputChanged: _input(409),
        errors.UnsupportedMediaType: _input(415),
        errors.NoVideoStream: _input(422),
        errors.Undecodable: _input(422),
        errors.Truncated: _input(422),
        errors.TooLarge: _input(413),
        errors.TooLong: _input(413),
        errors.TooManyPixels: _input(413),
        errors.TooManyFrames: _input(413),
        errors.TooManyStreams: _input(413),
        errors.DecodeTimeout: _input(422),
        errors.DecoderCrashed: _input(422),
        errors.DecoderMemory: _input(422),
        errors.UrlBlocked: _input(422),
        errors.UrlFetchFailed: _input(502),
        errors.BackendError: _backend(503),
        errors.VlmUnavailable: _backend(503),
        errors.Capacity: _backend(503),
        errors.RateLimited: _backend(429),
        errors.DetectorFailed: _backend(500),
        errors.VlmUnusable: Failure(502, Exit.SOME_UNDECIDED),
    }
)
"""Every class of `guard.errors` and `serve.request_errors`; a test keeps it complete."""


def failure_of(error: type[GuardError] | GuardError) -> Failure:
    """Return how `error` is reported; a class from outside counts as its nearest listed ancestor."""
    kind = error if isinstance(error, type) else type(error)
    return next(FAILURES[ancestor] for ancestor in kind.__mro__ if ancestor in FAILURES)


def failure_of_code(code: str) -> Failure:
    """Return how the error with this `code` is reported; an unknown code counts as a fault of ours."""
    return failure_of(errors.error_for_code(code))
