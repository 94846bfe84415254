"""Vectorised retraining, linear datamodelling score, mixture weights, warm-up head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_filter import ensemble, lds, mixture
from data_filter.ensemble import HeadSpec
from data_filter.mixture import MixtureConfig
from data_filter.projection import WHOLE
from data_filter.samples import blobs
from data_filter.scorers import fisher
from data_filter.store import GradientStore
from data_filter.types import FeatureView
from data_filter.warmup import WarmUpConfig, describe, folds_of, warm_up
from guard import plugins
from guard.errors import ResumeMismatch, UsageError


def test_models_trained_side_by_side_are_what_each_would_be_alone() -> None:
    data = blobs(rows=80)
    x, y = data.train.embeddings, data.train.targets
    spec = HeadSpec(hidden=(8,), steps=30, batch=16)
    subsets = [np.arange(0, 40), np.arange(20, 80)]
    together = ensemble.train(x, y, subsets, spec, "softmax")[-1]
    for m, subset in enumerate(subsets):
        alone = ensemble.train(x, y, [subset], replace(spec, seed=m), "softmax")[-1]
        for a, b in zip(together.parameters, alone.parameters, strict=True):
            torch.testing.assert_close(a[m], b[0], atol=1e-5, rtol=1e-4)


def test_one_step_equals_torch_written_plainly() -> None:
    data = blobs(rows=16, loss="sigmoid")
    x, y = data.train.embeddings, data.train.targets
    spec = HeadSpec(hidden=(5,), steps=1, batch=16, weight_decay=0.0)
    before = ensemble.train(x, y, [np.arange(16)], replace(spec, learning_rate=1e-12), "sigmoid")[-1].module()
    after = ensemble.train(x, y, [np.arange(16)], spec, "sigmoid")[-1].module()
    optimizer = torch.optim.Adam(before.parameters(), lr=spec.learning_rate)
    logits = before(torch.from_numpy(x))
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y), reduction="none").sum(
        1
    ).mean().backward()
    optimizer.step()
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_out_of_fold_probabilities_come_from_models_that_did_not_see_the_row() -> None:
    data = blobs(rows=200, flips=0.2, spread=0.8)
    folds = folds_of(data.train, 5, 0)
    held = ensemble.out_of_fold(data.train.embeddings, data.train.targets, folds, HeadSpec(steps=150), "softmax")
    np.testing.assert_allclose(held.sum(axis=1), 1, atol=1e-5)
    # a flipped label is believed little out of fold; a model that had seen it would have learnt it
    believed = (held * data.train.targets).sum(axis=1)
    assert believed[data.flipped].mean() < 0.2 < 0.6 < np.delete(believed, data.flipped).mean()


def test_groups_are_never_split_over_folds() -> None:
    data = blobs(rows=60)
    view = replace(data.train, groups=tuple(f"g{i % 13}" for i in range(60)))
    folds = folds_of(view, 4, 0)
    for group in set(view.groups):
        assert len({f for f, g in zip(folds, view.groups, strict=True) if g == group}) == 1
    assert set(folds) == {0, 1, 2, 3}


def _small() -> tuple[FeatureView, FeatureView, lds.Truth]:
    data = blobs(rows=120, queries=20, classes=3, width=8, spread=2.5, flips=0.1)
    spec = HeadSpec(hidden=(), steps=80, batch=60, learning_rate=0.05, weight_decay=1e-2)
    truth = lds.retrain(data.train, data.queries, spec, subsets=60, repeats=4, seed=3)
    head = warm_up(data.train, WarmUpConfig(head=replace(spec, steps=160, checkpoints=2), projection=WHOLE, folds=0))
    return describe(head, data.train), describe(head, data.queries, training=False), truth


def test_influence_predicts_retraining_and_random_does_not() -> None:
    train, queries, truth = _small()
    own = lds.per_query(queries)
    found = {
        name: lds.lds(plugins.load("scorer", name).score(train, own).values.astype(float), truth)
        for name in ("grad_dot", "fisher", "ekfac", "datainf", "trak")
    }
    noise = lds.lds(np.random.default_rng(0).normal(size=(120, 20)), truth)
    assert abs(noise) < 0.1
    assert found["fisher"] > 0.5
    assert min(found["ekfac"], found["trak"]) > 0.35
    assert min(found.values()) > 0.2
    assert truth.ceiling() > found["fisher"]


def test_a_perfect_scorer_reaches_its_ceiling() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 8))
    masks = rng.random((100, 50)) < 0.5
    effect = -(masks @ values)
    noisy = effect[:, None] + 3.0 * rng.normal(size=(100, 6, 8))
    truth = lds.Truth(masks=masks, losses=noisy)
    assert lds.lds(values, truth) == pytest.approx(truth.ceiling(), abs=0.03)
    assert lds.lds(-values, truth) < -0.8


def test_damping_is_tuned_on_its_own_queries() -> None:
    train, queries, truth = _small()
    half = np.arange(10)
    part = replace(truth, losses=truth.losses[:, :, half])
    best, table = lds.tune(
        lambda d: fisher.build(fisher.Config(damping=d)), (1e-4, 0.1, 1e3), train, queries.take(half), part
    )
    assert table[best] == max(table.values())
    assert table[1e3] < table[best] - 0.02  # so much damping leaves a plain inner product


def test_spearman_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 50), rng.integers(0, 9, 50)
    assert lds.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert lds.spearman(np.ones(5), np.arange(5)) == 0.0


def test_mixture_weights_leave_a_mislabelled_source() -> None:
    good, bad = blobs(rows=150, queries=60, seed=1), blobs(rows=150, flips=1.0, seed=1)
    train = replace(
        good.train,
        ids=tuple(f"{i}" for i in range(300)),
        targets=np.concatenate([good.train.targets, bad.train.targets]),
        embeddings=np.concatenate([good.train.embeddings, bad.train.embeddings]),
        groups=("good",) * 150 + ("bad",) * 150,
    )
    found = mixture.source_weights(train, good.queries, MixtureConfig(steps=150))
    assert sum(found.weights.values()) == pytest.approx(1.0)
    assert next(iter(found.weights)) == "good"
    assert found.weights["good"] > 0.9
    same = mixture.source_weights(replace(good.train, groups=("a", "b") * 75), good.queries, MixtureConfig(steps=150))
    assert abs(same.weights["a"] - 0.5) < 0.2
    with pytest.raises(UsageError, match="two sources"):
        mixture.source_weights(good.train, good.queries)


def test_gradients_on_disk_equal_those_in_memory(tmp_path: Path) -> None:
    data = blobs(rows=90, queries=10)
    head = warm_up(data.train, WarmUpConfig(adam=True, shard_rows=32, curvature_rows=40, folds=0, batch=16))
    memory, disk = describe(head, data.train), describe(head, data.train, folder=tmp_path)
    for kind in ("gradients", "adam"):
        for a, b in zip(getattr(memory, kind).checkpoints, getattr(disk, kind).checkpoints, strict=True):
            scale = np.linalg.norm(a.rows, axis=1, keepdims=True)
            assert np.all(np.abs(a.rows - b.rows[np.arange(90)]) <= 1e-3 * scale)
    for a, b in zip(memory.gradients.last.factors, disk.gradients.last.factors, strict=True):
        np.testing.assert_allclose(a.inputs, b.inputs, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(a.outputs, b.outputs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(memory.aux["loss"], disk.aux["loss"], rtol=1e-5)
    assert GradientStore.open(tmp_path / "sgd").verify() == []
    other = replace(data.train, targets=np.roll(data.train.targets, 1, axis=1))
    with pytest.raises(ResumeMismatch, match="loss"):
        describe(head, other, folder=tmp_path)


def test_scores_from_disk_follow_those_from_memory(tmp_path: Path) -> None:
    data = blobs(rows=200, queries=20, spread=1.5, flips=0.05)
    head = warm_up(data.train, WarmUpConfig(folds=0, shard_rows=64))
    queries = describe(head, data.queries, training=False)
    memory, disk = describe(head, data.train), describe(head, data.train, folder=tmp_path)
    for name in ("grad_dot", "grad_cos", "tracin", "fisher"):
        a, b = (plugins.load("scorer", name).score(v, queries).values.ravel() for v in (memory, disk))
        assert lds.spearman(a, b) > 0.99


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_curvature_rows_make_the_fisher_matrix(loss: str) -> None:
    """Against many labels drawn from the model, one gradient each."""
    data = blobs(rows=6, classes=3, width=4, loss=loss, spread=3.0)  # type: ignore[arg-type]
    head = warm_up(data.train, WarmUpConfig(head=HeadSpec(hidden=(), steps=5), projection=WHOLE, folds=0))
    checkpoint = describe(head, data.train).gradients.last
    rows = checkpoint.curvature[np.arange(checkpoint.curvature.shape[0])].astype(np.float64)
    x = torch.from_numpy(head.inputs(data.train))
    model = head.snapshots[-1].module()
    padded = torch.cat([x, torch.ones(6, 1)], dim=1).double().numpy()
    logits = model(x).detach().double().numpy()
    rng, total, draws = np.random.default_rng(0), np.zeros((rows.shape[1],) * 2), 4000
    for _ in range(draws):
        if loss == "softmax":
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            y = np.eye(3)[[rng.choice(3, p=row) for row in p]]
        else:
            p = 1 / (1 + np.exp(-logits))
            y = rng.random(p.shape) < p
        g = np.einsum("bo,bi->boi", p - y, padded).reshape(6, -1)
        total += g.T @ g
    exact, sampled = rows.T @ rows, total / draws
    assert np.linalg.norm(exact - sampled) < 0.06 * np.linalg.norm(exact)
