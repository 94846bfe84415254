"""`guard doctor` and `guard version`: what is installed, and whether it works."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.failures import Exit
from serve.terminal import print_json, print_rows

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("doctor")(doctor)
    app.command("version")(version)


def doctor(as_json: AsJson = False) -> None:
    """Check packages, decoder, sandbox, models and policies; exits with 4 where something needed is broken."""
    from serve.doctor import examine

    checks = examine()
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        print_json({"ok": not broken, "checks": [check.to_json() for check in checks]})
    else:
        print_rows(("check", "state", "found"), [(c.name, c.state, c.found) for c in checks])
    raise typer.Exit(Exit.BACKEND_DOWN if broken else Exit.OK)


def version(as_json: AsJson = False) -> None:
    """Show the version."""
    import platform

    from guard._version import __version__

    if as_json:
        print_json({"video_guard": __version__, "python": platform.python_version(), "platform": platform.machine()})
    else:
        print(f"video-guard {__version__}")
