"""`guard text`: judge titles, captions, comments, and words seen or heard."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from guard.errors import UsageError
from serve.failures import Exit, failure_of_code

if TYPE_CHECKING:
    from guard.types import Verdict
    from serve.texts import TextInput


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("text")(text)


def text(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts; - reads lines of JSON from stdin: a string, or {id, text}. "
            "Without any, what is piped in is read.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Name of a policy, or a policy file.")] = None,
    slow: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible server.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines on stdin are texts as they stand, not JSON.")] = False,
    fail_on: Annotated[str | None, typer.Option(help="review or block: exit with 1 if any is found.")] = None,
) -> None:
    """Judge every text and write one verdict for each as a line of JSON, in order.

    Exit codes: 0 done; 1 --fail-on matched; 2 usage; 3 some texts are undecided; 4 a backend is down.
    """
    from guard.api import Guard
    from guard.config import load_settings
    from guard.verdict_json import to_dict
    from serve.texts import verdicts

    if fail_on not in (None, "review", "block"):
        raise UsageError(f"--fail-on takes review or block; got {fail_on!r}.")
    given = _given(texts or _piped(), plain=plain)
    codes = {Exit.OK}
    # No detector of frames is needed, so none is loaded.
    settings = load_settings(policy=policy, slow_url=slow, workers=1).model_copy(update={"detectors": ()})
    with Guard.load(settings) as guard:
        for verdict in verdicts(guard, given, guard.text_policy()):
            sys.stdout.write(json.dumps(to_dict(verdict), allow_nan=False) + "\n")
            sys.stdout.flush()
            codes.add(_code(verdict, fail_on))
    gravest = (Exit.BACKEND_DOWN, Exit.FAIL_ON_MATCHED, Exit.SOME_UNDECIDED, Exit.OK)
    raise typer.Exit(next(code for code in gravest if code in codes))


def _piped() -> list[str]:
    """Without texts, take what is piped in; a terminal would wait for a person who does not know of it."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "No text is given, and nothing is piped in.",
            hint='Give texts, as in `guard text "WINNER! Call now"`, or pipe lines in: `guard text < comments.jsonl`, '
            "with --plain for lines that are not JSON.",
        )
    return ["-"]


def _given(texts: list[str], *, plain: bool) -> Iterable[TextInput]:
    from serve.texts import TextInput, json_lines, plain_lines

    if texts == ["-"]:
        return plain_lines(sys.stdin.buffer) if plain else json_lines(sys.stdin.buffer)
    if plain:
        raise UsageError("--plain speaks of lines on stdin; give - as the text to read them.")
    if "-" in texts:
        raise UsageError("Give - alone to read stdin, or texts alone.")
    return [TextInput(name=f"argument {number}", text=value) for number, value in enumerate(texts, start=1)]


def _code(verdict: Verdict, fail_on: str | None) -> Exit:
    if verdict.error is not None and failure_of_code(verdict.error.code).exit_code is Exit.BACKEND_DOWN:
        return Exit.BACKEND_DOWN
    matched = verdict.decision == "block" or (verdict.decision == "review" and fail_on == "review")
    if fail_on is not None and matched:
        return Exit.FAIL_ON_MATCHED
    return Exit.SOME_UNDECIDED if verdict.decision == "undecided" else Exit.OK
