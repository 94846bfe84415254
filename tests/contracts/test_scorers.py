"""Every scorer keeps the same promises; parts are discovered, none is listed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from data_filter import guards
from data_filter.interfaces import Scorer
from data_filter.samples import blobs
from data_filter.types import FeatureView
from data_filter.warmup import WarmUp, WarmUpConfig, describe, warm_up
from guard import plugins
from guard.errors import GuardError, UsageError

NAMES = plugins.names("scorer")


@cache
def _world(loss: str) -> tuple[WarmUp, FeatureView, FeatureView]:
    data = blobs(rows=400, queries=40, classes=10, width=24, spread=1.2, flips=0.03, loss=loss)  # type: ignore[arg-type]
    head = warm_up(data.train, WarmUpConfig(adam=True))
    return head, describe(head, data.train), describe(head, data.queries, training=False)


def _scorer(name: str) -> Scorer:
    if name == "kronfluence":
        pytest.importorskip("kronfluence", reason="optional: pip install kronfluence")
    return plugins.module("scorer", name).tiny()


def _claims(promise: str) -> list[str]:
    """Return the scorers that claim `promise`, whether or not what they need is installed."""
    return [name for name in NAMES if getattr(plugins.module("scorer", name).tiny(), promise)]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_have_the_promised_shape_and_are_repeatable(name: str, loss: str) -> None:
    _, train, queries = _world(loss)
    scorer = _scorer(name)
    first, second = scorer.score(train, queries), _scorer(name).score(train, queries)
    assert isinstance(scorer, Scorer)
    assert scorer.name == name == first.scorer
    assert first.ids == train.ids
    expected = tuple(dict.fromkeys(queries.columns())) if scorer.uses_queries else ("self",)
    assert first.columns == expected
    assert first.values.tobytes() == second.values.tobytes()
    assert first.signed == scorer.signed
    assert np.all(first.values.std(axis=0) > 0), "a scorer that says the same of every row says nothing"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("surrogate", "random")])
def test_scores_follow_their_rows(name: str) -> None:
    _, train, queries = _world("softmax")
    order = np.random.default_rng(1).permutation(len(train))
    straight, turned = (_scorer(name).score(v, queries).values for v in (train, train.take(order)))
    scale = straight.std()
    # these train a model themselves, which sees the rows in another order
    least = {"boostin": 0.95, "kronfluence": 0.85}.get(name)
    if least is not None:
        assert np.corrcoef(turned.ravel(), straight[order].ravel())[0, 1] > least
    else:
        np.testing.assert_allclose(turned / scale, straight[order] / scale, atol=5e-3)


@pytest.mark.parametrize("name", _claims("uses_queries"))
def test_queries_of_one_group_are_averaged_whatever_their_order(name: str) -> None:
    _, train, queries = _world("softmax")
    turned = queries.take(np.arange(len(queries))[::-1])
    first, second = (_scorer(name).score(train, q) for q in (queries, turned))
    order = [second.columns.index(c) for c in first.columns]
    np.testing.assert_allclose(second.values[:, order], first.values, atol=1e-3 * float(first.values.std()))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "random"])
def test_missing_features_are_a_clear_error(name: str) -> None:
    _, train, queries = _world("softmax")
    bare = {"embeddings": None, "gradients": None, "adam": None, "aux": {}}
    with pytest.raises(UsageError, match=r"needs .*FeatureView"):
        _scorer(name).score(replace(train, **bare), replace(queries, **bare))


@pytest.mark.parametrize("name", _claims("uses_queries"))
def test_missing_queries_are_a_clear_error(name: str) -> None:
    _, train, _ = _world("softmax")
    with pytest.raises(UsageError, match="queries"):
        _scorer(name).score(train)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", _claims("signed"))
def test_planted_copies_are_ranked_by_their_known_effect(name: str, loss: str) -> None:
    """Clean duplicates of queries > ordinary rows > wrongly labelled copies.

    With independent categories a wrong copy is still right about all the others, so there only the pair must be in
    order.
    """
    head, train, queries = _world(loss)
    check = guards.sign_check(_scorer(name), train, queries, lambda view: describe(head, view))
    assert check.passed
    if loss == "softmax":
        assert min(check.helpful, check.harmful) >= guards.SIGN_AUC


def test_the_planted_test_fails_a_scorer_with_the_sign_turned() -> None:
    head, train, queries = _world("softmax")

    class Turned:
        name, signed, uses_queries = "turned", True, True

        def score(self, rows: FeatureView, asked: FeatureView | None = None):
            found = _scorer("grad_cos").score(rows, asked)
            return replace(found, values=-found.values)

    check = guards.sign_check(Turned(), train, queries, lambda view: describe(head, view))
    assert not check.passed
    with pytest.raises(UsageError, match="failed its sign check"):
        guards.require_sign(check)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="damping"):
        plugins.load("scorer", "datainf", damping=0.0)
    with pytest.raises(GuardError, match="takes the settings"):
        plugins.load("scorer", "fisher", damp=1.0)
