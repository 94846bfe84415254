"""`guard scan`: judge files and directories, resumably."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Annotated, Any, Self, cast

import typer

from guard.errors import UsageError
from serve.failures import Exit

if TYPE_CHECKING:
    from guard.api import Guard
    from serve.progress import Mode, Progress
    from serve.scan import ScanRequest


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("scan")(scan)


def scan(
    paths: Annotated[
        list[str], typer.Argument(help="Files, directories, globs; - reads a list from stdin.", show_default=False)
    ],
    out: Annotated[str, typer.Option(help="Run directory; - writes the lines to stdout, without one.")],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a policy, or a policy file. Repeatable: each is laid over those before it, and cannot loosen "
            "what they lock."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Decoder processes. Default: one a core.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of `guard train fast` to screen with. Default: the shipped weights.")
    ] = None,
    slow: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible VLM server.")] = None,
    ocr: Annotated[
        bool, typer.Option("--ocr", help="Read words in frames and judge them as text (extra ocr).")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: judge undecided and degraded inputs again.")
    ] = False,
    include: Annotated[list[str] | None, typer.Option(help="Take only files that match this glob. Repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave out files that match this glob. Repeatable.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: take the i-th of n disjoint shards.")] = "1/1",
    limit: Annotated[int | None, typer.Option(min=0, help="Take at most this many inputs.")] = None,
    null: Annotated[bool, typer.Option("--null", help="The list on stdin is separated by NUL bytes.")] = False,
    format_: Annotated[str, typer.Option("--format", help="jsonl, csv, parquet; separated by commas.")] = "jsonl",
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="block: exit with 1 if any input is blocked; review: if any is blocked or to be reviewed. Undecided "
            "inputs alone give 3. Default: what was found does not change the exit code."
        ),
    ] = None,
    max_gap: Annotated[float | None, typer.Option(help="Largest stretch without a scored frame, in seconds.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Places the samples, together with the content.")] = None,
    progress: Annotated[str, typer.Option(help="bar, json or none, on stderr.")] = "bar",
    evidence: Annotated[bool, typer.Option("--evidence", help="Keep the peak frames as JPEG.")] = False,
) -> None:
    """Judge every input and write one line for each, in input order.

    Exit codes, the first that holds of 4, 1, 3, 0:
    0 done
    1 --fail-on matched
    2 usage
    3 some inputs are undecided, or the slow path gave no usable answer
    4 a backend is down
    130 interrupted; go on with --resume
    """
    from guard.api import Guard
    from guard.config import load_settings
    from serve.inputs import Selection
    from serve.policy_layers import composed
    from serve.progress import make_progress
    from serve.results import parse_formats
    from serve.scan import ScanRequest

    mode = cast("Mode", _choice("--progress", progress, ("bar", "json", "none")))
    given, literal = _read_list(paths, null=null)
    selection = Selection(
        include=tuple(include or ()), exclude=tuple(exclude or ()), shard=parse_shard(shard), limit=limit
    )
    request = ScanRequest(
        paths=given,
        literal=literal,
        out=Path(out),
        selection=selection,
        resume=resume or retry_failed,
        retry_failed=retry_failed,
        formats=parse_formats(format_),
        fail_on=None if fail_on is None else _choice("--fail-on", fail_on, ("review", "block")),
        evidence=evidence,
    )
    overrides: dict[str, Any] = {
        "policy": policy[0] if policy and len(policy) == 1 else None,
        "workers": workers,
        "fast_checkpoint": checkpoint,
        "slow_url": slow,
        "max_gap_seconds": max_gap,
        "seed": seed,
    }
    if out == "-" and (resume or retry_failed or evidence):
        raise UsageError("--out - keeps nothing, so --resume, --retry-failed and --evidence cannot go with it.")
    layered = composed(policy).policy if policy and len(policy) > 1 else None
    settings = load_settings(**overrides)
    if ocr:
        settings = settings.model_copy(update={"detectors": tuple(dict.fromkeys((*settings.detectors, "screen_text")))})
    with Guard.load(settings, policy=layered) as guard, make_progress(mode) as display:
        code = _to_stdout(guard, request, display) if out == "-" else _to_directory(guard, request, display)
    raise typer.Exit(code)


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) from `i/n`. Raises `UsageError` unless 1 <= i <= n."""
    first, _, second = text.partition("/")
    if first.isascii() and second.isascii() and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise UsageError(f"--shard takes i/n with 1 <= i <= n, such as 2/8; got {text!r}.")


def _to_directory(guard: Guard, request: ScanRequest, display: Progress) -> Exit:
    from serve.run_dir import RUN
    from serve.scan import REPORT, run_scan
    from serve.summary import nothing_found, print_summary
    from serve.terminal import console, fail_line, safe

    if request.resume and not (request.out / RUN).exists():
        fail_line(f"{str(request.out)!r} holds no run to go on with; a new one begins.")
    try:
        outcome = run_scan(guard, request, display)
    except KeyboardInterrupt:
        print("guard: interrupted; what is done is kept. Go on with the same command and --resume.", file=sys.stderr)
        return Exit.INTERRUPTED
    display.__exit__(None, None, None)  # the bar gives way to the tables
    print_summary(outcome.summary, console(stderr=True), guard.policy)
    if not outcome.summary["inputs"]:
        fail_line(nothing_found(outcome.summary))
    print(f"Report: {safe(request.out / REPORT)}", file=sys.stderr)
    print(request.out)
    return outcome.exit_code


def _to_stdout(guard: Guard, request: ScanRequest, display: Progress) -> Exit:
    from serve.scan import run_scan
    from serve.summary import nothing_found
    from serve.terminal import fail_line

    with tempfile.TemporaryDirectory(prefix="guard-scan-") as folder:
        outcome = run_scan(guard, replace(request, out=Path(folder)), InOrder(display, sys.stdout))
    if not outcome.summary["inputs"]:
        fail_line(nothing_found(outcome.summary))
    return outcome.exit_code


class InOrder:
    """Writes each line as soon as all before it are written, and passes everything on to another display."""

    def __init__(self, display: Progress, stream: IO[str]) -> None:
        self._display = display
        self._stream = stream
        self._waiting: dict[int, Mapping[str, Any]] = {}
        self._next = 0

    def start(self, total: int) -> None:
        """Pass on."""
        self._display.start(total)

    def advance(self, record: Mapping[str, Any], *, kept: bool = False) -> None:
        """Write what is now complete up to its place."""
        self._waiting[record["index"]] = record
        while self._next in self._waiting:
            self._stream.write(json.dumps(self._waiting.pop(self._next), allow_nan=False) + "\n")
            self._next += 1
        self._stream.flush()
        self._display.advance(record, kept=kept)

    def phase(self, name: str) -> None:
        """Pass on."""
        self._display.phase(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _read_list(paths: list[str], *, null: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the paths given, and those of the list on stdin if one of them is `-`."""
    from serve.inputs import parse_list

    given = tuple(path for path in paths if path != "-")
    if len(given) == len(paths):
        if null:
            raise UsageError("--null speaks of a list on stdin; give - as a PATH to read one.")
        return given, ()
    return given, tuple(parse_list(sys.stdin.buffer.read(), null=null))


def _choice(option: str, given: str, allowed: tuple[str, ...]) -> str:
    if given not in allowed:
        raise UsageError(f"{option} takes {', '.join(allowed)}; got {given!r}.")
    return given
