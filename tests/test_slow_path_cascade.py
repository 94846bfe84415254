"""The arithmetic of benchmarks/cascade.py, on answers whose outcome is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from slow_path import rendered_examples


@pytest.fixture(scope="module")
def cascade() -> Any:
    file = Path(__file__).resolve().parents[1] / "benchmarks" / "cascade.py"
    spec = importlib.util.spec_from_file_location("benchmark_cascade", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["benchmark_cascade"] = module
    spec.loader.exec_module(module)
    return module


def test_a_cascade_takes_the_slow_answer_only_where_the_fast_one_is_not_sure(cascade: Any) -> None:
    items = [rendered_examples.item(seed) for seed in range(8)]

    def answers(right: bool, sure: float) -> list[dict[str, Any]]:
        return [
            {rule: cascade.Answer(violated=(rule in item.violated) == right, sure=sure) for rule in item.rules}
            for item in items
        ]

    # The fast path is right and sure about the first half, wrong and unsure about the second.
    fast = [*answers(True, 0.97)[:4], *answers(False, 0.65)[4:]]
    slow = answers(True, 0.9)
    rows = {row["system"]: row for row in cascade.table(items, fast, slow, (0.001, 0.1))}
    assert rows["slow only"]["rule_accuracy"] == 1.0
    assert 0 < rows["fast only"]["rule_accuracy"] < 1
    best = rows["cascade at 0.9"]
    assert (best["rule_accuracy"], best["escalated_share"], best["missed_violations"]) == (1.0, 0.5, 0.0)
    assert best["cpu_ms_per_clip"] == pytest.approx(1 + 50)
    assert best["times_cheaper_than_slow_only"] == pytest.approx(100 / 51, abs=0.01)
    assert rows["cascade at 0.6"]["rule_accuracy"] == rows["fast only"]["rule_accuracy"]
    assert rows["cascade at 0.98"]["escalated_share"] == 1.0


def test_no_answer_counts_as_wrong(cascade: Any) -> None:
    items = [rendered_examples.item(seed) for seed in range(4)]
    none = [{rule: cascade.Answer(violated=None, sure=0.0) for rule in item.rules} for item in items]
    assert cascade.row("none", items, none, 0, 0.001, 0.1)["rule_accuracy"] == 0.0


def test_the_interval_is_that_of_wilson(cascade: Any) -> None:
    low, high = cascade.interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.49, 0.943)
