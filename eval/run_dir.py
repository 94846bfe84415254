"""The directory of one evaluation run.

    run.json            what was asked of which system: the resume signature; cost so far
    predictions.jsonl   one line for each sample; while the run is under way in order of completion, then in order
    key.jsonl           what is true of each sample and where its content lies; written after the last answer
    metrics.json        every number

A process killed at any moment leaves at most one torn line, which the next one cuts off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from eval.types import Gold, Item, Prediction, from_plain, to_plain
from guard.errors import InvalidManifest, ResumeMismatch, UsageError

RUN, PREDICTIONS, KEY, METRICS = "run.json", "predictions.jsonl", "key.jsonl", "metrics.json"
_LOCK = ".lock"


class EvalRun:
    """An open, locked run directory. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, Prediction] = {}
        self.info: dict[str, Any] = {}
        self._lock: IO[bytes] | None = None
        self._out: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / _LOCK).open("ab")
        except OSError as error:
            raise UsageError(f"The run directory {str(self.path)!r} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UsageError(f"Another evaluation is writing to {str(self.path)!r}.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._out is not None:
            self._out.flush()
            os.fsync(self._out.fileno())
            self._out.close()
        if self._lock is not None:
            self._lock.close()

    def start(self, run: Mapping[str, Any], *, resume: bool) -> None:
        """Begin a run, or take up the one that is there.

        Raises:
            UsageError: there is a run and `resume` is false, or the folder holds something else.
            ResumeMismatch: the earlier run has another signature.
        """
        earlier = read_json(self.path / RUN)
        if earlier is None:
            strange = sorted(entry.name for entry in self.path.iterdir() if entry.name != _LOCK)
            if strange:
                (self.path / _LOCK).unlink(missing_ok=True)
                raise UsageError(f"{str(self.path)!r} holds files but no run, such as {strange[0]!r}.")
        elif not resume:
            hint = "Add --resume to go on with it, or use another --out directory."
            raise UsageError(f"{str(self.path)!r} already holds a run.", hint=hint)
        else:
            _require_same(earlier["signature"], json.loads(json.dumps(run["signature"])))
        for stale in (KEY, METRICS):  # of the answers before: no key lies about while a system is at work
            (self.path / stale).unlink(missing_ok=True)
        self.info = {**run, "cost": (earlier or {}).get("cost", {})}
        write_json(self.path / RUN, self.info)
        self._open()

    def _open(self) -> None:
        self._out = (self.path / PREDICTIONS).open("a+b")
        self._out.seek(0)
        end = 0
        for line in self._out:
            prediction = _parse(line)
            if prediction is None:
                break
            self.done[prediction.id] = prediction
            end += len(line)
        self._out.truncate(end)
        self._out.seek(end)

    def append(self, prediction: Prediction) -> None:
        """Write one answer down; it survives a kill of this process from here on."""
        if self._out is None:
            raise RuntimeError("append before start")
        self._out.write(json.dumps(to_plain(prediction), allow_nan=False).encode() + b"\n")
        self._out.flush()
        self.done[prediction.id] = prediction

    def add_cost(self, spent: Mapping[str, float]) -> None:
        """Add what this process spent to what earlier ones did."""
        before = self.info.get("cost", {})
        self.info["cost"] = {name: round(before.get(name, 0.0) + value, 3) for name, value in spent.items()}
        write_json(self.path / RUN, self.info)

    def finish(self, items: Iterable[Item]) -> None:
        """Write the predictions in the order of the benchmark, one line each, and the key beside them."""
        items = list(items)
        lines = (json.dumps(to_plain(self.done[item.sample.id]), allow_nan=False) + "\n" for item in items)
        write_text(self.path / PREDICTIONS, "".join(lines))
        write_text(self.path / KEY, "".join(json.dumps(_key_line(item)) + "\n" for item in items))


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a finished run. Raises `InvalidManifest` for a damaged line."""
    made = []
    for number, line in enumerate((path / PREDICTIONS).read_bytes().splitlines(keepends=True), 1):
        prediction = _parse(line)
        if prediction is None:
            raise InvalidManifest(f"{path / PREDICTIONS}, line {number} is not a prediction.")
        made.append(prediction)
    return made


def read_key(path: Path) -> list[tuple[Gold, dict[str, Any]]]:
    """Return the gold of each prediction of a finished run, and its line. Raises `UsageError` without a key."""
    try:
        lines = (path / KEY).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{str(path)!r} is not a finished evaluation run: it has no {KEY}.") from error
    made = []
    for line in lines:
        plain = json.loads(line)
        own = {name: _tuples(plain["gold"][name]) for name in plain["gold"]}
        made.append((Gold(**own), plain))
    return made


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None where there is no such file. Raises `UsageError` for another content."""
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is not JSON: {error}.") from error
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` so that a reader sees the old file or the new one, never a part."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f"{path.name}.tmp")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _key_line(item: Item) -> dict[str, Any]:
    sample = item.sample
    content = {"path": None if sample.path is None else str(sample.path.absolute()), "text": sample.text}
    return {"id": sample.id, "kind": sample.kind, "policy": sample.policy, **content, "gold": asdict(item.gold)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _parse(line: bytes) -> Prediction | None:
    """Return the prediction of a line, or None for one that was torn by a kill."""
    if not line.endswith(b"\n"):
        return None
    try:
        return from_plain(json.loads(line))
    except (ValueError, TypeError):
        return None


def _require_same(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = [key for key in sorted({*earlier, *now}) if earlier.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(f"{k} was {earlier.get(k)!r:.80}, now is {now.get(k)!r:.80}" for k in differing[:4])
        raise ResumeMismatch(f"The run was started with other settings: {shown}.")
