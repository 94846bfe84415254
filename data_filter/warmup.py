"""The warm-up head: a small classifier on frozen embeddings whose gradients stand for those of the fast path's head.

`warm_up` trains it once and keeps several checkpoints; `describe` adds to any rows (training rows or queries) what
scorers ask for: per-example gradients at each checkpoint, the same as Adam steps, losses, margins, out-of-fold
probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_filter import ensemble
from data_filter.ensemble import HeadSpec, Snapshot
from data_filter.gradients import Moments, PerExampleGradients
from data_filter.projection import ProjectionSpec
from data_filter.shards import Shard
from data_filter.store import GradientStore, StoreSpec, Task, hash_ids
from data_filter.types import Checkpoint, FeatureView, GradientView, Int64Array, KroneckerFactors, LossKind
from guard.errors import UsageError
from guard.types import Float32Array

MIN_STEPS = 100
"""Of the optimizer, however few rows there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpConfig:
    """How to warm up and what to keep of the gradients."""

    head: HeadSpec = field(default_factory=lambda: HeadSpec(epochs=8.0, checkpoints=5))
    projection: ProjectionSpec = field(default_factory=ProjectionSpec)
    share: float = 1.0
    """Share of the rows to train on; a filter for 200,000 rows learns enough from 0.2."""
    folds: int = 5
    """For out-of-fold probabilities; 0 leaves them out."""
    curvature_rows: int = 4096
    """At most this many rows get labels drawn from the model, for the Fisher matrix."""
    adam: bool = False
    """Also collect the Adam view, which only `less` reads."""
    batch: int = 512
    """Rows per backward pass; changes nothing but speed."""
    shard_rows: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WarmUp:
    """A trained head at its checkpoints, with the scaling of its inputs."""

    config: WarmUpConfig
    snapshots: tuple[Snapshot, ...]
    mean: Float32Array
    """float32 [D] taken off embeddings."""
    scale: Float32Array
    """float32 [D] that they are divided by."""
    loss: LossKind
    trained_on: Int64Array

    def inputs(self, view: FeatureView) -> Float32Array:
        """Return the scaled embeddings of a view, float32 [N, D]."""
        scaled = (view.need_embeddings("the warm-up head") - self.mean) / self.scale
        return np.ascontiguousarray(scaled, dtype=np.float32)

    def fingerprint(self, checkpoint: int) -> str:
        """Return the SHA-256 of the weights and input scaling at a checkpoint."""
        digest = hashlib.sha256(self.mean.tobytes() + self.scale.tobytes())
        for parameter in self.snapshots[checkpoint].parameters:
            digest.update(parameter.numpy().tobytes())
        return digest.hexdigest()


def warm_up(train: FeatureView, config: WarmUpConfig) -> WarmUp:
    """Train the head on the rows' embeddings and labels."""
    embeddings = train.need_embeddings("the warm-up head")
    if not 0 < config.share <= 1:
        raise UsageError(f"share must be in (0, 1]; got {config.share}.")
    count = max(2, round(config.share * len(train)))
    chosen = np.sort(np.random.default_rng(config.head.seed).permutation(len(train))[:count]).astype(np.int64)
    spread = embeddings[chosen].std(axis=0)
    found = WarmUp(
        config=config,
        snapshots=(),
        mean=embeddings[chosen].mean(axis=0),
        scale=np.where(spread > 1e-6, spread, 1.0).astype(np.float32),
        loss=train.loss,
        trained_on=chosen,
    )
    head = config.head
    if head.steps is None:
        # a few hundred rows make few batches: 240 rows x 8 epochs / 64 = 30 steps would leave the head untrained
        head = replace(head, steps=max(MIN_STEPS, round(head.epochs * count / head.batch)))
    snapshots = ensemble.train(found.inputs(train), train.targets, [chosen], head, train.loss)
    return replace(found, snapshots=tuple(snapshots))


def describe(head: WarmUp, view: FeatureView, *, folder: Path | None = None, training: bool = True) -> FeatureView:
    """Return the view with gradients and per-row facts added.

    With `folder`, gradients go to a store there (resumable, memory-mapped); otherwise they stay in memory.
    `training` rows also get gradients of drawn labels, the Adam view if asked for, and out-of-fold probabilities.
    """
    gradients, facts = collect(head, view, None if folder is None else folder / "sgd", training=training)
    adam = None
    if training and head.config.adam:
        adam, _ = collect(head, view, None if folder is None else folder / "adam", training=False, adam=True)
    aux: dict[str, Float32Array] = {**view.aux, **facts}
    if training and head.config.folds and "probability" not in aux:
        folds = folds_of(view, head.config.folds, head.config.head.seed)
        aux["probability"] = ensemble.out_of_fold(head.inputs(view), view.targets, folds, head.config.head, view.loss)
    aux["input_gradient_variance"] = _input_gradient_variance(head, view)
    return replace(view, gradients=gradients, adam=adam, aux=aux)


def folds_of(view: FeatureView, folds: int, seed: int) -> Int64Array:
    """Return a fold number per row; a group is never split over folds."""
    names = np.array(view.groups or view.ids)
    unique, which = np.unique(names, return_inverse=True)
    numbers = np.random.default_rng(seed).permutation(len(unique)) % min(folds, len(unique))
    return numbers[which].astype(np.int64)


def collect(
    head: WarmUp, view: FeatureView, folder: Path | None, *, training: bool, adam: bool = False
) -> tuple[GradientView, Mapping[str, Float32Array]]:
    """Compute gradients of every row at every checkpoint; returns the view and `loss`, `margin`, `norm` [N, T]."""
    worker = _Collector(head, view, adam=adam)
    config = head.config
    content = hashlib.sha256(view.targets.tobytes() + head.inputs(view).tobytes()).hexdigest()
    spec = StoreSpec(
        ids_sha256=hash_ids(view.ids),
        total=len(view),
        layers=worker.layers,
        checkpoints=tuple(head.fingerprint(i) for i in range(len(head.snapshots))),
        weights=tuple(s.learning_rate for s in head.snapshots),
        loss=f"{view.loss} on {content}",
        view="adam" if adam else "sgd",
        projection_seed=config.projection.seed,
        curvature_total=min(config.curvature_rows, len(view)) if training else 0,
        shard_rows=config.shard_rows,
    )
    if folder is None:
        return _in_memory(worker, spec)
    store = GradientStore(folder, spec)
    store.fill(worker.compute)
    return store.view(), {name: store.aux(name) for name in ("loss", "margin", "norm")}


def _in_memory(worker: _Collector, spec: StoreSpec) -> tuple[GradientView, Mapping[str, Float32Array]]:
    checkpoints: list[Checkpoint] = []
    facts: dict[str, list[Float32Array]] = {"loss": [], "margin": [], "norm": []}
    for i, name in enumerate(spec.checkpoints):
        shard = worker.compute(Task(kind="rows", checkpoint=i, shard=0, start=0, stop=spec.total))
        curvature: Float32Array | None = None
        factors: tuple[KroneckerFactors, ...] = ()
        if spec.curvature_total:
            task = Task(kind="curvature", checkpoint=i, shard=0, start=0, stop=spec.curvature_total)
            curvature = worker.compute(task).rows
            factors = worker.factors(i)
        checkpoints.append(
            Checkpoint(name=name, rows=shard.rows, weight=spec.weights[i], curvature=curvature, factors=factors)
        )
        facts["loss"].append(shard.aux["loss"])
        facts["margin"].append(shard.aux["margin"])
        facts["norm"].append(np.linalg.norm(shard.rows, axis=1))
    stacked = {key: np.stack(value, axis=1).astype(np.float32) for key, value in facts.items()}
    return GradientView(layers=spec.layers, checkpoints=tuple(checkpoints)), stacked


class _Collector:
    """Computes shards of gradients of a warm-up head."""

    def __init__(self, head: WarmUp, view: FeatureView, *, adam: bool) -> None:
        self._head, self._view = head, view
        self._inputs = torch.from_numpy(head.inputs(view))
        self._targets = torch.from_numpy(view.targets)
        self._models = [s.module() for s in head.snapshots]
        moments = [_moments(s) if adam else None for s in head.snapshots]
        pairs = zip(self._models, moments, strict=True)
        self._gradients = [PerExampleGradients(m, head.config.projection, moments=v) for m, v in pairs]
        self.layers = self._gradients[0].layers

    def compute(self, task: Task) -> Shard:
        """Compute one shard; a shard depends on its task alone, so that a resumed run gives the same bytes."""
        at = np.arange(task.start, task.stop)
        if task.kind == "curvature":
            at = _spread(len(self._view), min(self._head.config.curvature_rows, len(self._view)))[
                task.start : task.stop
            ]
        sums = {}
        if task.kind == "curvature":
            self._gradients[task.checkpoint] = PerExampleGradients(
                self._models[task.checkpoint], self._head.config.projection
            )
        rows, losses, margins = [], [], []
        for start in range(0, len(at), self._head.config.batch):
            mine = torch.from_numpy(at[start : start + self._head.config.batch])
            part, loss, margin = self._batch(task, mine)
            rows.append(part)
            losses.append(loss)
            margins.append(margin)
        if task.kind == "curvature":
            for layer, factors in zip(self.layers, self.factors(task.checkpoint), strict=True):
                sums[f"inputs/{layer.name}"] = factors.inputs * len(at)
                sums[f"outputs/{layer.name}"] = factors.outputs * len(at)
        return Shard(
            ids=tuple(self._view.ids[i] for i in at),
            rows=np.concatenate(rows),
            aux={"loss": np.concatenate(losses), "margin": np.concatenate(margins)},
            sums=sums,
        )

    def factors(self, checkpoint: int) -> tuple[KroneckerFactors, ...]:
        """Return the Kronecker factors of the curvature rows computed last."""
        return self._gradients[checkpoint].kronecker_factors()

    def _batch(self, task: Task, at: Tensor) -> tuple[Float32Array, Float32Array, Float32Array]:
        model, x = self._models[task.checkpoint], self._inputs[at]
        kind = self._view.loss
        with torch.no_grad():
            logits = model(x)
        drawn = task.kind == "curvature"
        # seeded by the first row: the draw is the same whichever worker makes it
        y = _draw(logits, kind, seed=task.checkpoint * 1_000_003 + int(at[0])) if drawn else self._targets[at]
        rows, losses = self._gradients[task.checkpoint].rows(
            lambda: ensemble.row_losses(model(x), y, kind), factors=drawn
        )
        return rows, losses, _margin(logits, y, kind).numpy()


def _spread(total: int, count: int) -> Int64Array:
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def _draw(logits: Tensor, loss: LossKind, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if loss == "sigmoid":
        return torch.bernoulli(logits.sigmoid(), generator=generator)
    picked = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
    return torch.zeros_like(logits).scatter_(1, picked, 1.0)


def _margin(logits: Tensor, y: Tensor, loss: LossKind) -> Tensor:
    """Return how far the label is ahead of the strongest alternative, in logits, [B]; negative where the model
    disagrees."""
    if loss == "sigmoid":
        return ((2 * y - 1) * logits).amin(dim=-1)
    other = logits.masked_fill(y > 0, -torch.inf).amax(dim=-1)
    return (logits * y).sum(dim=-1) - other


def _moments(snapshot: Snapshot) -> dict[str, Moments]:
    found = {}
    for i in range(0, len(snapshot.parameters), 2):
        mean = torch.cat([snapshot.mean[i][0], snapshot.mean[i + 1][0][:, None]], dim=1)
        square = torch.cat([snapshot.square[i][0], snapshot.square[i + 1][0][:, None]], dim=1)
        found[str(i)] = Moments(mean=mean, square=square, step=snapshot.step)
    return found


def _input_gradient_variance(head: WarmUp, view: FeatureView) -> Float32Array:
    """Return the mean over input dimensions of the deviation over checkpoints of d logit_label / d input, float32
    [N]."""
    inputs, targets = torch.from_numpy(head.inputs(view)), torch.from_numpy(view.targets)
    found = []
    for start in range(0, len(view), 4096):
        y = targets[start : start + 4096]
        sign = y if view.loss == "softmax" else 2 * y - 1
        grads = [_input_gradient(s.module(), inputs[start : start + 4096], sign) for s in head.snapshots]
        found.append(torch.stack(grads).std(dim=0, unbiased=False).mean(dim=1))
    return torch.cat(found).numpy()


def _input_gradient(model: nn.Module, x: Tensor, sign: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad((model(x) * sign).sum(), x)[0]
