import math

import numpy as np
import pytest

from fast_path import metrics


def arrays(truth, score):
    return np.asarray(truth, bool), np.asarray(score, float)


def test_perfect_and_inverted_rankings():
    truth, score = arrays([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4])
    assert metrics.auroc(truth, score) == 1.0
    assert metrics.auroc(truth, -score) == 0.0
    assert metrics.average_precision(truth, score) == 1.0
    assert metrics.recall_at_fpr(truth, score) == 1.0


def test_ties_count_half_and_enter_together():
    truth, score = arrays([0, 1, 0, 1], [0.5] * 4)
    assert metrics.auroc(truth, score) == 0.5
    assert metrics.average_precision(truth, score) == 0.5  # the prevalence, whatever the order of the rows
    assert metrics.recall_at_fpr(truth, score) == 0.0


def test_agrees_with_a_reference_implementation():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    truth, score = rng.random(200) < 0.3, np.round(rng.random(200), 1)
    assert metrics.auroc(truth, score) == pytest.approx(sklearn.roc_auc_score(truth, score))
    assert metrics.average_precision(truth, score) == pytest.approx(sklearn.average_precision_score(truth, score))


def test_recall_respects_the_false_positive_limit():
    negatives = np.linspace(0, 1, 100)
    truth, score = np.r_[np.zeros(100, bool), True, True], np.r_[negatives, 0.97, 0.5]
    assert metrics.recall_at_fpr(truth, score, 0.05) == 0.5
    assert metrics.recall_at_fpr(truth, score, 1.0) == 1.0


def test_a_missing_class_is_nan_not_a_number():
    truth, score = arrays([0, 0], [0.1, 0.2])
    assert math.isnan(metrics.auroc(truth, score))
    assert math.isnan(metrics.average_precision(truth, score))
    assert metrics.estimate(metrics.auroc, truth, score, ["a", "b"]).as_dict()["value"] is None


def test_copies_of_a_clip_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    truth = np.r_[np.ones(10, bool), np.zeros(10, bool)]
    score = np.where(truth, 0.6, 0.4) + rng.normal(0, 0.3, 20)
    names = [str(i) for i in range(20)]
    once = metrics.estimate(metrics.auroc, truth, score, names)
    copied = metrics.estimate(metrics.auroc, np.tile(truth, 5), np.tile(score, 5), names * 5)
    assert copied.value == pytest.approx(once.value)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert once.low < once.value <= once.high
    assert (copied.groups, copied.positives) == (20, 50)


def test_table_names_every_category_and_is_json_ready():
    truth = np.asarray([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    result = metrics.table(["a", "b"], truth, np.random.default_rng(1).random((4, 2)), list("wxyz"), draws=20)
    as_json = metrics.table_json(result)
    assert set(as_json) == {"a", "b"}
    assert set(as_json["a"]) == set(metrics.METRICS)
    assert as_json["b"]["auroc"]["value"] is None
    assert as_json["b"]["auroc"]["positives"] == 0


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="lengths"):
        metrics.estimate(metrics.auroc, np.zeros(2, bool), np.zeros(3), ["a", "b"])
