"""Mixture weights for data sources by bilevel optimisation, after ScaleBiO (arXiv 2406.19976).

Which sources should the training data be drawn from, and how much of each? min over w of the validation loss of a
model that minimises the w-weighted training loss. The inner problem is replaced by a penalty: two heads u and v, u
pulled by validation and training, v by training alone, and w moves by how much worse u fits each source than v does.
First order only, no second derivatives. Weights belong to sources, not to single rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data_filter import ensemble
from data_filter.lds import inputs_of
from data_filter.types import FeatureView, Float64Array
from guard.errors import UsageError
from guard.types import require


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureConfig:
    """Settings."""

    steps: int = 400
    learning_rate: float = 0.02
    """Of the two heads."""
    weight_rate: float = 0.1
    """Of the logits of the weights."""
    penalty: float = 10.0
    """How strictly u must also fit the training mixture."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.steps > 0 and self.penalty > 0, "steps and penalty", "positive", (self.steps, self.penalty))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Share of each source, summing to one, highest first, and its path."""

    weights: dict[str, float]
    history: Float64Array
    """float64 [steps, sources], columns in the order of sorted source names."""


def source_weights(train: FeatureView, validation: FeatureView, config: MixtureConfig | None = None) -> Mixture:
    """Return how to mix the sources (`groups` of the training rows) for the validation rows. Linear heads on
    embeddings."""
    settings = config or MixtureConfig()
    names = sorted(set(train.groups))
    if len(names) < 2:
        raise UsageError(f"Mixture weights need at least two sources in `groups`; got {names or 'none'}.")
    mean, scale = inputs_of(train)

    def tensors(view: FeatureView) -> tuple[Tensor, Tensor]:
        scaled = ((view.need_embeddings("mixture") - mean) / scale).astype(np.float32)
        return torch.from_numpy(scaled), torch.from_numpy(view.targets)

    x, y = tensors(train)
    qx, qy = tensors(validation)
    members = [torch.from_numpy(np.flatnonzero(np.array(train.groups) == name)) for name in names]
    torch_seed = torch.Generator().manual_seed(settings.seed)
    u, v = (_linear(x.shape[1], y.shape[1], torch_seed) for _ in range(2))
    v.load_state_dict(u.state_dict())
    logits = torch.zeros(len(names))
    optimizer = torch.optim.Adam([*u.parameters(), *v.parameters()], lr=settings.learning_rate)
    history = np.empty((settings.steps, len(names)))
    for step in range(settings.steps):
        weights = logits.softmax(dim=0)
        per_u = torch.stack([ensemble.row_losses(u(x[m]), y[m], train.loss).mean() for m in members])
        per_v = torch.stack([ensemble.row_losses(v(x[m]), y[m], train.loss).mean() for m in members])
        held = ensemble.row_losses(u(qx), qy, train.loss).mean()
        value = held + settings.penalty * ((weights * per_u).sum() + (weights * per_v).sum())
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            # d/dw of penalty x (L(w, u) - L(w, v)): a source that u has to give up for validation loses weight
            slope = settings.penalty * (per_u - per_v)
            logits -= settings.weight_rate * weights * (slope - (weights * slope).sum()) * len(names)
        history[step] = logits.softmax(dim=0).numpy()
    # the last fifth: the weights circle around their optimum
    final = history[-max(1, settings.steps // 5) :].mean(axis=0)
    order = np.argsort(-final)
    return Mixture(weights={names[i]: float(final[i]) for i in order}, history=history)


def _linear(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, classes)
    with torch.no_grad():
        layer.weight.copy_(0.01 * torch.randn(classes, width, generator=generator))
        layer.bias.zero_()
    return layer
