"""The warm-up head: a small classifier on frozen embeddings whose gradients stand for those of the fast path's head.

`warm_up` trains it once and keeps several checkpoints; `describe` adds to any rows (training rows or queries) what
scorers ask for: per-example gradients at each checkpoint, the same as Adam steps, losses, margins, out-of-fold
probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_filter import ensemble
from data_filter.ensemble import HeadSpec, Snapshot
from data_filter.gradients import Moments, PerExampleGradients
from data_filter.projection import ProjectionSpec
from data_filter.shards import Shard
from data_filter.store import GradientStore, StoreSpec, Task, factors_of, hash_ids
from data_filter.types import Checkpoint, FeatureView, GradientView, Int64Array, KroneckerFactors, LossKind
from guard.errors import InvalidManifest, UsageError
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
    curvature_rows: int = 2048
    """Rows behind the Fisher matrix: one per category of each of `curvature_rows / C` examples, spread over the set."""
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
        curvature_total=curvature_total(config, view) if training else 0,
        shard_rows=config.shard_rows,
    )
    if folder is None:
        return _in_memory(worker, spec)
    store = GradientStore(folder, spec)
    made = store.fill(worker.compute)
    # what an earlier run left may have been damaged since; hashing it costs seconds
    resumed = made < len(spec.checkpoints) * (spec.shards("rows") + spec.shards("curvature"))
    wrong = store.verify() if resumed else []
    if wrong:
        raise InvalidManifest(f"{folder} is damaged: {'; '.join(wrong[:3])}.", hint="Remove the folder and run again.")
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
            second = worker.compute(task)
            curvature = second.rows
            factors = factors_of(second.sums, spec.layers, spec.curvature_total)
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
        return self._curvature(task) if task.kind == "curvature" else self._rows(task)

    def _rows(self, task: Task) -> Shard:
        rows, losses, margins = [], [], []
        model, gradients = self._models[task.checkpoint], self._gradients[task.checkpoint]
        for start in range(task.start, task.stop, self._head.config.batch):
            at = slice(start, min(start + self._head.config.batch, task.stop))
            x, y = self._inputs[at], self._targets[at]
            part, loss = gradients.rows(partial(_label_losses, model, x, y, self._view.loss))
            with torch.no_grad():
                margins.append(_margin(model(x), y, self._view.loss).numpy())
            rows.append(part)
            losses.append(loss)
        return Shard(
            ids=self._view.ids[task.start : task.stop],
            rows=np.concatenate(rows),
            aux={"loss": np.concatenate(losses), "margin": np.concatenate(margins)},
        )

    def _curvature(self, task: Task) -> Shard:
        """Rows whose second moment is the Fisher matrix itself: every possible label, weighted, instead of one
        drawn."""
        classes = self._targets.shape[1]
        examples = _spread(len(self._view), curvature_total(self._head.config, self._view) // classes)
        number = np.arange(task.start, task.stop)
        model = self._models[task.checkpoint]
        gradients = PerExampleGradients(model, self._head.config.projection)
        rows = []
        for start in range(0, len(number), self._head.config.batch):
            mine = number[start : start + self._head.config.batch]
            x = self._inputs[torch.from_numpy(examples[mine // classes])]
            which = torch.from_numpy(mine % classes)[:, None]
            part, _ = gradients.rows(partial(_possible_losses, model, x, which, self._view.loss), factors=True)
            rows.append(part)
        sums = {}
        for layer, factors in zip(self.layers, gradients.kronecker_factors(), strict=True):
            sums[f"inputs/{layer.name}"] = factors.inputs * len(number)
            sums[f"outputs/{layer.name}"] = factors.outputs * len(number)
        ids = tuple(f"{self._view.ids[examples[n // classes]]}#{n % classes}" for n in number)
        return Shard(ids=ids, rows=np.concatenate(rows), sums=sums)


def curvature_total(config: WarmUpConfig, view: FeatureView) -> int:
    """Return M, the number of curvature rows: one for each category of as many examples as fit."""
    classes = view.targets.shape[1]
    return int(classes * min(len(view), max(1, config.curvature_rows // classes)))


def _spread(total: int, count: int) -> Int64Array:
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def _label_losses(model: nn.Module, x: Tensor, y: Tensor, loss: LossKind) -> Tensor:
    return ensemble.row_losses(model(x), y, loss)


def _possible_losses(model: nn.Module, x: Tensor, which: Tensor, loss: LossKind) -> Tensor:
    """Return what to differentiate for category `which` [B, 1] of each row, so that the second moment is the Fisher
    matrix.

    Softmax: F = sum_c p_c g_c g_c^T with g_c the gradient of -log p_c, so sqrt(p_c) x -log p_c. Sigmoid: categories are
    independent, F = sum_c p_c (1 - p_c) h_c h_c^T with h_c the gradient of logit c. The weights are constants.
    """
    logits = model(x)
    if loss == "softmax":
        log_p = logits.log_softmax(dim=-1).gather(1, which)[:, 0]
        weighted: Tensor = -log_p * (log_p.detach() / 2).exp()
        return weighted
    chosen = logits.gather(1, which)[:, 0]
    p = chosen.detach().sigmoid()
    scaled: Tensor = chosen * (p * (1 - p)).sqrt()
    return scaled


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
