"""The gradient store: per-example gradients of many examples at several checkpoints, on one disk.

    store/manifest.json                  what was computed, from what, and its identity hash
    store/ckpt-00/rows-00000.npy ...     shards of the training rows (see `data_filter.shards`)
    store/ckpt-00/curvature-00000.npy    shards of gradients for labels drawn from the model

Shard s belongs to worker s % workers. A killed run continues with the shards that are missing; stores of several
machines merge by copying. Every statistic is a sum over shards. Size: 200,000 rows of K=2048 take 0.82 GB per
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_filter import shards
from data_filter.shards import Shard, ShardedRows
from data_filter.types import Checkpoint, Float64Array, GradientView, KroneckerFactors, Layer
from guard._version import __version__
from guard.errors import InvalidManifest, ResumeMismatch, UsageError
from guard.types import Float32Array, require

Kind = Literal["rows", "curvature"]
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpec:
    """What a store holds. Two stores with one `identity` may be merged; another identity is refused on resume."""

    ids_sha256: str
    """Hash of the example ids in order; see `hash_ids`."""
    total: int
    """N."""
    layers: tuple[Layer, ...]
    checkpoints: tuple[str, ...]
    """SHA-256 (or another stable name) of the weights of each checkpoint, earliest first."""
    weights: tuple[float, ...]
    """Learning rate at each checkpoint."""
    loss: str
    view: Literal["sgd", "adam"] = "sgd"
    projection_seed: int = 0
    curvature_total: int = 0
    """M rows of gradients for labels drawn from the model, or 0."""
    shard_rows: int = 4096

    def __post_init__(self) -> None:
        require(
            self.total > 0 and self.shard_rows > 0, "total and shard_rows", "positive", (self.total, self.shard_rows)
        )
        require(
            len(self.weights) == len(self.checkpoints), "weights", f"{len(self.checkpoints)} long", len(self.weights)
        )

    def identity(self) -> str:
        """Return the SHA-256 over everything that decides the bytes of the shards."""
        content = json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def count(self, kind: Kind) -> int:
        """Return the number of rows of one kind."""
        return self.total if kind == "rows" else self.curvature_total

    def shards(self, kind: Kind) -> int:
        """Return the number of shards of one kind at one checkpoint."""
        return -(-self.count(kind) // self.shard_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One shard to compute: rows [start, stop) of one kind at one checkpoint."""

    kind: Kind
    checkpoint: int
    shard: int
    start: int
    stop: int


def hash_ids(ids: Sequence[str]) -> str:
    """Return the SHA-256 of ids in order, each closed by a zero byte (so `ab, c` and `a, bc` differ)."""
    digest = hashlib.sha256()
    for identifier in ids:
        digest.update(identifier.encode() + b"\0")
    return digest.hexdigest()


class GradientStore:
    """A folder of shards. Opening it with another spec than it was made with raises `ResumeMismatch`."""

    def __init__(self, folder: Path, spec: StoreSpec) -> None:
        self.folder = folder
        self.spec = spec
        path = folder / "manifest.json"
        if path.exists():
            held = json.loads(path.read_text("utf-8"))
            if held["identity"] != spec.identity():
                different = [key for key, value in _plain(spec).items() if held["spec"].get(key) != value]
                raise ResumeMismatch(f"{folder} was made for other {', '.join(different) or 'settings'}.")
            return
        content = {"identity": spec.identity(), "code_version": __version__, "spec": _plain(spec)}
        shards.atomic_write(path, json.dumps(content, indent=1, sort_keys=True).encode())

    @classmethod
    def open(cls, folder: Path) -> GradientStore:
        """Open an existing store."""
        path = folder / "manifest.json"
        if not path.exists():
            raise InvalidManifest(f"{folder} holds no gradient store: there is no manifest.json.")
        held: dict[str, Any] = json.loads(path.read_text("utf-8"))["spec"]
        layers = tuple(Layer(**layer) for layer in held.pop("layers"))
        for key in ("checkpoints", "weights"):
            held[key] = tuple(held[key])
        return cls(folder, StoreSpec(layers=layers, **held))

    def tasks(self, *, worker: int = 0, workers: int = 1) -> Iterator[Task]:
        """Yield the shards of one worker that are not finished, checkpoint by checkpoint."""
        kinds: tuple[Kind, ...] = ("rows", "curvature")
        for checkpoint in range(len(self.spec.checkpoints)):
            for kind in kinds:
                for shard in range(worker, self.spec.shards(kind), workers):
                    if shards.marker(self._at(checkpoint), _stem(kind, shard)) is None:
                        start = shard * self.spec.shard_rows
                        stop = min(start + self.spec.shard_rows, self.spec.count(kind))
                        yield Task(kind=kind, checkpoint=checkpoint, shard=shard, start=start, stop=stop)

    def fill(self, compute: Callable[[Task], Shard], *, worker: int = 0, workers: int = 1) -> int:
        """Compute and write every missing shard of one worker; returns how many there were."""
        done = 0
        for task in self.tasks(worker=worker, workers=workers):
            self.write(task, compute(task))
            done += 1
        return done

    def write(self, task: Task, shard: Shard) -> None:
        """Write one shard. Raises `UsageError` where its size is not what the task asked for."""
        wanted = (task.stop - task.start, self.spec.layers[-1].stop)
        if shard.rows.shape != wanted:
            raise UsageError(f"The shard for {task} must have rows of shape {wanted}; got {shard.rows.shape}.")
        shards.write(self._at(task.checkpoint), _stem(task.kind, task.shard), shard)

    def merge(self, other: GradientStore) -> int:
        """Copy the finished shards that this store lacks from one of the same identity; returns how many."""
        if other.spec.identity() != self.spec.identity():
            raise ResumeMismatch(f"{other.folder} holds other gradients than {self.folder}.")
        wanted = {(t.checkpoint, _stem(t.kind, t.shard)) for t in self.tasks()}
        taken = 0
        for checkpoint, stem in sorted(wanted):
            source, target = other._at(checkpoint), self._at(checkpoint)
            if shards.marker(source, stem) is None:
                continue
            wrong = shards.problems(source, stem)
            if wrong:
                raise InvalidManifest(f"{source} is damaged: {'; '.join(wrong)}.", hint="Compute these shards again.")
            target.mkdir(parents=True, exist_ok=True)
            for suffix in (*shards.SUFFIXES, ".ok"):  # .ok last: only then does the shard exist
                temporary = target / f".{stem}{suffix}.tmp"
                shutil.copyfile(source / f"{stem}{suffix}", temporary)
                temporary.replace(target / f"{stem}{suffix}")
            taken += 1
        return taken

    def verify(self) -> list[str]:
        """Return what is wrong: missing shards, files that do not fit their hashes, ids out of order."""
        found = [f"ckpt-{t.checkpoint:02d}/{_stem(t.kind, t.shard)}: not there" for t in self.tasks()]
        for checkpoint in range(len(self.spec.checkpoints)):
            ids: list[str] = []
            whole = not any(line.startswith(f"ckpt-{checkpoint:02d}") for line in found)
            for stem in self._stems("rows"):
                if shards.marker(self._at(checkpoint), stem) is not None:
                    wrong = shards.problems(self._at(checkpoint), stem)
                    found.extend(f"ckpt-{checkpoint:02d}/{line}" for line in wrong)
                    whole = whole and not wrong
                    ids.extend(np.load(self._at(checkpoint) / f"{stem}.ids.npy").tolist() if whole else [])
            if whole and hash_ids(ids) != self.spec.ids_sha256:
                found.append(f"ckpt-{checkpoint:02d}: the ids are not those of the manifest")
        return found

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all rows in order."""
        folder = self._at(0)
        return tuple(i for stem in self._stems("rows") for i in np.load(folder / f"{stem}.ids.npy").tolist())

    def aux(self, name: str) -> Float32Array:
        """Return one per-row fact over checkpoints, float32 [N, checkpoints]."""
        columns = []
        for checkpoint in range(len(self.spec.checkpoints)):
            parts = [shards.read_aux(self._at(checkpoint), stem)[name] for stem in self._stems("rows")]
            columns.append(np.concatenate(parts))
        return np.stack(columns, axis=1)

    def sums(self, checkpoint: int, kind: Kind = "rows") -> dict[str, Float64Array]:
        """Return the statistics of one checkpoint, added up over its shards."""
        total: dict[str, Float64Array] = {}
        for stem in self._stems(kind):
            for name, value in shards.read_sums(self._at(checkpoint), stem).items():
                total[name] = total[name] + value if name in total else value
        return total

    def view(self) -> GradientView:
        """Return the whole store as a `GradientView`. Raises `InvalidManifest` while shards are missing."""
        missing = sum(1 for _ in self.tasks())
        if missing:
            raise InvalidManifest(
                f"{self.folder} lacks {missing} shards.", hint="Run the collection again: it resumes."
            )
        checkpoints = tuple(self._checkpoint(i) for i in range(len(self.spec.checkpoints)))
        return GradientView(layers=self.spec.layers, checkpoints=checkpoints)

    def _checkpoint(self, i: int) -> Checkpoint:
        folder, spec = self._at(i), self.spec
        curvature = None
        factors: tuple[KroneckerFactors, ...] = ()
        if spec.curvature_total:
            curvature = ShardedRows(folder, self._stems("curvature"), spec.shard_rows, spec.curvature_total)
            sums = self.sums(i, "curvature")
            factors = factors_of(sums, spec.layers, float(sums["count"]))
        rows = ShardedRows(folder, self._stems("rows"), spec.shard_rows, spec.total)
        return Checkpoint(
            name=spec.checkpoints[i], rows=rows, weight=spec.weights[i], curvature=curvature, factors=factors
        )

    def _at(self, checkpoint: int) -> Path:
        return self.folder / f"ckpt-{checkpoint:02d}"

    def _stems(self, kind: Kind) -> list[str]:
        return [_stem(kind, shard) for shard in range(self.spec.shards(kind))]


def factors_of(sums: Mapping[str, Float64Array], layers: Sequence[Layer], count: float) -> tuple[KroneckerFactors, ...]:
    """Return the Kronecker factors of every layer from sums over `count` rows; none where the sums hold none."""
    if f"inputs/{layers[0].name}" not in sums:
        return ()
    return tuple(
        KroneckerFactors(inputs=sums[f"inputs/{x.name}"] / count, outputs=sums[f"outputs/{x.name}"] / count)
        for x in layers
    )


def _stem(kind: Kind, shard: int) -> str:
    return f"{kind}-{shard:05d}"


def _plain(spec: StoreSpec) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    return plain
