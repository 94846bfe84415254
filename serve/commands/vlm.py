"""`guard serve-vlm`: start a vLLM server that suits the slow path."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from guard.errors import UsageError
from serve.commands import traces


def register(app: typer.Typer) -> None:
    """Add the command to `app`, and those that teach a VLM."""
    app.command("serve-vlm")(serve_vlm)
    traces.register(app)


def serve_vlm(
    model: Annotated[str, typer.Argument(help="Hub name or folder of a vision-language model.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; vLLM's own routes are open.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Model name in requests. Default: as given.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER of a LoRA adapter. Repeatable.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Most frames in one prompt.")] = 16,
    max_model_len: Annotated[int, typer.Option(min=256, help="Tokens of prompt and answer together.")] = 8192,
    dtype: Annotated[str, typer.Option(help="Of the weights: bfloat16, float16, float32.")] = "bfloat16",
    kv_cache_gib: Annotated[int, typer.Option(min=1, help="Key-value cache on a machine without a GPU.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads without a GPU.")] = None,
    extra: Annotated[list[str] | None, typer.Option(help="One more argument for vLLM. Repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command and do not run it.")] = False,
) -> None:
    """Serve a VLM for `--slow` with vLLM: images only, structured answers, bound to this machine.

    Needs a Python that has vLLM: `make vllm-env`, or GUARD_VLLM_PYTHON.
    """
    from slow_path.server import ServerSettings, command

    settings = ServerSettings(
        host=host,
        port=port,
        served_name=name,
        images=images,
        max_model_len=max_model_len,
        dtype=dtype,
        kv_cache_gib=kv_cache_gib,
        threads=threads,
        adapters=dict(_adapter(pair) for pair in adapter or ()),
        extra=tuple(extra or ()),
    )
    argv, environment = command(model, settings)
    if dry_run:
        print(shlex.join(["env", *(f"{key}={value}" for key, value in environment.items()), *argv]))
        return
    print(f"Serving {model}; once it is up: guard scan PATH --out RUN --slow http://{host}:{port}/v1", file=sys.stderr)
    sys.stderr.flush()
    # In place of this process: signals and the exit code are then the server's own.
    os.execve(argv[0], argv, os.environ | environment)  # noqa: S606 - a list, and no shell reads it


def _adapter(pair: str) -> tuple[str, Path]:
    name, equals, folder = pair.partition("=")
    if not equals or not name or not Path(folder).is_dir():
        raise UsageError(f"--adapter takes NAME=FOLDER of an adapter that is there; got {pair!r}.")
    return name, Path(folder).absolute()
