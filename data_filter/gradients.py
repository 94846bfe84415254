"""Per-example gradients of linear layers at any batch size, by hooks.

A linear layer's gradient for one example is the product of what went in and of what the loss sends back; one
backward pass of the *summed* loss gives both for the whole batch ("ghost" gradients). Works for every `nn.Linear`
that is trained: a classifier head, or the A and B matrices of LoRA adapters in a VLM whose other weights are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_filter.projection import ProjectionSpec
from data_filter.types import KroneckerFactors, Layer
from guard.errors import UsageError
from guard.types import Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Adam's running moments of one layer, bias column last, and its settings."""

    mean: Tensor
    """[d_out, d_in]."""
    square: Tensor
    """[d_out, d_in]."""
    step: int
    """Steps taken so far."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the step that Adam would take next on each gradient [B, d_out, d_in], without the learning rate.

        Adam as published: moments corrected for their start at zero, epsilon outside the root.
        """
        b1, b2 = self.betas
        mean = (b1 * self.mean + (1 - b1) * gradient) / (1 - b1 ** (self.step + 1))
        square = (b2 * self.square + (1 - b2) * gradient**2) / (1 - b2 ** (self.step + 1))
        return mean / (square.sqrt() + self.eps)


def adam_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Moments]:
    """Return the Adam moments of every linear layer by name.

    By name and not by position: the position of a parameter in a saved optimizer changes with what else is trained.
    """
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found: dict[str, Moments] = {}
    for name, layer in trained_linears(model).items():
        parameters = [p for p in (layer.weight, layer.bias) if p is not None]
        states = [optimizer.state.get(p, {}) for p in parameters]
        if any("exp_avg" not in state for state in states):
            raise UsageError(f"The optimizer holds no Adam moments for layer {name!r}; train with Adam or AdamW first.")
        group = settings[id(layer.weight)]
        found[name] = Moments(
            mean=torch.cat([_column(state["exp_avg"]) for state in states], dim=1).clone(),
            square=torch.cat([_column(state["exp_avg_sq"]) for state in states], dim=1).clone(),
            step=int(states[0]["step"]),
            betas=tuple(group["betas"]),
            eps=group["eps"],
        )
    return found


def _column(moment: Tensor) -> Tensor:
    return moment if moment.ndim == 2 else moment[:, None]


def trained_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the `nn.Linear` modules whose weight is trained, by name, in definition order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad}


@dataclass(slots=True)
class _Tracked:
    name: str
    module: nn.Linear
    p_out: Tensor | None
    p_in: Tensor | None
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    a_sum: Tensor | None = None
    s_sum: Tensor | None = None


class PerExampleGradients:
    """Turns per-example losses into rows of projected gradients.

    One object per model and set of weights; not safe for use by several threads.
    """

    def __init__(
        self,
        model: nn.Module,
        projection: ProjectionSpec,
        *,
        layers: Sequence[str] | None = None,
        moments: Mapping[str, Moments] | None = None,
    ) -> None:
        linears = trained_linears(model)
        chosen = list(linears) if layers is None else list(layers)
        unknown = [name for name in chosen if name not in linears]
        if unknown or not chosen:
            raise UsageError(
                f"No trained linear layer is called {unknown or '(none given)'}; there are: {list(linears)}."
            )
        self._model = model
        self._moments = moments
        self._tracked = [self._track(name, linears[name], projection) for name in chosen]
        self._factor_rows = 0
        widths = [
            (t.name, t.module.out_features, t.module.in_features + int(t.module.bias is not None))
            for t in self._tracked
        ]
        self.layers: tuple[Layer, ...] = projection.plan(widths)

    @staticmethod
    def _track(name: str, module: nn.Linear, projection: ProjectionSpec) -> _Tracked:
        d_in = module.in_features + int(module.bias is not None)
        sides = (projection.matrix(name, "out", module.out_features), projection.matrix(name, "in", d_in))
        p_out, p_in = (None if p is None else torch.from_numpy(p).to(module.weight.device) for p in sides)
        return _Tracked(name=name, module=module, p_out=p_out, p_in=p_in)

    @property
    def width(self) -> int:
        """K, the length of a row."""
        return self.layers[-1].stop

    def rows(self, losses: Callable[[], Tensor], *, factors: bool = False) -> tuple[Float32Array, Float32Array]:
        """Run `losses` (a forward pass that returns the loss of each example, [B]) and one backward pass.

        Returns gradients float32 [B, K] and losses float32 [B]. With `factors`, adds to the sums behind
        `kronecker_factors`; the labels should then be drawn from the model.
        """
        handles = [t.module.register_forward_hook(self._hook(t)) for t in self._tracked]
        try:
            with torch.enable_grad():
                each = losses()
                if each.ndim != 1:
                    raise UsageError(f"losses must return one number per example, [B]; got shape {tuple(each.shape)}.")
                # torch.autograd.grad leaves .grad fields and optimizer state of the model as they were
                outputs = [out for t in self._tracked for _, out in t.calls]
                backs = torch.autograd.grad(each.sum(), outputs, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        queue = list(backs)
        parts = [self._layer_rows(t, [queue.pop(0) for _ in t.calls], len(each), factors) for t in self._tracked]
        self._factor_rows += len(each) if factors else 0
        for t in self._tracked:
            t.calls.clear()
        return torch.cat(parts, dim=1).cpu().numpy(), each.detach().float().cpu().numpy()

    @staticmethod
    def _hook(tracked: _Tracked) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            tracked.calls.append((inputs[0].detach(), output))

        return keep

    def _layer_rows(self, t: _Tracked, backs: Sequence[Tensor | None], batch: int, factors: bool) -> Tensor:
        """Return float32 [B, k_out * k_in] of one layer, summed over tokens and over repeated calls."""
        p_out = t.module.out_features if t.p_out is None else len(t.p_out)
        d_in = t.module.in_features + int(t.module.bias is not None)
        k_in = d_in if t.p_in is None else len(t.p_in)
        total = torch.zeros(batch, p_out * k_in, device=t.module.weight.device)
        whole: Tensor | None = None
        for (inputs, _), back in zip(t.calls, backs, strict=True):
            if back is None:  # the loss does not depend on this call
                continue
            if inputs.shape[0] != batch:
                raise UsageError(
                    f"Layer {t.name!r} saw a first dimension of {inputs.shape[0]} for a batch of {batch}: rows of "
                    "several examples are mixed there, and their gradients cannot be told apart.",
                    hint="Leave the layer out, or run with a batch of one.",
                )
            a, d = _tokens(inputs, batch), _tokens(back, batch)
            if t.module.bias is not None:
                a = torch.cat([a, torch.ones_like(a[..., :1])], dim=-1)
            if self._moments is not None:
                part = torch.einsum("bto,bti->boi", d, a)
                whole = part if whole is None else whole + part
                continue
            a, d = _project(a, t.p_in), _project(d, t.p_out)
            total += torch.einsum("bto,bti->boi", d, a).reshape(batch, -1)
            if factors:
                flat_a, flat_d = a.reshape(-1, a.shape[-1]).double(), d.reshape(-1, d.shape[-1]).double()
                t.a_sum = flat_a.T @ flat_a + (0 if t.a_sum is None else t.a_sum)
                t.s_sum = flat_d.T @ flat_d + (0 if t.s_sum is None else t.s_sum)
        if whole is not None and self._moments is not None:
            step = self._moments[t.name].direction(whole)
            step = step if t.p_out is None else torch.einsum("ko,boi->bki", t.p_out, step)
            total = _project(step, t.p_in).reshape(batch, -1)
        return total

    def kronecker_factors(self) -> tuple[KroneckerFactors, ...]:
        """Return the mean input and output second moments of each layer, over the rows run with `factors`."""
        if self._factor_rows == 0:
            raise UsageError("No rows were run with factors=True.")
        found = []
        for t in self._tracked:
            if t.a_sum is None or t.s_sum is None:
                raise UsageError(f"Layer {t.name!r} took no part in the loss.")
            a, s = (x.cpu().numpy().astype(np.float64) / self._factor_rows for x in (t.a_sum, t.s_sum))
            found.append(KroneckerFactors(inputs=a, outputs=s))
        return tuple(found)


def _tokens(values: Tensor, batch: int) -> Tensor:
    """Return [B, T, width] float32 from [B, ..., width]."""
    return values.float().reshape(batch, -1, values.shape[-1])


def _project(values: Tensor, matrix: Tensor | None) -> Tensor:
    return values if matrix is None else values @ matrix.T
