"""Properties of selection, each against a slow and obvious way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_filter import coverage, guards
from data_filter.selectors import bids, k_centre, quota, round_robin, tarot, top_k
from data_filter.types import FeatureView, ScoreMatrix
from guard.errors import UsageError

SEEDS = st.integers(0, 10_000)


def _case(seed: int, rows: int = 24, columns: int = 3) -> tuple[ScoreMatrix, FeatureView]:
    rng = np.random.default_rng(seed)
    targets = np.zeros((rows, 2), dtype=np.float32)
    targets[np.arange(rows), rng.integers(0, 2, rows)] = rng.integers(0, 2, rows)
    pool = FeatureView(
        ids=tuple(map(str, range(rows))),
        targets=targets,
        categories=("a", "b"),
        embeddings=rng.normal(size=(rows, 4)).astype(np.float32),
    )
    # rounded: ties happen
    values = rng.normal(size=(rows, columns)).round(1).astype(np.float32)
    names = tuple(f"q{j}" for j in range(columns))
    return ScoreMatrix(ids=pool.ids, columns=names, values=values, scorer="x", signed=True), pool


@given(SEEDS, st.integers(1, 24))
def test_top_k_is_a_sort(seed: int, budget: int) -> None:
    scores, pool = _case(seed)
    found = top_k.tiny().select(scores, budget, pool=pool).indices.tolist()
    means = scores.mean()
    assert found == sorted(range(24), key=lambda i: (-means[i], i))[:budget]


@given(SEEDS, st.integers(1, 24), st.integers(1, 4))
def test_bids_equals_the_quadratic_rule(seed: int, budget: int, columns: int) -> None:
    scores, pool = _case(seed, columns=columns)
    z = scores.standardised().astype(np.float64)
    found = bids.tiny().select(scores, budget, pool=pool).indices.tolist()
    picked: list[int] = []
    for step in range(budget):
        mean = z[picked].mean(axis=0) if picked else np.zeros(columns)
        value = {i: (z[i] - mean).max() for i in range(24) if i not in picked}
        assert value[found[step]] == pytest.approx(max(value.values()), abs=1e-9)
        picked.append(found[step])


@given(SEEDS, st.integers(1, 12))
def test_lazy_coverage_equals_plain_greedy(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.random((9, 14)).round(2).astype(np.float32)
    bonus = rng.random(14).astype(np.float32)
    found = coverage.greedy_coverage(similarity, budget, bonus).tolist()
    covered, picked = np.zeros(9), []
    for step in range(budget):
        gain = {j: np.maximum(similarity[:, j] - covered, 0).sum() + bonus[j] for j in range(14) if j not in picked}
        assert gain[found[step]] == pytest.approx(max(gain.values()), abs=1e-4)
        picked.append(found[step])
        covered = np.maximum(covered, similarity[:, found[step]])


@given(SEEDS)
def test_lazy_coverage_is_within_its_bound_of_the_best_set(seed: int) -> None:
    similarity = np.random.default_rng(seed).random((6, 8)).astype(np.float32)
    found = coverage.greedy_coverage(similarity, 3, np.zeros(8, dtype=np.float32))
    best = max(similarity[:, list(s)].max(axis=1).sum() for s in itertools.combinations(range(8), 3))
    assert similarity[:, found].max(axis=1).sum() >= (1 - 1 / np.e) * best - 1e-5


@given(SEEDS)
def test_sampled_coverage_is_not_far_below_greedy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(300, 6)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    similarity = np.maximum(points @ points.T, 0)
    none = np.zeros(300, dtype=np.float32)
    exact = similarity[:, coverage.greedy_coverage(similarity, 10, none)].max(axis=1).sum()
    sampled = coverage.stochastic_coverage(points, points, 10, none, rng)
    assert len(set(sampled.tolist())) == 10
    assert similarity[:, sampled].max(axis=1).sum() > 0.9 * exact


@given(SEEDS, st.integers(2, 24))
def test_k_centre_takes_the_furthest(seed: int, budget: int) -> None:
    scores, pool = _case(seed)
    points = pool.embeddings / np.linalg.norm(pool.embeddings, axis=1, keepdims=True)
    found = k_centre.tiny().select(scores, budget, pool=pool).indices.tolist()
    for step in range(1, budget):
        near = {i: (points[found[:step]] @ points[i]).max() for i in range(24) if i not in found[:step]}
        assert near[found[step]] == pytest.approx(min(near.values()), abs=1e-5)


@given(SEEDS, st.integers(1, 24))
def test_round_robin_takes_turns(seed: int, budget: int) -> None:
    scores, pool = _case(seed)
    found = round_robin.tiny().select(scores, budget, pool=pool)
    for step, (row, reason) in enumerate(zip(found.indices, found.reasons, strict=True)):
        column = scores.values[:, step % 3]
        free = np.setdiff1d(np.arange(24), found.indices[:step])
        assert column[row] == column[free].max()
        assert reason.endswith(f"q{step % 3}")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_shares_fill_like_water(sizes: list[int], data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, sum(sizes)))
    given_out = coverage.shares(sizes, budget, 0, balanced=True)
    assert sum(given_out) == budget
    assert all(0 <= g <= s for g, s in zip(given_out, sizes, strict=True))
    # nobody with room left stands more than one below anybody else
    open_least = min((g for g, s in zip(given_out, sizes, strict=True) if g < s), default=10**9)
    assert max(given_out) <= open_least + 1


def test_shares_worked_example() -> None:
    assert coverage.shares([2, 10, 10], 12, 0, balanced=True) == [2, 5, 5]
    assert coverage.shares([2, 10, 20], 16, 1, balanced=False) == [1, 5, 10]
    with pytest.raises(UsageError, match="needs 9 picks; the budget is 8"):
        coverage.shares([3, 3, 3], 8, 3, balanced=True)


@given(SEEDS, st.integers(6, 24))
def test_quota_holds_its_floor(seed: int, budget: int) -> None:
    scores, pool = _case(seed)
    strata = np.array(pool.strata())
    found = quota.build(quota.Config(floor=2)).select(scores, budget, pool=pool)
    for name in set(strata):
        assert (strata[found.indices] == name).sum() >= min(2, (strata == name).sum())
    guards.require_floor(pool.strata(), found.indices, [True] * 24, 2)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_transport_approaches_the_best_assignment(seed: int) -> None:
    cost = np.random.default_rng(seed).random((5, 5))
    found, _ = tarot.transport(cost, 0.005, rounds=3000)
    best = min(np.mean([cost[i, p[i]] for i in range(5)]) for p in itertools.permutations(range(5)))
    assert best - 1e-3 <= found <= best + 0.02


def test_tarot_finds_the_ratio_that_matches_the_queries() -> None:
    """100 rows lie where the queries are and 400 elsewhere: the estimate must not reach far into the 400."""
    rng = np.random.default_rng(0)
    on, off = rng.normal(size=(100, 8)) + 4 * np.eye(8)[0], rng.normal(size=(400, 8)) - 4 * np.eye(8)[0]
    rows = np.concatenate([on, off]).astype(np.float32)
    asked = (rng.normal(size=(30, 8)) + 4 * np.eye(8)[0]).astype(np.float32)

    def view(points: np.ndarray) -> FeatureView:
        targets = np.zeros((len(points), 1), dtype=np.float32)
        return FeatureView(
            ids=tuple(map(str, range(len(points)))), targets=targets, categories=("a",), embeddings=points
        )

    pool = view(rows)
    scores = ScoreMatrix(
        ids=pool.ids, columns=("self",), values=np.zeros((500, 1), np.float32), scorer="x", signed=False
    )
    selector = tarot.build(tarot.Config(space="embeddings", estimate=True))
    found = selector.select(scores, 400, pool=pool, queries=view(asked))
    assert (found.indices < 100).mean() > 0.9
    assert 0.02 < found.facts["ratio"] < 0.3


@given(st.integers(1, 6), st.integers(1, 5))
def test_effective_diversity_counts_directions(directions: int, copies: int) -> None:
    rows = np.repeat(np.eye(8, dtype=np.float32)[:directions], copies, axis=0)
    assert guards.effective_diversity(rows) == pytest.approx(directions)


def test_a_missing_group_fails_the_floor() -> None:
    strata = ("a",) * 5 + ("b",) * 5
    with pytest.raises(UsageError, match=r"floor of 2.*'b': 1"):
        guards.require_floor(strata, np.array([0, 1, 5]), [True] * 10, 2)
    # a stratum with a single admissible row cannot give two
    allowed = [True] * 6 + [False] * 4
    assert guards.require_floor(strata, np.array([0, 1, 5]), allowed, 2) == {"a": 2, "b": 1}


@given(SEEDS)
def test_principal_directions_are_the_same_from_either_side(seed: int) -> None:
    wide = np.random.default_rng(seed).normal(size=(6, 9))
    values, vectors, mean = tarot._principal(wide, 4)
    expected = np.linalg.eigvalsh(wide.T @ wide / 6)
    np.testing.assert_allclose(values, expected[-4:], rtol=1e-8)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(wide.T @ wide / 6 @ vectors, vectors * values, atol=1e-8)
    assert mean == pytest.approx(expected.mean())
