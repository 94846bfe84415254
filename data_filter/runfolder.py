"""The run directory: `run.json` says what a run is, and how it went. One folder holds one run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_filter.look import DistillConfig, Inputs
from data_filter.shards import atomic_write
from guard._version import __version__
from guard.errors import GuardError, InvalidManifest, ResumeMismatch


def plain(settings: DistillConfig) -> dict[str, Any]:
    """Return settings as JSON values."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return found


class RunFolder:
    """Claims a folder for a run with these settings and inputs; another run's folder raises `ResumeMismatch`."""

    def __init__(self, out: Path, settings: DistillConfig, inputs: Inputs) -> None:
        self.out = out
        self.seconds: dict[str, float] = {}
        self._path = out / "run.json"
        signature = _signature(settings, inputs)
        if self._path.exists():
            held = self._held()
            if held.get("signature") != signature:
                config = held.get("config", {})
                different = [k for k, v in plain(settings).items() if config.get(k) != v and k != "workers"]
                raise ResumeMismatch(f"{out} holds a run with other {', '.join(different) or 'input files'}.")
        self._claim = {"signature": signature, "code_version": __version__, "config": plain(settings)}
        self._write(status="running")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Leave in `run.json` why a guard stopped the run, so that half a folder never passes for a result."""
        try:
            yield
        except GuardError as error:
            self._write(status="refused", code=error.code, message=error.message)
            raise

    def done(self, **facts: Any) -> None:
        """Say that everything is there."""
        self._write(status="done", **facts, seconds=self.seconds)

    def _write(self, **facts: Any) -> None:
        atomic_write(self._path, json.dumps({**self._claim, **facts}, indent=1).encode())

    def _held(self) -> dict[str, Any]:
        try:
            held: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        except ValueError as error:
            raise InvalidManifest(f"{self._path} is no JSON: {error}.", hint="Choose another --out.") from error
        return held


def _signature(settings: DistillConfig, inputs: Inputs) -> str:
    digest = hashlib.sha256(json.dumps(plain(replace(settings, workers=1)), sort_keys=True).encode())
    decided = None if inputs.decisions is None else inputs.decisions / "decisions.jsonl"
    for item in _present((inputs.manifest, inputs.queries, inputs.embeddings, decided)):
        digest.update(b"\0" + (b"" if item is None else hashlib.sha256(item.read_bytes()).digest()))
    return digest.hexdigest()


def _present(paths: Sequence[Path | None]) -> Iterator[Path | None]:
    for path in paths:
        if path is not None and not path.is_file():
            raise InvalidManifest(f"{path} is not there.")
        yield path
