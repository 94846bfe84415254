"""Which clips a checkpoint has seen: a list of content hashes beside the weights.

A calibration on clips that were trained on promises what new clips do not keep, so `guard calibrate` asks this list.
It holds the first 16 hex digits of each SHA-256: enough to know a file that one has, and nothing of its content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fast_path import checkpoint
from fast_path.dataset import Row

NAME = "clips.txt"
_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The clips of a training run."""

    trained: frozenset[str] = frozenset()
    """Of the split that the weights were fitted to."""
    stopped: frozenset[str] = frozenset()
    """Of the split that decided which epoch to keep: a milder look, but a look."""

    def trained_on(self, row: Row) -> bool:
        """Whether the weights were fitted to this content."""
        return row.sha256[:_DIGITS] in self.trained

    def stopped_by(self, row: Row) -> bool:
        """Whether this content helped to choose the epoch."""
        return row.sha256[:_DIGITS] in self.stopped


def save(folder: Path, rows: Iterable[Row]) -> None:
    """Write the list of a run; `rows` of the splits `train` and `val`."""
    lines = sorted({f"{row.split} {row.sha256[:_DIGITS]}" for row in rows})
    checkpoint.write_atomically(folder / NAME, ("\n".join(lines) + "\n").encode())


def load(folder: Path | None) -> Seen:
    """Read the list of a checkpoint; None reads that of the shipped one. Without a list nothing is known."""
    root = resources.files("fast_path").joinpath("weights", "tiny") if folder is None else folder
    file = root.joinpath(NAME)
    lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    of = {
        split: frozenset(line.partition(" ")[2] for line in lines if line.startswith(f"{split} "))
        for split in ("train", "val")
    }
    return Seen(trained=of["train"], stopped=of["val"])
