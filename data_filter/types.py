"""The values that scorers and selectors hand to each other. Numpy only.

Sign, everywhere in this package: a positive score means that *keeping the example lowers the query loss*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guard.errors import UsageError
from guard.types import Float32Array, require

Float64Array: TypeAlias = NDArray[np.float64]
Int64Array: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
LossKind: TypeAlias = Literal["softmax", "sigmoid"]
"""`softmax`: exactly one class per row. `sigmoid`: any set of categories per row, none of them meaning benign."""

BENIGN = "benign"
"""Stratum of a row without any category."""


class Rows(Protocol):
    """N rows of K numbers, in memory or in shards on disk. Indexing gives float32 and copies only what was asked."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        ...

    def __getitem__(self, key: slice | Int64Array) -> Float32Array:
        """Return the rows of a slice or of an index array, float32 [rows, K]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Where one linear layer's gradient lies in a row: `row[start:stop].reshape(d_out, d_in)`."""

    name: str
    d_out: int
    """Output width after projection."""
    d_in: int
    """Input width after projection, with 1 for the bias where the layer has one."""
    start: int

    @property
    def stop(self) -> int:
        """First column behind the layer."""
        return self.start + self.d_out * self.d_in


@dataclass(frozen=True, slots=True, kw_only=True)
class KroneckerFactors:
    """Second moments of one layer, for EK-FAC: A = E[a a^T] of inputs, S = E[d d^T] of output gradients."""

    inputs: Float64Array
    """float64 [d_in, d_in]."""
    outputs: Float64Array
    """float64 [d_out, d_out]; the gradients of labels drawn from the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Per-example gradients of the loss at one set of weights."""

    name: str
    rows: Rows
    """[N, K] gradients, projected or whole, layers side by side."""
    weight: float = 1.0
    """Learning rate while these weights were in use; scorers normalise the weights to sum to one."""
    curvature: Rows | None = None
    """[M, K] gradients for labels drawn from the model itself: their second moment is the true Fisher matrix."""
    factors: tuple[KroneckerFactors, ...] = ()
    """One per layer, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientView:
    """Gradients of the same N examples at one or more checkpoints, earliest first."""

    layers: tuple[Layer, ...]
    checkpoints: tuple[Checkpoint, ...]

    def __post_init__(self) -> None:
        require(len(self.checkpoints) > 0, "checkpoints", "at least one", 0)
        width = sum(layer.d_out * layer.d_in for layer in self.layers)
        shapes = {checkpoint.rows.shape for checkpoint in self.checkpoints}
        require(len(shapes) == 1 and shapes.pop()[1] == width, "rows", f"[N, {width}] at every checkpoint", shapes)

    @property
    def last(self) -> Checkpoint:
        """The last checkpoint: the weights that will be used."""
        return self.checkpoints[-1]

    def weights(self) -> Float64Array:
        """Return the checkpoints' weights, summing to one."""
        raw = np.array([checkpoint.weight for checkpoint in self.checkpoints], dtype=np.float64)
        shares: Float64Array = raw / raw.sum()
        return shares

    def take(self, indices: Int64Array) -> GradientView:
        """Return the view of some rows, read into memory."""
        chosen = tuple(replace(checkpoint, rows=checkpoint.rows[indices]) for checkpoint in self.checkpoints)
        return replace(self, checkpoints=chosen)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FeatureView:
    """N examples as scorers and selectors see them. What a part needs and does not find is a `UsageError`."""

    ids: tuple[str, ...]
    targets: Float32Array
    """float32 [N, C] of 0 and 1: which categories the label names."""
    categories: tuple[str, ...]
    loss: LossKind = "sigmoid"
    groups: tuple[str, ...] = ()
    """Source group of each row (same camera, same original), or, of a query, the column that it counts for."""
    embeddings: Float32Array | None = None
    """float32 [N, D] of a frozen encoder."""
    gradients: GradientView | None = None
    adam: GradientView | None = None
    """The same gradients as the steps that Adam would take (LESS); of training rows only."""
    aux: Mapping[str, NDArray[Any]] = field(default_factory=lambda: MappingProxyType({}))
    """Per-row facts, rows first: `loss` [N, T] over checkpoints, `margin` [N, T], `norm` [N, T], `probability` [N,
    C] out of fold, `input_gradient_variance` [N]."""

    def __post_init__(self) -> None:
        total, width = len(self.ids), len(self.categories)
        require(self.targets.shape == (total, width), "targets", f"of shape {(total, width)}", self.targets.shape)
        require(len(set(self.ids)) == total, "ids", "unique", f"{total - len(set(self.ids))} repeated")
        require(len(self.groups) in (0, total), "groups", f"empty or {total} long", len(self.groups))
        if self.loss == "softmax":
            require(bool(np.all(self.targets.sum(axis=1) == 1)), "targets", "one-hot for softmax", "other rows")
        for name, rows in {"embeddings": self.embeddings, **self.aux}.items():
            require(rows is None or len(rows) == total, name, f"{total} rows", None if rows is None else rows.shape)
        for name, view in (("gradients", self.gradients), ("adam", self.adam)):
            require(view is None or view.last.rows.shape[0] == total, name, f"{total} rows", view)

    def __repr__(self) -> str:
        have = [name for name in ("embeddings", "gradients", "adam") if getattr(self, name) is not None]
        return f"FeatureView({len(self.ids)} rows, {len(self.categories)} categories, {', '.join([*have, *self.aux])})"

    def __len__(self) -> int:
        return len(self.ids)

    def strata(self) -> tuple[str, ...]:
        """Return the label set of each row as one name, such as `violence.fighting` or `benign`."""
        kinds, which = np.unique(self.targets, axis=0, return_inverse=True)
        names = [self.stratum(kind) for kind in kinds]
        return tuple(names[i] for i in which.ravel())

    def stratum(self, row: Float32Array) -> str:
        """Return the name of one label set, float32 [C]."""
        return "+".join(c for c, on in zip(self.categories, row, strict=True) if on) or BENIGN

    def columns(self) -> tuple[str, ...]:
        """Return the column that each row counts for as a query: its group, else its stratum."""
        return self.groups or self.strata()

    def take(self, indices: Sequence[int] | Int64Array) -> FeatureView:
        """Return the view of some rows, in the order given."""
        at = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in at),
            targets=self.targets[at],
            groups=tuple(self.groups[i] for i in at) if self.groups else (),
            embeddings=None if self.embeddings is None else self.embeddings[at],
            gradients=None if self.gradients is None else self.gradients.take(at),
            adam=None if self.adam is None else self.adam.take(at),
            aux={name: rows[at] for name, rows in self.aux.items()},
        )

    def need_embeddings(self, who: str) -> Float32Array:
        """Return the embeddings, or raise `UsageError` in the name of `who`."""
        if self.embeddings is None:
            raise UsageError(f"{who} needs embeddings; the rows have {self!r}.", hint="Pass --embeddings FILE.")
        return self.embeddings

    def need_gradients(self, who: str, *, adam: bool = False) -> GradientView:
        """Return the gradients (or their Adam view), or raise `UsageError` in the name of `who`."""
        found = self.adam if adam else self.gradients
        if found is None:
            kind = "the Adam view of the gradients" if adam else "gradients"
            raise UsageError(f"{who} needs {kind}; the rows have {self!r}.", hint="Collect them with a GradientStore.")
        return found

    def need_aux(self, name: str, who: str) -> Float32Array:
        """Return one of the per-row facts as float32, or raise `UsageError` in the name of `who`."""
        if name not in self.aux:
            raise UsageError(f"{who} needs the per-row {name!r}; the rows have {self!r}.", hint="Run the warm-up head.")
        return np.asarray(self.aux[name], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ScoreMatrix:
    """Scores of N examples for J query groups; positive = keeping the example lowers that group's loss."""

    ids: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float32Array
    """float32 [N, J], finite."""
    scorer: str
    signed: bool
    """Whether the sign means something. Where it does not, only the order within a column counts."""

    def __post_init__(self) -> None:
        wanted = (len(self.ids), len(self.columns))
        require(self.values.shape == wanted, "values", f"of shape {wanted}", self.values.shape)
        require(self.values.dtype == np.float32, "values", "float32", self.values.dtype)
        bad = int((~np.isfinite(self.values)).sum())
        require(bad == 0, f"values of {self.scorer}", "finite", f"{bad} that are not")

    def __repr__(self) -> str:
        return f"ScoreMatrix({self.scorer}: {len(self.ids)} rows x {', '.join(self.columns[:8])})"

    def mean(self) -> Float32Array:
        """Return the mean over the query groups, float32 [N]."""
        means: Float32Array = self.values.mean(axis=1, dtype=np.float64).astype(np.float32)
        return means

    def standardised(self) -> Float32Array:
        """Return the columns with mean 0 and deviation 1 (BIDS: magnitudes of two groups are not comparable)."""
        values = self.values.astype(np.float64)
        spread = values.std(axis=0)
        scaled: Float32Array = ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).astype(np.float32)
        return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a selector keeps, best first. Nothing is deleted: a selection is a list of row numbers with reasons."""

    indices: Int64Array
    """int64 [B], unique, in the order picked."""
    reasons: tuple[str, ...]
    """Why each was picked, in the same order."""
    selector: str
    facts: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """What the selector found out on the way, such as TAROT's estimated ratio."""

    def __post_init__(self) -> None:
        require(len(self.reasons) == len(self.indices), "reasons", f"{len(self.indices)} long", len(self.reasons))
        require(len(np.unique(self.indices)) == len(self.indices), "indices", "unique", "repeated rows")


def selection(indices: Sequence[int] | Int64Array, reason: str | Callable[[int], str], selector: str) -> Selection:
    """Build a `Selection` with one reason for all, or one made from each row number."""
    at = np.asarray(indices, dtype=np.int64)
    reasons = tuple(reason if isinstance(reason, str) else reason(int(i)) for i in at)
    return Selection(indices=at, reasons=reasons, selector=selector)
