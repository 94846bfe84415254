"""The `guard` command. Each command imports what it needs when it runs, so that `guard --help` is quick."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from guard.errors import GuardError, UsageError
from serve.commands import audit, demo, distill, inspect, policy, scan, serve, system, text, training, vlm
from serve.commands import eval as evaluation
from serve.failures import Exit, failure_of
from serve.terminal import fail

app = typer.Typer(
    name="guard",
    help="Moderate videos: screen every file, give a reason for every decision, wave nothing through silently.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (scan, text, policy, training, distill, vlm, inspect, system, demo, audit, serve, evaluation):
    group.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        system.version()
        raise typer.Exit(Exit.OK)


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what is done, on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def main() -> NoReturn:
    """Run `guard`; ends the process with one of the codes of `serve.failures.Exit`."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=True)
    except GuardError as error:
        if isinstance(error, UsageError) and error.hint == UsageError.default_hint:
            error.hint = f"See `{' '.join(['guard', *_command(sys.argv[1:])])} --help`."
        fail(error)
        sys.exit(failure_of(error).exit_code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of our stdout has gone: `guard scan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.INTERRUPTED)
    sys.exit(Exit.OK)


def _command(words: Sequence[str]) -> list[str]:
    """Return the words that name the command: `policy show` of `policy show --why violence default`."""
    named: list[str] = []
    level: Any = typer.main.get_command(app)
    for word in (word for word in words if not word.startswith("-")):
        level = getattr(level, "commands", {}).get(word)
        if level is None:
            break
        named.append(word)
    return named


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # as SystemExit, so that files and decoders are closed on the way out


if __name__ == "__main__":
    main()
