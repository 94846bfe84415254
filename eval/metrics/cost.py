"""What answers cost: time, tokens, and money at a given price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What resources cost, in one currency; 0 where they are free."""

    cpu_hour: float = 0.0
    gpu_hour: float = 0.0
    million_prompt_tokens: float = 0.0
    million_completion_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one answer took; None where it was not measured, which is not 0."""

    latency_ms: float | None = None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, p50, p95 and p99; None for no values."""
    if not values:
        return {"mean": None, "p50": None, "p95": None, "p99": None}
    p50, p95, p99 = (float(q) for q in np.percentile(values, [50, 95, 99]))
    return {"mean": float(np.mean(values)), "p50": p50, "p95": p95, "p99": p99}


def cost(spent: Sequence[Spent], prices: Prices | None = None) -> dict[str, object]:
    """Return totals, per-thousand rates, latency percentiles, and money per thousand inputs.

    A total is None where no answer has the figure. Money is None without prices, and where a resource with a price was
    measured for none of the answers: an unmeasured GPU is not a free one.
    """
    totals = {name: _total([getattr(one, name) for one in spent]) for name in _RESOURCES}
    thousand = 1000 / len(spent) if spent else None
    rates = {
        f"{name}_per_1000": None if value is None or thousand is None else value * thousand
        for name, value in totals.items()
    }
    money = None if prices is None or thousand is None else _money(totals, prices)
    return {
        "inputs": len(spent),
        **totals,
        **rates,
        "latency_ms": percentiles([one.latency_ms for one in spent if one.latency_ms is not None]),
        "money_per_1000": None if money is None or thousand is None else money * thousand,
    }


_RESOURCES = ("cpu_seconds", "gpu_seconds", "prompt_tokens", "completion_tokens")


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known)) if known else None


def _money(totals: dict[str, float | None], prices: Prices) -> float | None:
    units = {
        "cpu_seconds": prices.cpu_hour / 3600,
        "gpu_seconds": prices.gpu_hour / 3600,
        "prompt_tokens": prices.million_prompt_tokens / 1e6,
        "completion_tokens": prices.million_completion_tokens / 1e6,
    }
    charged = [(price, totals[name]) for name, price in units.items() if price > 0]
    if any(total is None for _, total in charged):
        return None
    return sum(price * (total or 0.0) for price, total in charged)
