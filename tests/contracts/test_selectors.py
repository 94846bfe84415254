"""Every selector keeps the same promises; parts are discovered, none is listed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from data_filter.interfaces import Selector
from data_filter.samples import blobs
from data_filter.types import FeatureView, ScoreMatrix
from data_filter.warmup import WarmUpConfig, describe, warm_up
from guard import plugins
from guard.errors import UsageError

NAMES = plugins.names("selector")


@cache
def _world() -> tuple[ScoreMatrix, FeatureView, FeatureView]:
    data = blobs(rows=200, queries=24, classes=5, flips=0.05, loss="sigmoid")
    head = warm_up(data.train, WarmUpConfig(curvature_rows=64, folds=0))
    pool, queries = describe(head, data.train), describe(head, data.queries, training=False)
    return plugins.load("scorer", "grad_cos").score(pool, queries), pool, queries


def _selector(name: str) -> Selector:
    return plugins.module("selector", name).tiny()


@pytest.mark.parametrize("budget", [1, 5, 37, 200])
@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_met_exactly_with_different_rows(name: str, budget: int) -> None:
    scores, pool, queries = _world()
    settings = {"floor": 0} if name == "quota" else {}
    selector = plugins.load("selector", name, **settings)
    found = selector.select(scores, budget, pool=pool, queries=queries, seed=3)
    assert isinstance(selector, Selector)
    assert len(found.indices) == budget == len(set(found.indices.tolist()))
    assert found.indices.dtype == np.int64
    assert found.selector == name == selector.name
    assert all(found.reasons)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_input_gives_the_same_selection(name: str) -> None:
    scores, pool, queries = _world()
    first, second = (_selector(name).select(scores, 30, pool=pool, queries=queries, seed=5) for _ in range(2))
    assert first.indices.tolist() == second.indices.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_only_allowed_rows_are_kept(name: str) -> None:
    scores, pool, queries = _world()
    allowed = np.arange(200) % 3 == 0
    found = _selector(name).select(scores, 40, pool=pool, queries=queries, allowed=allowed, seed=1)
    assert allowed[found.indices].all()
    with pytest.raises(UsageError, match=r"\[1, 67\].*got 68"):
        _selector(name).select(scores, 68, pool=pool, queries=queries, allowed=allowed)


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_other_rows_are_refused(name: str) -> None:
    scores, pool, queries = _world()
    with pytest.raises(UsageError, match="other rows"):
        _selector(name).select(replace(scores, ids=scores.ids[::-1]), 3, pool=pool, queries=queries)


@pytest.mark.parametrize("name", NAMES)
def test_all_rows_are_kept_when_the_budget_is_everything(name: str) -> None:
    scores, pool, queries = _world()
    found = _selector(name).select(scores, 200, pool=pool, queries=queries)
    assert sorted(found.indices.tolist()) == list(range(200))


@pytest.mark.parametrize(
    ("name", "settings"), [("facility_location", {}), ("quota", {}), ("random", {"balanced": True})]
)
def test_every_beginning_of_a_balanced_selection_is_balanced(name: str, settings: dict[str, object]) -> None:
    scores, pool, queries = _world()
    found = plugins.load("selector", name, **settings).select(scores, 50, pool=pool, queries=queries)
    strata = np.array(pool.strata())
    whole = {s: np.sum(strata[found.indices] == s) for s in set(strata)}
    for half in (10, 25, 40):
        for name_, count in whole.items():
            assert abs(np.sum(strata[found.indices[:half]] == name_) - count * half / 50) <= 1


@pytest.mark.parametrize("scorer", plugins.names("scorer"))
def test_any_scorer_pairs_with_any_selector(scorer: str) -> None:
    if scorer == "kronfluence":
        pytest.importorskip("kronfluence", reason="optional: pip install kronfluence")
    data = blobs(rows=60, queries=8, classes=3, flips=0.1)
    head = warm_up(data.train, WarmUpConfig(adam=True, folds=2, curvature_rows=32))
    pool, queries = describe(head, data.train), describe(head, data.queries, training=False)
    scores = plugins.module("scorer", scorer).tiny().score(pool, queries)
    for name in NAMES:
        assert len(_selector(name).select(scores, 9, pool=pool, queries=queries).indices) == 9
