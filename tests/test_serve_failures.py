"""One table from error class to HTTP status and exit code."""

from __future__ import annotations

from guard import errors
from serve.failures import FAILURES, Exit, failure_of, failure_of_code
from slow_path.failures import FailureCode


def test_every_error_class_is_listed_and_nothing_else() -> None:
    assert set(FAILURES) == set(errors.all_errors())


def test_statuses_and_exit_codes_fit_the_branch_of_the_tree() -> None:
    exits = {
        errors.UsageError: Exit.USAGE,
        errors.InputError: Exit.SOME_UNDECIDED,
        errors.BackendError: Exit.BACKEND_DOWN,
    }
    for kind, failure in FAILURES.items():
        assert 400 <= failure.status < 600
        for branch, code in exits.items():
            if issubclass(kind, branch):
                assert failure.exit_code is code, kind


def test_a_class_from_outside_counts_as_its_nearest_ancestor() -> None:
    class Stranger(errors.NoVideoStream):
        code = "stranger"

    assert failure_of(Stranger("x")) == FAILURES[errors.NoVideoStream]


def test_an_unknown_code_is_a_fault_of_ours() -> None:
    assert failure_of_code("never_heard_of").status == 500
    assert failure_of_code("too_large").status == 413


def test_only_a_backend_that_is_down_gives_4_and_a_bad_answer_gives_3() -> None:
    down = {"vlm_unavailable", "rate_limited", "capacity", "vlm_timeout", "vlm_rejected", "vlm_internal"}
    for code in FailureCode:
        expected = Exit.BACKEND_DOWN if code.value in down else Exit.SOME_UNDECIDED
        assert failure_of_code(code.value).exit_code is expected, code
    for status in ("partial", "parse_error", "generation_error", "video_error"):
        assert failure_of_code(status).exit_code is Exit.SOME_UNDECIDED
