"""Numbers that sum up motion maps: how fast, how uneven, how aimless, how warm. Nothing is learned, no gradient passes.

They are what a statistician would ask of optical flow, and a probe on them errs on other clips than a network does.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

COUNT = 32
"""Statistics per view."""


def statistics(pairs: Tensor, burst: Tensor) -> Tensor:
    """Return float32 [N, 32] for `pairs` float32 [N, P, 5, h, w] and `burst` float32 [N, 7, h, w] (see `motion`).

    Without a second pair (P = 1) the numbers on change over time are 0.
    """
    flow = pairs[:, :, :2]
    speed = flow.square().sum(2).sqrt()
    change = (flow[:, 1:] - flow[:, :-1]).square().sum(2).sqrt()
    if not change.shape[1]:
        change = torch.zeros_like(speed)
    tails = [
        _quantiles(speed, 0.5, 0.75, 0.9, 0.95, 0.99),
        *(_quantiles(pairs[:, :, channel], 0.5, 0.9, 0.99) for channel in (2, 3, 4)),
        _quantiles(change, 0.75, 0.9, 0.99),
        _shape(pairs, speed, change),
        _quantiles(burst[:, 4], 0.75, 0.95),
        _quantiles(burst[:, 5], 0.75, 0.95, 1.0),
        _quantiles(burst[:, 6], 0.75, 0.95),
    ]
    return torch.log1p(torch.cat(tails, 1).clamp(-0.9, 50))


def _shape(pairs: Tensor, speed: Tensor, change: Tensor) -> Tensor:
    """Ratios that do not depend on how fast or how near: spread, turn, unexplained change, aimlessness, steadiness."""
    flow = pairs[:, :, :2]
    total = _sum(speed) + 1.0
    right, down = flow[..., 1:] - flow[..., :-1], flow[..., 1:, :] - flow[..., :-1, :]
    spread = right[:, :, 0, :-1] + down[:, :, 1, :, :-1]
    turn = right[:, :, 1, :-1] - down[:, :, 0, :, :-1]
    alike = _sum((flow[:, 1:] * flow[:, :-1]).sum(2)) / (_sum(speed[:, 1:] * speed[:, :-1]) + 1)
    place = speed.mean(1).flatten(1)
    crowding = place.sum(1) ** 2 / (place.square().sum(1) + 0.1) / place.shape[1]
    each = speed.flatten(2).mean(2)
    unsteady = each.std(1, correction=0) / (each.mean(1) + 0.05)
    ratios = [
        _sum(spread.abs()) / total,
        _sum(turn.abs()) / total,
        _sum(change) / total,
        _sum(pairs[:, :, 4]) / total.clamp(10),
        alike,
        _aimlessness(flow, speed),
        crowding,
        unsteady,
    ]
    return torch.stack(ratios, 1)


def _aimlessness(flow: Tensor, speed: Tensor) -> Tensor:
    """Entropy of the directions of motion, float32 [N]."""
    angle = torch.atan2(flow[:, :, 1], flow[:, :, 0])
    towards = [_sum(speed * torch.relu(torch.cos(angle - k * math.pi / 4)) ** 2) for k in range(8)]
    share = torch.stack(towards, 1)
    share = share / (share.sum(1, keepdim=True) + 0.1)
    return -(share * torch.log(share + 1e-5)).sum(1)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def _quantiles(values: Tensor, *points: float) -> Tensor:
    """Return float32 [N, len(points)]: order statistics over everything but the first axis."""
    ordered = torch.from_numpy(np.sort(values.detach().flatten(1).numpy(), 1))  # five times as fast as torch's sort
    last = ordered.shape[1] - 1
    return ordered[:, [round(point * last) for point in points]]
