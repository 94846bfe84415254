"""The optional scorer: it agrees with our own EK-FAC, and says how to install what it needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_filter import lds
from data_filter.ensemble import HeadSpec
from data_filter.projection import WHOLE
from data_filter.samples import blobs
from data_filter.scorers import kronfluence
from data_filter.types import LossKind
from data_filter.warmup import WarmUpConfig, describe, warm_up
from guard import plugins
from guard.errors import MissingExtra

CONFIG = WarmUpConfig(head=HeadSpec(hidden=(12,), steps=150), projection=WHOLE, folds=0, curvature_rows=4000)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_it_agrees_with_our_own_ekfac_of_the_same_head(loss: LossKind) -> None:
    """It draws a label per row where we weigh all of them, so the two agree as far as a draw allows."""
    pytest.importorskip("kronfluence", reason="optional: pip install kronfluence")
    data = blobs(rows=400, queries=30, classes=4, flips=0.05, spread=3.0, loss=loss)
    head = warm_up(data.train, CONFIG)
    train, queries = describe(head, data.train), lds.per_query(describe(head, data.queries, training=False))
    own = plugins.load("scorer", "ekfac", damping=0.1).score(train, queries).values
    theirs = plugins.load("scorer", "kronfluence", warm_up=CONFIG).score(train, queries).values
    agreement = [lds.spearman(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(own.T, theirs.T, strict=True)]
    assert np.mean(agreement) > 0.9


def test_labels_are_drawn_from_the_model() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[2.0, 0.0, -1.0]]).expand(20_000, 3)
    softmax = kronfluence._drawn(logits, "softmax").mean(dim=0)
    np.testing.assert_allclose(softmax, logits[0].softmax(dim=0), atol=0.015)
    sigmoid = kronfluence._drawn(logits, "sigmoid").mean(dim=0)
    np.testing.assert_allclose(sigmoid, logits[0].sigmoid(), atol=0.015)


def test_a_missing_library_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs(rows=30, queries=5)
    monkeypatch.setattr(kronfluence, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match="'kronfluence', which is not installed") as caught:
        plugins.load("scorer", "kronfluence").score(data.train, data.queries)
    assert (caught.value.hint or "").endswith("pip install kronfluence")
    with pytest.raises(ValueError, match="damping"):
        plugins.load("scorer", "kronfluence", damping=-1.0)
    assert replace(kronfluence.Config(), damping=1e-3).damping == 1e-3
