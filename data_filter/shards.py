"""One shard of a gradient store: written whole or not at all, and checkable.

A shard is `<stem>.npy` (float16 [rows, K], each row of length one), `<stem>.ids.npy`, `<stem>.aux.npy` (float32
[rows, A]) and `<stem>.sums.npz`, then `<stem>.ok` with their hashes. Only a shard with an `.ok` exists for readers.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_filter.types import Float64Array, Int64Array
from guard.errors import InvalidManifest
from guard.types import Float32Array, require

SUFFIXES = (".npy", ".ids.npy", ".aux.npy", ".sums.npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What a worker computed for a run of examples."""

    ids: tuple[str, ...]
    rows: Float32Array
    """float32 [rows, K]."""
    aux: Mapping[str, Float32Array] = field(default_factory=dict)
    """float32 [rows] each: loss, margin and the like; `norm` is added by the store."""
    sums: Mapping[str, Float64Array] = field(default_factory=dict)
    """Statistics that add up over shards, such as second moments of a layer."""

    def __post_init__(self) -> None:
        require(len(self.ids) == len(self.rows), "rows", f"{len(self.ids)} rows", self.rows.shape)
        bad = int((~np.isfinite(self.rows)).any(axis=1).sum())
        require(bad == 0, "gradient rows", "finite", f"{bad} that are not")


def write(folder: Path, stem: str, shard: Shard) -> None:
    """Write a shard so that a kill at any moment leaves either no shard or a whole one. Same input, same bytes."""
    norms = np.linalg.norm(shard.rows.astype(np.float64), axis=1)
    # unit rows keep float16 in its good range whatever the size of the gradients: 1 / sqrt(2048) = 0.022
    unit = shard.rows / np.where(norms > 0, norms, 1.0)[:, None]
    aux = {"norm": norms.astype(np.float32), **shard.aux}
    table = np.stack([np.asarray(aux[name], dtype=np.float32) for name in sorted(aux)], axis=1)
    sums = {"count": np.float64(len(shard.ids)), "square_norm": np.float64((norms**2).sum()), **shard.sums}
    contents = {
        ".npy": _npy(unit.astype(np.float16)),
        ".ids.npy": _npy(np.array(shard.ids, dtype=np.str_)),
        ".aux.npy": _npy(table),
        ".sums.npz": _npz(sums),
    }
    hashes = {suffix: hashlib.sha256(content).hexdigest() for suffix, content in contents.items()}
    for suffix, content in contents.items():
        atomic_write(folder / f"{stem}{suffix}", content)
    marker = {"rows": len(shard.ids), "aux": sorted(aux), "sha256": hashes}
    atomic_write(folder / f"{stem}.ok", json.dumps(marker, sort_keys=True).encode())


def marker(folder: Path, stem: str) -> dict[str, Any] | None:
    """Return what the `.ok` file says, or None where the shard is not there yet."""
    path = folder / f"{stem}.ok"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def problems(folder: Path, stem: str) -> list[str]:
    """Return what is wrong with a finished shard; an empty list where every hash fits."""
    found = marker(folder, stem)
    if found is None:
        return [f"{stem}: not there"]
    wrong = []
    for suffix, digest in found["sha256"].items():
        path = folder / f"{stem}{suffix}"
        if not path.exists():
            wrong.append(f"{path.name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{path.name}: content differs from its hash")
    return wrong


def read_aux(folder: Path, stem: str) -> dict[str, Float32Array]:
    """Return the per-row facts of a finished shard, float32 [rows] each."""
    found = marker(folder, stem)
    if found is None:
        raise InvalidManifest(f"{folder / stem} is not finished.")
    table = np.load(folder / f"{stem}.aux.npy")
    return {name: table[:, i] for i, name in enumerate(found["aux"])}


def read_sums(folder: Path, stem: str) -> dict[str, Float64Array]:
    """Return the sums of a finished shard."""
    with np.load(folder / f"{stem}.sums.npz") as sums:
        return {name: sums[name] for name in sums.files}


class ShardedRows:
    """`Rows` over the shards of one checkpoint, memory-mapped; only the rows asked for are read."""

    def __init__(self, folder: Path, stems: Sequence[str], shard_rows: int, total: int) -> None:
        self._parts = [np.load(folder / f"{stem}.npy", mmap_mode="r") for stem in stems]
        self._norms = np.concatenate([read_aux(folder, stem)["norm"] for stem in stems])
        self._shard_rows = shard_rows
        self.shape = (total, int(self._parts[0].shape[1]))

    def __getitem__(self, key: slice | Int64Array) -> Float32Array:
        """Return the rows of a slice or of an index array, float32 [rows, K]."""
        if isinstance(key, slice):
            return self._run(*key.indices(self.shape[0]))
        at = np.asarray(key, dtype=np.int64)
        out = np.empty((len(at), self.shape[1]), dtype=np.float32)
        owner = at // self._shard_rows
        for part in np.unique(owner):
            mine = owner == part
            out[mine] = self._parts[part][at[mine] - part * self._shard_rows]
        scaled: Float32Array = out * self._norms[at, None]
        return scaled

    def _run(self, start: int, stop: int, step: int) -> Float32Array:
        if step != 1:
            return self[np.arange(start, stop, step, dtype=np.int64)]
        size = self._shard_rows
        pieces = [
            np.asarray(self._parts[p][max(start - p * size, 0) : stop - p * size], dtype=np.float32)
            for p in range(start // size, -(-stop // size))
        ]
        joined = np.concatenate(pieces) if pieces else np.empty((0, self.shape[1]), dtype=np.float32)
        scaled: Float32Array = joined * self._norms[start:stop, None]
        return scaled


def atomic_write(path: Path, content: bytes) -> None:
    """Replace `path` in one step, its content on the disk before its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    # numpy stamps every member with one fixed time: equal sums give equal bytes
    members: dict[str, Any] = {name: np.asarray(arrays[name]) for name in sorted(arrays)}
    np.savez(buffer, **members)
    return buffer.getvalue()
