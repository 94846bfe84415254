"""Everything that can go wrong, as one tree.

GuardError
    UsageError                  the caller asked for something that cannot be
        InvalidConfig           invalid_config
        PolicyNotFound          policy_not_found
        InvalidPolicy           invalid_policy
            RuleLocked          rule_locked
            LayerChanged        layer_changed
        InvalidManifest         invalid_manifest
        UnknownPart             unknown_part
        MissingExtra            missing_extra
        ResumeMismatch          resume_mismatch
        CalibrationMismatch     calibration_mismatch
        InfeasibleTarget        infeasible_target
    InputError                  one input is at fault; the others go on
        InputNotFound           input_not_found
        InputUnreadable         input_unreadable
        InputChanged            input_changed
        UnsupportedMediaType    unsupported_media_type
        NoVideoStream           no_video_stream
        Undecodable             undecodable
        Truncated               truncated
        TooLarge                too_large
        TooLong                 too_long
        TooManyPixels           too_many_pixels
        TooManyFrames           too_many_frames
        TooManyStreams          too_many_streams
        DecodeTimeout           decode_timeout
        DecoderCrashed          decoder_crashed
        DecoderMemory           decoder_memory
        UrlBlocked              url_blocked
        UrlFetchFailed          url_fetch_failed
    BackendError                a part that we depend on is down or full
        VlmUnavailable          vlm_unavailable, vlm_timeout, vlm_rejected
        Capacity                capacity
        RateLimited             rate_limited
        DetectorFailed          detector_failed
    VlmUnusable                 vlm_unusable, and the finer codes of an answer of the slow path that settles nothing

Each class has a stable `code` (part of the API), a `hint` (the next step) and `retryable`. A message says what was
wrong, what is allowed, and what was given. `serve/failures.py` maps classes to HTTP statuses and exit codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from guard.types import ErrorInfo


class GuardError(Exception):
    """Base of every error that video-guard raises on purpose."""

    code: ClassVar[str] = "internal"
    default_hint: ClassVar[str] = "Report this with the output of `guard doctor`."
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def info(self) -> ErrorInfo:
        """Return the error as the value that verdicts carry."""
        return ErrorInfo(code=self.code, message=self.message, hint=self.hint, retryable=self.retryable)


class UsageError(GuardError):
    """The caller asked for something that cannot be."""

    code = "usage"
    default_hint = "See `guard --help`."


class InvalidConfig(UsageError):
    code = "invalid_config"
    default_hint = "See docs/configuration.md for every setting."


class PolicyNotFound(UsageError):
    code = "policy_not_found"
    default_hint = "List the policies with `guard policy list`."


class InvalidPolicy(UsageError):
    code = "invalid_policy"
    default_hint = "Check the file with `guard policy lint FILE`."


class RuleLocked(InvalidPolicy):
    code = "rule_locked"
    default_hint = "Ask whoever owns the layer that holds the lock."


class LayerChanged(InvalidPolicy):
    code = "layer_changed"
    default_hint = "Read the layer again and repeat the edit."
    retryable = True


class InvalidManifest(UsageError):
    code = "invalid_manifest"
    default_hint = "A manifest line holds path, labels, split and group; see docs/files.md."


class UnknownPart(UsageError):
    code = "unknown_part"
    default_hint = "List the parts with `guard doctor`."


class MissingExtra(UsageError):
    code = "missing_extra"
    default_hint = "Install the extra that the message names."


class ResumeMismatch(UsageError):
    code = "resume_mismatch"
    default_hint = "Use another --out directory, or repeat the settings of the first run."


class CalibrationMismatch(UsageError):
    code = "calibration_mismatch"
    default_hint = "Run `guard calibrate` again for the model in use."


class InfeasibleTarget(UsageError):
    code = "infeasible_target"
    default_hint = "Raise the target, label more calibration clips, or use --budget."


class InputError(GuardError):
    """One input is at fault; the others go on."""

    code = "input"
    default_hint = "Try whether a player shows the file."


class InputNotFound(InputError):
    code = "input_not_found"
    default_hint = "Check the path."


class InputUnreadable(InputError):
    code = "input_unreadable"
    default_hint = "Check that it is a regular file that this user may read; links and devices are not followed."


class InputChanged(InputError):
    code = "input_changed"
    default_hint = "Scan it again once it is no longer being written."
    retryable = True


class UnsupportedMediaType(InputError):
    code = "unsupported_media_type"
    default_hint = "See `guard limits` for the containers and codecs that are decoded."


class NoVideoStream(InputError):
    code = "no_video_stream"
    default_hint = (
        "Only moving pictures are judged; without any stream, the file is damaged or encrypted. Have a person look."
    )


class Undecodable(InputError):
    code = "undecodable"
    default_hint = "The file is damaged or no video. If a player shows it, convert it (`ffmpeg -i FILE new.mp4`)."


class Truncated(InputError):
    code = "truncated"
    default_hint = "Only the part before the break was scored; ask for the whole file."


class TooLarge(InputError):
    code = "too_large"
    default_hint = "See `guard limits`; raise max_bytes if such files are expected."


class TooLong(InputError):
    code = "too_long"
    default_hint = "See `guard limits`; raise max_seconds if such files are expected."


class TooManyPixels(InputError):
    code = "too_many_pixels"
    default_hint = "See `guard limits`; raise max_pixels or max_side_px if such files are expected."


class TooManyFrames(InputError):
    code = "too_many_frames"
    default_hint = "See `guard limits`; raise max_frames if such files are expected."


class TooManyStreams(InputError):
    code = "too_many_streams"
    default_hint = "See `guard limits`; raise max_streams if such files are expected."


class DecodeTimeout(InputError):
    code = "decode_timeout"
    default_hint = "The decoder was stopped; see `guard limits` for the time allowed."


class DecoderCrashed(InputError):
    code = "decoder_crashed"
    default_hint = "The file crashed its decoder process, which was replaced; treat the file as hostile."


class DecoderMemory(InputError):
    code = "decoder_memory"
    default_hint = "The decoder needed more memory than allowed; see `guard limits`."


class UrlBlocked(InputError):
    code = "url_blocked"
    default_hint = "Fetch the file yourself and upload it."


class UrlFetchFailed(InputError):
    code = "url_fetch_failed"
    default_hint = "Check that the address answers."
    retryable = True


class BackendError(GuardError):
    """A part that we depend on is down or full."""

    code = "backend"
    default_hint = "Try again later."
    retryable = True


class VlmUnavailable(BackendError):
    code = "vlm_unavailable"
    default_hint = "Check the server behind --slow (GUARD_SLOW_URL)."


class Capacity(BackendError):
    code = "capacity"


class RateLimited(BackendError):
    code = "rate_limited"


class DetectorFailed(BackendError):
    code = "detector_failed"
    default_hint = "Run `guard doctor` to check the model files."
    retryable = False


class VlmUnusable(GuardError):
    """The VLM works, and its answer does not: one video stays open, and no backend is down."""

    code = "vlm_unusable"
    default_hint = "Scan it again with --retry-failed, or have a person look; a larger model errs less."
    retryable = True


def all_errors(root: type[GuardError] = GuardError) -> tuple[type[GuardError], ...]:
    """Return every error class under `root`, itself included, in tree order."""
    found = [root]
    for child in root.__subclasses__():
        found.extend(all_errors(child))
    return tuple(found)


_CODES_OF_JUDGEMENTS: Mapping[str, type[GuardError]] = MappingProxyType(
    dict.fromkeys(("vlm_timeout", "vlm_rejected"), VlmUnavailable)
    | dict.fromkeys(("partial", "parse_error", "generation_error", "video_error"), VlmUnusable)
    | dict.fromkeys(
        (
            "vlm_image_mismatch", "vlm_truncated", "vlm_empty", "vlm_refused", "vlm_invalid_json",
            "vlm_invalid_schema", "vlm_inconsistent", "vlm_incomplete", "vlm_no_frames",
        ),
        VlmUnusable,
    )
)  # fmt: skip
"""Finer codes that verdicts carry for the slow path, and the class that each belongs to. A test compares them with
`slow_path.failures.FailureCode`."""


def error_for_code(code: str) -> type[GuardError]:
    """Return the class that `code` belongs to; the base class for one that is unknown."""
    own = next((error for error in all_errors() if error.code == code), None)
    return own or _CODES_OF_JUDGEMENTS.get(code, GuardError)
