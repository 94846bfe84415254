"""`guard policy background`: what ordinary clips look like, for rules that are given by examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve.terminal import print_json, safe


def register(group: typer.Typer) -> None:
    """Add the command to `group`."""
    group.command("background")(background)


def background(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Ordinary clips: files, directories, or a manifest, of which the train rows without labels are taken.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write; name it in the setting `background`.")],
    progress: Annotated[str, typer.Option(help="bar, json or none, on stderr.")] = "bar",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn what ordinary clips look like to the configured encoder.

    Rules given by examples are read against it. The package ships one for its own encoder; fit your own for another
    encoder, or to have the clips of your platform as the measure.
    """
    from guard.config import load_settings
    from serve.backgrounds import fit, ordinary_clips
    from serve.stages import make_stages

    clips = ordinary_clips(paths)
    with make_stages(progress) as stages:
        fitted = fit(clips, load_settings(), stages)
    fitted.background.save(out)
    made = fitted.background
    if as_json:
        print_json(
            {"file": str(out), "encoder": made.encoder, "clips": made.clips, "windows": len(made.vectors),
             "failed": list(fitted.failed)}
        )  # fmt: skip
        return
    print(f"{made.clips} clips, {len(made.vectors)} windows, encoder {made.encoder}: {safe(out)}")
    for line in fitted.failed:
        print(safe(f"left out: {line}"))
    print(f"Use it with: GUARD_BACKGROUND={safe(out)}")
