"""The optimisation loop: encoder network and temporal head together, deterministic under a seed, resumable by epoch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fast_path.bank import Example, Progress
from fast_path.dataset import WINDOW_SECONDS
from fast_path.head import TemporalHead
from fast_path.interfaces import TrainableEncoder
from guard.errors import InvalidConfig, ResumeMismatch

APART_SECONDS = 100.0
BINARY = nn.functional.binary_cross_entropy_with_logits


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How the weights are found."""

    epochs: int = 24
    videos_per_step: int = 40
    stills_per_step: int = 8
    bursts_per_video: tuple[int, ...] = (1, 2, 4, 6, 8)
    """How many bursts of a window a step shows, drawn per step: the product samples long videos more sparsely."""
    whole_share: float = 0.5
    """Share of the clips that are shown as single bursts from anywhere; the others show one window of two seconds."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    smoothing: float = 0.04
    """Labels are per clip, and some are wrong: 0 and 1 become 0.02 and 0.98."""
    burst_weight: float = 0.3
    """Weight of the loss on single bursts, which take the label of their clip."""
    splice_weight: float = 0.3
    """Weight of the loss on sequences joined from three clips: one event among other footage."""
    mixup_share: float = 0.5
    """Share of the steps whose clips are blended in pairs."""
    mixup: float = 0.3
    """Both parameters of the beta distribution of the blend."""
    average_from: float = 0.5
    """Share of the epochs after which weights are averaged and validated."""
    average_decay: float = 0.98
    patience: int = 12
    """Validated epochs without a better validation loss before it stops."""
    seed: int = 0


@dataclass(slots=True)
class _State:
    epoch: int
    best_loss: float
    best_epoch: int
    average: dict[str, Tensor]
    best: dict[str, Tensor]


def fit(
    encoder: TrainableEncoder,
    head: TemporalHead,
    train: Sequence[Example],
    train_targets: NDArray[np.float32],
    val: Sequence[Example],
    val_targets: NDArray[np.float32],
    settings: FitSettings,
    *,
    state_path: Path,
    progress: Progress | None = None,
) -> int:
    """Train `encoder.network` and `head` in place; return the epoch whose averaged weights they hold at the end.

    `train_targets` and `val_targets` are float32 [N, C]. After each epoch the whole state is written to `state_path`; a
    killed run that is started again goes on there and ends with the same weights.

    Raises:
        ResumeMismatch: `state_path` belongs to other data or settings.
    """
    both = nn.ModuleDict({"encoder": encoder.network, "head": head})
    groups = list(both.parameters())
    optimizer = torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay)
    sampler = _Sampler(train, train_targets, settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * sampler.steps, pct_start=0.15
    )
    signature = _signature(encoder, head, (*train, *val), settings)
    state = _State(epoch=0, best_loss=float("inf"), best_epoch=-1, average={}, best={})
    if state_path.exists():
        state = _resume(state_path, signature, both, optimizer, schedule)
    while state.epoch < settings.epochs and state.epoch - max(state.best_epoch, 0) <= _allowed(settings, state):
        # numbers depend on seed and epoch alone, so that a resumed run draws what an unbroken one would have drawn
        torch.manual_seed(settings.seed * 10_007 + state.epoch)
        rng = np.random.default_rng([settings.seed, state.epoch])
        both.train()
        for _ in range(sampler.steps):
            _step(encoder, head, groups, optimizer, schedule, sampler.batch(encoder, rng), settings, rng)
            if state.epoch >= int(settings.average_from * settings.epochs):
                _average(state.average, both, settings.average_decay)
        if state.average:
            _validate(both, encoder, head, val, val_targets, state)
        state.epoch += 1
        _store(state_path, signature, both, optimizer, schedule, state)
        if progress is not None:
            progress("train", state.epoch, settings.epochs)
    both.load_state_dict(state.best or both.state_dict())
    both.eval()
    return state.best_epoch


@torch.inference_mode()
def predict(encoder: TrainableEncoder, head: TemporalHead, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Return probabilities float32 [N, C] of the clean pass over each example."""
    encoder.network.eval()
    head.eval()
    rows = [
        head.score(encoder.network(torch.from_numpy(example.features[0]).float()).numpy(), example.seconds[0])[0]
        for example in examples
    ]
    return np.stack(rows)


@dataclass(slots=True)
class _Batch:
    features: Tensor
    seconds: Tensor
    targets: Tensor


class _Sampler:
    """Draws batches: rare kinds of clips more often than their share, stills beside videos."""

    def __init__(self, examples: Sequence[Example], targets: NDArray[np.float32], settings: FitSettings) -> None:
        self.examples, self.targets, self.settings = examples, targets, settings
        still = np.asarray([example.row.still for example in examples])
        self.videos, self.stills = np.flatnonzero(~still), np.flatnonzero(still)
        if not len(self.videos):
            self.videos, self.stills = self.stills, self.videos
        kinds = [
            (str(e.row.extra.get("raw_label", "")), *e.row.labels) for e in (examples[int(i)] for i in self.videos)
        ]
        share = {kind: kinds.count(kind) ** -0.5 for kind in set(kinds)}
        weight = np.asarray([share[kind] for kind in kinds])
        self.weight = weight / weight.sum()
        self.steps = max(1, len(self.videos) // settings.videos_per_step)

    def batch(self, encoder: TrainableEncoder, rng: np.random.Generator) -> _Batch:
        """Draw one batch: features [B * K, ...], seconds [B, K], targets [B, C]."""
        drawn = [
            rng.choice(self.videos, min(len(self.videos), self.settings.videos_per_step), replace=False, p=self.weight),
            rng.choice(self.stills, min(len(self.stills), self.settings.stills_per_step), replace=False),
        ]
        chosen = np.concatenate(drawn)
        features, seconds = [], []
        count = int(rng.choice(self.settings.bursts_per_video))
        for index in chosen:
            example = self.examples[int(index)]
            way = int(rng.integers(len(example.features)))
            if rng.random() < self.settings.whole_share:
                picked, times = _anywhere(example.seconds[way], count, rng)
            else:
                picked, times = _window(example.seconds[way], count, rng)
            features.append(example.features[way][picked])
            seconds.append(times)
        prepared = torch.from_numpy(np.concatenate(features)).float()
        return _Batch(
            features=encoder.augment(prepared, rng),
            seconds=torch.from_numpy(np.stack(seconds)).float(),
            targets=torch.from_numpy(self.targets[chosen]),
        )


def _window(
    seconds: NDArray[np.float64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return indices and times of `count` bursts inside one random window of two seconds."""
    first = seconds[rng.integers(len(seconds))] - rng.uniform(0, WINDOW_SECONDS)
    inside = np.flatnonzero((seconds >= first) & (seconds <= first + WINDOW_SECONDS))
    picked = np.sort(rng.choice(inside, count, replace=len(inside) < count))
    return picked, seconds[picked]


def _anywhere(
    seconds: NDArray[np.float64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return indices of `count` bursts of the whole clip, and times so far apart that none is another's context.

    With their own times, neighbours within a second would tell a short clip from a long one.
    """
    picked = np.sort(rng.choice(len(seconds), count, replace=len(seconds) < count))
    return picked, np.arange(count, dtype=np.float64) * APART_SECONDS


def _step(
    encoder: TrainableEncoder,
    head: TemporalHead,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batch: _Batch,
    settings: FitSettings,
    rng: np.random.Generator,
) -> None:
    size, bursts = batch.seconds.shape
    features, targets = batch.features, batch.targets
    if rng.random() < settings.mixup_share:
        features, targets = _mixed(features, targets, bursts, settings.mixup, rng)
    embeddings = encoder.network(features).reshape(size, bursts, -1)
    mask = torch.ones(size, bursts, dtype=torch.bool)
    soft = targets * (1 - settings.smoothing) + settings.smoothing / 2
    loss = torch.zeros(())
    # each probe answers for itself: trained on their mean, one would lean on the other
    for moments in head.members(embeddings, batch.seconds, mask):
        loss = loss + BINARY(head.pool(moments, mask), soft)
        loss = loss + settings.burst_weight * BINARY(moments, soft[:, None].expand_as(moments))
    if settings.splice_weight and size >= 3:
        thirds = torch.from_numpy(rng.permutation(size)[: size // 3 * 3].reshape(-1, 3))
        joined = embeddings[thirds].flatten(1, 2)
        offsets = torch.arange(3)[None, :, None] * 10 * APART_SECONDS
        times = (batch.seconds[thirds] + offsets).flatten(1, 2)
        whole = torch.ones(times.shape, dtype=torch.bool)
        for moments in head.members(joined, times, whole):
            loss = loss + settings.splice_weight * BINARY(head.pool(moments, whole), soft[thirds].amax(1))
    _check_finite(float(loss.detach()), "training")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
    nn.utils.clip_grad_norm_(parameters, 2.0)
    optimizer.step()
    schedule.step()


def _mixed(
    features: Tensor, targets: Tensor, bursts: int, shape: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each clip [B * K, ...] with another of the batch, and their targets [B, C] alike."""
    share = float(rng.beta(shape, shape))
    other = torch.from_numpy(rng.permutation(len(targets)))
    clips = features.unflatten(0, (len(targets), bursts))  # type: ignore[no-untyped-call]
    blended: Tensor = share * clips + (1 - share) * clips[other]
    return blended.flatten(0, 1), share * targets + (1 - share) * targets[other]


def _average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, value in module.state_dict().items():
        if name not in average or not value.is_floating_point():
            average[name] = value.detach().clone()
        else:
            average[name].mul_(decay).add_(value.detach(), alpha=1 - decay)


def _validate(
    both: nn.Module,
    encoder: TrainableEncoder,
    head: TemporalHead,
    val: Sequence[Example],
    targets: NDArray[np.float32],
    state: _State,
) -> None:
    current = {name: value.detach().clone() for name, value in both.state_dict().items()}
    both.load_state_dict(state.average)
    loss = 0.0
    if len(val):
        scores = np.clip(predict(encoder, head, val), 1e-4, 1 - 1e-4)
        loss = float(-np.mean(targets * np.log(scores) + (1 - targets) * np.log(1 - scores)))
    _check_finite(loss, "validation")  # it would never be the best, and the weights of no epoch would be kept
    if loss < state.best_loss or not len(val):
        state.best_loss, state.best_epoch = loss, state.epoch
        state.best = {name: value.clone() for name, value in state.average.items()}
    both.load_state_dict(current)


def _check_finite(loss: float, which: str) -> None:
    if not math.isfinite(loss):
        raise InvalidConfig(
            f"Training diverged: the {which} loss is {loss}.",
            hint="Lower the learning rate, or look for broken values in the encoder's features.",
        )


def _allowed(settings: FitSettings, state: _State) -> int:
    return settings.epochs if state.best_epoch < 0 else settings.patience


def _signature(
    encoder: TrainableEncoder, head: TemporalHead, examples: Sequence[Example], settings: FitSettings
) -> str:
    rows = [
        [e.row.sha256, e.row.split, e.row.start_seconds, e.row.end_seconds, len(e.features), *e.row.labels]
        for e in examples
    ]
    parts = [encoder.front_fingerprint, encoder.settings, asdict(head.config), asdict(settings), rows]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _store(path: Path, signature: str, both: nn.Module, optimizer: Any, schedule: Any, state: _State) -> None:
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        "signature": signature, "modules": both.state_dict(), "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(), "epoch": state.epoch, "best_loss": state.best_loss,
        "best_epoch": state.best_epoch, "average": state.average, "best": state.best,
    }  # fmt: skip
    torch.save(stored, part)
    part.replace(path)


def _resume(path: Path, signature: str, both: nn.Module, optimizer: Any, schedule: Any) -> _State:
    stored = torch.load(path, weights_only=True)
    if stored["signature"] != signature:
        raise ResumeMismatch(f"{path} belongs to a run with other data, encoder or settings.")
    both.load_state_dict(stored["modules"])
    optimizer.load_state_dict(stored["optimizer"])
    schedule.load_state_dict(stored["schedule"])
    return _State(
        epoch=stored["epoch"],
        best_loss=stored["best_loss"],
        best_epoch=stored["best_epoch"],
        average=stored["average"],
        best=stored["best"],
    )
