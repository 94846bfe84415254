"""`guard probe`, `hash`, `flash` and `limits`: facts about one file, and about what is accepted."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.failures import Exit
from serve.terminal import print_facts, print_json, print_rows, safe

if TYPE_CHECKING:
    from fast_path.flash import FlashReport
    from guard.limits import Limits
    from guard.types import Video

File = Annotated[str, typer.Argument(help="A video file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("probe")(probe)
    app.command("hash")(hash_)
    app.command("flash")(flash)
    app.command("limits")(limits)


def probe(file: File, as_json: AsJson = False) -> None:
    """Show what a media file says of itself and what its packets show."""
    from guard.video.sandbox import SandboxedDecoder

    video, bounds, reader = _open(file)
    with SandboxedDecoder(limits=bounds, reader=reader) as decoder:
        media = decoder.probe(video)
    facts = {"source": video.source, "sha256": video.sha256, "size_bytes": video.size_bytes, **asdict(media)}
    if as_json:
        print_json({**facts, "streams": dict(media.streams)})
    else:
        streams = ", ".join(f"{count} {kind}" for kind, count in media.streams.items())
        print_facts(
            {name.replace("_", " "): "unknown" if v is None else v for name, v in {**facts, "streams": streams}.items()}
        )


def hash_(file: File, as_json: AsJson = False) -> None:
    """Show the SHA-256 by which a file's content is known in every result."""
    video, _, _ = _open(file)
    if as_json:
        print_json({"source": video.source, "sha256": video.sha256, "size_bytes": video.size_bytes})
    else:
        print(f"{video.sha256}  {safe(video.source)}")


def flash(file: File, as_json: AsJson = False) -> None:
    """Measure flashing that can trigger seizures on every frame of a file; exits with 1 where it fails.

    After WCAG 2.2 (success criterion 2.3.1) and ITU-R BT.1702; not a certified test.
    """
    from fast_path.flash import FlashResult, FlashSink
    from guard.video.sandbox import SandboxedDecoder

    video, bounds, reader = _open(file)
    sink = FlashSink()
    with SandboxedDecoder(limits=bounds, reader=reader) as decoder:
        coverage = decoder.feed(video, sink.needs, sink).coverage
    report = sink.finish()
    facts = {"source": video.source, "sha256": video.sha256, "complete": coverage.complete, **report.as_dict()}
    if as_json:
        print_json(facts)
    else:
        _print_flash(facts, report)
    if report.result.severity >= FlashResult.EXTENDED_FAIL.severity:
        raise typer.Exit(Exit.FAIL_ON_MATCHED)
    raise typer.Exit(Exit.OK if coverage.complete else Exit.SOME_UNDECIDED)


def limits(as_json: AsJson = False) -> None:
    """Show what an input may cost, and the containers and codecs that are decoded."""
    from guard.limits import DECODERS, DEMUXERS

    bounds = configured_limits()
    values: dict[str, Any] = {field.name: getattr(bounds, field.name) for field in fields(bounds)}
    if as_json:
        print_json({"limits": values, "containers": DEMUXERS, "codecs": DECODERS})
        return
    print_facts({name.replace("_", " "): f"{value:,}" for name, value in values.items()})
    print()
    print_facts({"containers": ", ".join(DEMUXERS), "codecs": ", ".join(DECODERS)})
    print("\nRaise one in the settings file, such as: limits = { max_seconds = 43200 }")


def configured_limits() -> Limits:
    """Return the limits of this process."""
    from guard.api import limits_of
    from guard.config import load_settings

    return limits_of(load_settings())


def _open(file: str) -> tuple[Video, Limits, str]:
    from guard.config import load_settings
    from guard.video.source import open_video
    from serve.inputs import display

    bounds = configured_limits()
    return open_video(Path(file).absolute(), name=display(file), limits=bounds), bounds, load_settings().reader


def _print_flash(facts: dict[str, Any], report: FlashReport) -> None:
    print_facts({name.replace("_", " "): value for name, value in facts.items() if not isinstance(value, dict)})
    print()
    kinds = (report.general, report.red)
    rows = [(k.kind, k.result.value, f"{k.peak_flashes:g}", f"{k.worst_second_start:.2f} s") for k in kinds]
    print_rows(("kind", "result", "most flashes in a second", "that second starts at"), rows)
    spans = [
        (k.kind, f"{s.start_seconds:.2f} s", f"{s.end_seconds:.2f} s", s.result.value) for k in kinds for s in k.spans
    ]
    if spans:
        print()
        print_rows(("kind", "from", "to", "result"), spans)
