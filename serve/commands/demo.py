"""`guard demo`: render a few clips, scan them, and check that what must be flagged was flagged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the clips and the run; an earlier demo in it is replaced.")],
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Render clean, flashing, burning and broken clips, scan them, and show what was found.

    Exits with 0 only if every clip was judged as it must be; 4 otherwise.
    """
    from serve.demo import run_demo

    raise typer.Exit(run_demo(out, open_report=open_))
