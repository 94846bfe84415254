"""Per-example gradients by hooks, against one backward pass per example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from data_filter.gradients import PerExampleGradients, adam_moments, trained_linears
from data_filter.projection import WHOLE, ProjectionSpec, rademacher
from guard.errors import UsageError


class Sequence(nn.Module):
    """A tiny token model: one layer used twice, one on tokens, one on the pooled row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.shared = nn.Linear(7, 7, bias=False)
        self.last = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.shared(torch.tanh(self.first(x)))
        return self.last(torch.tanh(self.shared(hidden)).mean(dim=1))


def _case(seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return Sequence(), torch.randn(6, 4, 5), torch.randint(0, 3, (6,))


def _loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x), y, reduction="none")


def _oracle(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """One backward pass per example, bias as the last column of each layer."""
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        _loss(model, x[i : i + 1], y[i : i + 1]).sum().backward()
        parts = []
        for layer in trained_linears(model).values():
            grid = layer.weight.grad
            if layer.bias is not None:
                grid = torch.cat([grid, layer.bias.grad[:, None]], dim=1)
            parts.append(grid.reshape(-1).clone())
        rows.append(torch.cat(parts).numpy())
    return np.stack(rows)


def test_rows_equal_one_backward_per_example() -> None:
    model, x, y = _case()
    rows, losses = PerExampleGradients(model, WHOLE).rows(lambda: _loss(model, x, y))
    np.testing.assert_allclose(rows, _oracle(model, x, y), atol=1e-6)
    np.testing.assert_allclose(losses, _loss(model, x, y).detach().numpy(), rtol=1e-6)


def test_rows_do_not_depend_on_the_batch_and_leave_no_gradient() -> None:
    model, x, y = _case()
    gradients = PerExampleGradients(model, ProjectionSpec(k_out=2, k_in=3, seed=4))
    whole, _ = gradients.rows(lambda: _loss(model, x, y))
    single = np.concatenate([gradients.rows(lambda i=i: _loss(model, x[i : i + 1], y[i : i + 1]))[0] for i in range(6)])
    np.testing.assert_allclose(whole, single, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_projection_is_the_projection_of_the_whole_gradient() -> None:
    model, x, y = _case()
    spec = ProjectionSpec(k_out=2, k_in=3, seed=4)
    gradients = PerExampleGradients(model, spec)
    rows, _ = gradients.rows(lambda: _loss(model, x, y))
    whole, start = _oracle(model, x, y), 0
    for layer, (name, module) in zip(gradients.layers, trained_linears(model).items(), strict=True):
        d_out, d_in = module.out_features, module.in_features + int(module.bias is not None)
        grid = whole[:, start : start + d_out * d_in].reshape(-1, d_out, d_in)
        start += d_out * d_in
        left, right = spec.matrix(name, "out", d_out), spec.matrix(name, "in", d_in)
        expected = np.einsum("ko,boi,li->bkl", left, grid, right).reshape(len(x), -1)
        np.testing.assert_allclose(rows[:, layer.start : layer.stop], expected, atol=1e-5)


def test_projection_keeps_inner_products_on_average() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 30))
    estimates = []
    for seed in range(200):
        left, right = rademacher(seed, "x/out", 8, 40), rademacher(seed, "x/in", 8, 30)
        estimates.append(((left @ a @ right.T) * (left @ b @ right.T)).sum())
    exact = float((a * b).sum())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - exact) < 4 * error


def test_projection_is_a_function_of_seed_and_layer() -> None:
    assert np.array_equal(rademacher(1, "a/in", 4, 9), rademacher(1, "a/in", 4, 9))
    assert not np.array_equal(rademacher(1, "a/in", 4, 9), rademacher(2, "a/in", 4, 9))
    assert not np.array_equal(rademacher(1, "a/in", 4, 9), rademacher(1, "b/in", 4, 9))
    # pinned: another machine or release must make the same matrix
    assert (rademacher(1, "a/in", 1, 8)[0] > 0).tolist() == PINNED


PINNED = [True, False, True, True, False, True, True, False]


def test_adam_direction_is_the_step_that_adam_takes() -> None:
    model, x, y = _case()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        _loss(model, x, y).mean().backward()
        optimizer.step()
    moments = adam_moments(model, optimizer)
    rows, _ = PerExampleGradients(model, WHOLE, moments=moments).rows(lambda: _loss(model, x[:1], y[:1]))
    before = {name: m.weight.detach().clone() for name, m in trained_linears(model).items()}
    optimizer.zero_grad()
    _loss(model, x[:1], y[:1]).sum().backward()
    optimizer.step()
    start = 0
    for name, module in trained_linears(model).items():
        d_out, d_in = module.out_features, module.in_features + int(module.bias is not None)
        step = rows[0, start : start + d_out * d_in].reshape(d_out, d_in)[:, : module.in_features]
        start += d_out * d_in
        np.testing.assert_allclose((before[name] - module.weight).detach().numpy(), 0.01 * step, atol=1e-6)


def test_adam_moments_need_an_adam() -> None:
    model, _, _ = _case()
    with pytest.raises(UsageError, match="no Adam moments"):
        adam_moments(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_lora_adapters_are_found_and_equal_the_oracle() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = nn.Sequential()
    base.add_module("q_proj", nn.Linear(6, 6))
    base.add_module("out", nn.Linear(6, 3))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert [name.split(".")[-2] for name in trained_linears(model)] == ["lora_A", "lora_B"]
    x, y = torch.randn(5, 6), torch.randint(0, 3, (5,))
    rows, _ = PerExampleGradients(model, WHOLE).rows(lambda: _loss(model, x, y))
    np.testing.assert_allclose(rows, _oracle(model, x, y), atol=1e-6)


def test_rows_of_several_examples_mixed_in_a_layer_are_refused() -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(UsageError, match="cannot be told apart"):
        PerExampleGradients(layer, WHOLE).rows(lambda: layer(torch.randn(6, 4)).reshape(3, 4).sum(dim=1))


def test_unknown_layers_are_named() -> None:
    model, _, _ = _case()
    with pytest.raises(UsageError, match="first"):
        PerExampleGradients(model, WHOLE, layers=["nope"])


def test_factors_are_the_second_moments() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), torch.randn(50, 4)
    gradients = PerExampleGradients(layer, WHOLE)
    y = torch.randint(0, 3, (50,))
    gradients.rows(lambda: _loss(layer, x[:30], y[:30]), factors=True)
    gradients.rows(lambda: _loss(layer, x[30:], y[30:]), factors=True)
    (factors,) = gradients.kronecker_factors()
    padded = torch.cat([x, torch.ones(50, 1)], dim=1).double()
    back = (layer(x).softmax(dim=1) - nn.functional.one_hot(y, 3)).double().detach()
    np.testing.assert_allclose(factors.inputs, (padded.T @ padded / 50).numpy(), rtol=1e-5)
    np.testing.assert_allclose(factors.outputs, (back.T @ back / 50).numpy(), rtol=1e-4, atol=1e-6)
