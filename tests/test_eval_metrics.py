"""Every fast metric against a slow obvious one, and nulls where nothing is defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from eval.metrics import calibration, cases, cost, intervals, multiclass, multilabel, segments, selective
from eval.metrics.baselines import baselines
from eval.metrics.confusion import Confusion, confusion
from eval.metrics.ranking import Ranked, auroc, average_precision, recall_at_fpr
from eval.metrics.segments import Located, Stretch
from eval.metrics.strict import Strict

SETS = st.integers(0, 10_000).map(lambda seed: labelled(seed))


def labelled(seed: int, clips: int = 40, columns: int = 3):
    """Random truth, flags and tied scores."""
    rng = np.random.default_rng(seed)
    truth = rng.random((clips, columns)) < 0.3
    return truth, rng.random((clips, columns)) < 0.4, np.round(rng.random((clips, columns)), 1)


@given(SETS)
def test_ranking_agrees_with_scikit_learn(made):
    truth, _, score = made[0][:, 0], made[1], made[2][:, 0]
    if not truth.any() or truth.all():
        return
    assert average_precision(truth, score) == pytest.approx(reference.average_precision_score(truth, score))
    assert auroc(truth, score) == pytest.approx(reference.roc_auc_score(truth, score))
    precision, recall, _ = reference.precision_recall_curve(truth, score)
    area = Ranked(truth, score).precision_recall_trapezoid()
    assert area == pytest.approx(reference.auc(recall, precision))


@given(SETS, st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]))
def test_recall_at_fpr_is_the_best_over_all_thresholds(made, limit):
    truth, score = made[0][:, 0], made[2][:, 0]
    if not truth.any() or truth.all():
        return
    best = 0.0
    for threshold in [*np.unique(score), 2.0]:
        flags = score >= threshold
        if (flags & ~truth).sum() / (~truth).sum() <= limit:
            best = max(best, (flags & truth).sum() / truth.sum())
    assert recall_at_fpr(truth, score, limit) == pytest.approx(best)


@given(SETS, st.integers(0, 100))
def test_weights_are_repetitions(made, seed):
    """What a bootstrap draw gives is what copying the clips would give."""
    truth, flags, score = made
    weights = np.random.default_rng(seed).integers(0, 4, len(truth)).astype(float)
    copied = np.repeat(np.arange(len(truth)), weights.astype(int))
    known = np.random.default_rng(seed + 1).random(truth.shape) < 0.8
    held = flags.any(axis=1)
    whole = Strict(truth, flags, score, known=known, withheld=held)(weights)
    plain = Strict(truth[copied], flags[copied], score[copied], known=known[copied], withheld=held[copied])()
    assert whole.keys() == plain.keys()
    for name, value in plain.items():
        assert whole[name] == (None if value is None else pytest.approx(value)), name


@given(SETS)
def test_the_layout_of_counts_agrees_with_the_plain_functions(made):
    truth, flags, score = made
    known = np.random.default_rng(5).random(truth.shape) < 0.7
    full = known.all(axis=1)
    held = np.random.default_rng(6).random(len(truth)) < 0.5
    found = Strict(truth, flags, score, known=known, withheld=held, columns=("a", "b", "c"))()
    for name in ("exact_match", "jaccard", "hamming_accuracy", "sample_f1"):
        assert found[name] == pytest.approx(getattr(multilabel, name)(truth[full], flags[full])), name
    counts = multilabel.per_category(truth, flags, known)
    for name, count in zip("abc", counts, strict=True):
        assert found[f"{name}/f1"] == count.f1
        assert found[f"{name}/false_positive_rate"] == count.false_positive_rate
    assert found["micro/f1"] == multilabel.micro(counts).f1
    unsafe = truth.any(axis=1)
    assert found["binary/leakage"] == confusion(unsafe, flags.any(axis=1)).leakage
    assert found["withheld/false_refusal"] == confusion(unsafe, held).false_positive_rate
    rows = known[:, 1]
    assert found["b/auroc"] == auroc(truth[rows, 1], score[rows, 1])
    assert found["b/recall_at_fpr_0.05"] == recall_at_fpr(truth[rows, 1], score[rows, 1], 0.05)


@given(SETS)
def test_multilabel_agrees_with_scikit_learn(made):
    truth, flags, _ = made
    assert multilabel.exact_match(truth, flags) == pytest.approx(reference.accuracy_score(truth, flags))
    assert multilabel.hamming_accuracy(truth, flags) == pytest.approx(1 - reference.hamming_loss(truth, flags))
    assert multilabel.jaccard(truth, flags) == pytest.approx(
        reference.jaccard_score(truth, flags, average="samples", zero_division=1)
    )
    assert multilabel.sample_f1(truth, flags) == pytest.approx(
        reference.f1_score(truth, flags, average="samples", zero_division=1)
    )
    counts = multilabel.per_category(truth, flags, np.ones_like(truth))
    assert multilabel.micro(counts).f1 == pytest.approx(reference.f1_score(truth, flags, average="micro"))
    weighted = multilabel.weighted([c.f1 for c in counts], [c.tp + c.fn for c in counts])
    assert weighted == pytest.approx(reference.f1_score(truth, flags, average="weighted", zero_division=0))


def test_undefined_is_none_and_never_a_number():
    no, yes = np.zeros(3, bool), np.ones(3, bool)
    score = np.array([0.1, 0.5, 0.9])
    assert average_precision(no, score) is None
    assert auroc(no, score) is None
    assert auroc(yes, score) is None
    assert recall_at_fpr(yes, score, 0.05) is None
    empty = confusion(no, no)
    assert (empty.precision, empty.recall, empty.f1, empty.leakage) == (None, None, None, None)
    assert (empty.accuracy, empty.false_positive_rate) == (1.0, 0.0)
    assert multilabel.exact_match(np.zeros((0, 2), bool), np.zeros((0, 2), bool)) is None
    assert multiclass.multiclass([], [], ["a"]) is None
    assert calibration.calibration(np.zeros(0, bool), np.zeros(0))["ece"] is None
    assert selective.selective(np.zeros(0), np.zeros(0, bool)) is None
    assert segments.segment_ap([Located([], [Stretch(0, 1)], 5)], 0.5) is None
    assert segments.mean_iou([Located([], [], 5)]) is None
    assert segments.mean_iou([Located([Stretch(2, 2)], [], 5)]) is None  # a stretch without length


def test_recall_without_a_hit_is_zero_and_not_none():
    assert confusion(np.ones(2, bool), np.zeros(2, bool)).f1 == 0.0


def test_all_negative_trapezoid_is_that_of_scikit_learn():
    with pytest.warns(UserWarning, match="No positive class"):
        precision, recall, _ = reference.precision_recall_curve([0, 0], [0.2, 0.7])
    theirs = reference.auc(recall, precision)
    assert Ranked(np.zeros(2, bool), np.array([0.2, 0.7])).precision_recall_trapezoid() == theirs == 0.5


def test_constant_score_is_flattered_by_the_trapezoid():
    truth = np.array([True] * 5 + [False])
    ranked = Ranked(truth, np.ones(6))
    assert ranked.precision_recall_trapezoid() == pytest.approx(0.917, abs=5e-4)
    assert ranked.average_precision() == pytest.approx(0.833, abs=5e-4)


def test_multiclass_counts_and_scores():
    truth = ["a", "a", "b", "safe"]
    said = multiclass.single_label(
        np.array([[1, 0], [0, 0], [1, 1], [0, 0]], bool), np.array([[0.9, 0], [0.4, 0], [0.6, 0.8], [0, 0]]), ("a", "b")
    )
    assert said == ["a", "safe", "b", "safe"]
    found = multiclass.multiclass(truth, said, ["a", "b", "safe"])
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx(reference.f1_score(truth, said, average="macro"))
    assert found["counts"] == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_segments_are_found_once():
    truth = [Stretch(0, 10), Stretch(20, 30)]
    twice = [Stretch(0, 10, 0.9), Stretch(1, 10, 0.8)]
    assert segments.segment_ap([Located(truth, twice, 40)], 0.5) == pytest.approx(0.5)
    both = [Stretch(0, 10, 0.9), Stretch(21, 30, 0.7)]
    assert segments.segment_ap([Located(truth, both, 40)], 0.5) == 1.0
    assert segments.segment_ap([Located(truth, both, 40)], 0.95) == pytest.approx(0.5)
    seconds = segments.durations([Located(truth, [Stretch(5, 15), Stretch(8, 25)], 40)])
    assert (seconds.tp, seconds.fp, seconds.fn, seconds.tn) == (10, 10, 10, 10)
    assert segments.mean_iou([Located(truth, [Stretch(0, 10), Stretch(20, 30)], 40)]) == 1.0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6), st.integers(0, 99))
def test_durations_agree_with_counting_seconds(spans, seed):
    rng = np.random.default_rng(seed)
    drawn = [Stretch(*sorted(map(float, pair))) for pair in spans]
    other = [Stretch(*sorted(map(float, rng.integers(0, 31, 2)))) for _ in range(4)]
    t, p = ([any(s.start <= second < s.end for s in part) for second in range(31)] for part in (drawn, other))
    found = segments.durations([Located(drawn, other, 31)])
    assert found == confusion(np.array(t), np.array(p))


def test_routing_counts_rescues_and_regressions():
    escalated = np.array([1, 1, 1, 0, 0], bool)
    fast = np.array([0, 1, 0, 1, 0], bool)
    final = np.array([1, 0, 0, 1, 0], bool)
    found = selective.routing(escalated, fast, final)
    assert (found["rescues"], found["regressions"], found["escalation_rate"]) == (1, 1, 0.6)
    assert found["accuracy_random_routing"] == pytest.approx(0.4 * 0.4 + 0.6 / 3)
    alone = selective.routing(escalated, fast, final, answered=False)
    assert alone["accuracy_fast_kept"] == 0.5
    assert {k for k, v in alone.items() if v is not None} == {"escalation_rate", "accuracy_fast_kept"}


def test_cost_keeps_unmeasured_apart_from_free():
    spent = [
        cost.Spent(latency_ms=10, cpu_seconds=1, prompt_tokens=1000),
        cost.Spent(latency_ms=30, cpu_seconds=3, prompt_tokens=3000),
    ]
    found = cost.cost(spent, cost.Prices(cpu_hour=3.6, million_prompt_tokens=1))
    assert found["cpu_seconds_per_1000"] == 2000
    assert found["gpu_seconds"] is None
    assert found["money_per_1000"] == pytest.approx((4 * 0.001 + 4000 / 1e6) * 500)
    assert cost.cost(spent, cost.Prices(gpu_hour=2))["money_per_1000"] is None
    assert found["latency_ms"]["p50"] == 20
    assert cost.cost([])["latency_ms"]["p95"] is None


def test_four_cases():
    rows = [
        cases.PolicyAnswer("a", "x", True, True, True),
        cases.PolicyAnswer("b", "x", False, True, False),
        cases.PolicyAnswer("c", "x", True, False, False),
        cases.PolicyAnswer("a", "y", True, True, False),
    ]
    found = cases.four_cases(rows)
    assert (found["u->u"], found["s->u"], found["u->s"], found["s->s"]) == (0.5, 0.0, 1.0, None)
    assert found["mean"] == 0.5
    assert found["policy_exception_recall"] == 0.5
    assert cases.consistency(rows, "x", "y") == 0.0
    assert cases.consistency(rows, "x", "z") is None


def test_bootstrap_draws_groups_not_clips():
    """Ten copies of each clip add no certainty: the interval stays that of the groups."""
    rng = np.random.default_rng(0)
    values = rng.random(30)

    def mean_of(data):
        return lambda w: {"mean": float(np.average(data, weights=w))}

    plain = intervals.bootstrap(mean_of(values), [str(i) for i in range(30)])["mean"]
    copies = np.repeat(values, 10)
    clustered = intervals.bootstrap(mean_of(copies), [str(i // 10) for i in range(300)])["mean"]
    naive = intervals.bootstrap(mean_of(copies), [str(i) for i in range(300)])["mean"]
    assert clustered.as_list() == pytest.approx(plain.as_list())
    assert naive.high - naive.low < 0.5 * (clustered.high - clustered.low)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(120):
        data = rng.random(60) < 0.4
        found = intervals.bootstrap(
            lambda w, d=data: {"rate": float(np.average(d, weights=w))},
            [str(i) for i in range(60)],
            draws=200,
            seed=trial,
        )["rate"]
        inside += found.low <= 0.4 <= found.high
    assert 102 <= inside <= 120


def test_one_group_gives_no_interval():
    found = intervals.bootstrap(lambda w: {"x": 1.0}, ["a", "a"])["x"]
    assert found.as_list() == [1.0, None, None]


def test_paired_difference_sees_what_separate_intervals_hide():
    rng = np.random.default_rng(2)
    hard = rng.random(80)
    first, second = hard + rng.normal(0, 0.01, 80), hard + 0.05 + rng.normal(0, 0.01, 80)
    groups = [str(i) for i in range(80)]

    def mean_of(data):
        return lambda w: {"mean": float(np.average(data, weights=w))}

    found = intervals.paired(mean_of(first), mean_of(second), groups)["mean"]
    assert 0.04 < found["low"] < found["difference"] < found["high"] < 0.06
    assert found["p"] < 0.01
    same = intervals.paired(mean_of(first), mean_of(first), groups)["mean"]
    assert same["p"] == 1.0


def test_mcnemar_is_the_exact_binomial():
    right = np.array([1, 1, 1, 1, 1, 0], bool)
    wrong = np.array([0, 0, 0, 0, 0, 1], bool)
    assert intervals.mcnemar(right, wrong) == {"only_first": 5, "only_second": 1, "p": pytest.approx(2 * 7 / 64)}
    assert intervals.mcnemar(right, right)["p"] == 1.0


def test_baselines_are_what_their_names_say():
    truth, known = labelled(3, clips=400)[0], np.ones((400, 3), bool)
    rows = baselines(truth, known, ("a", "b", "c"))
    assert set(rows) == {"always_safe", "flag_all", "random", "prevalence"}
    assert rows["always_safe"]["binary/recall"] == 0.0
    assert rows["flag_all"]["binary/false_refusal"] == 1.0
    assert rows["random"]["a/auroc"] == pytest.approx(0.5, abs=0.03)
    assert rows["prevalence"]["a/recall"] == pytest.approx(truth[:, 0].mean(), abs=0.05)
    assert rows["flag_all"]["a/average_precision"] == pytest.approx(truth[:, 0].mean())


def test_counts_add_up():
    one = Confusion(tp=1, fp=2, fn=3, tn=4)
    assert multilabel.micro([one, one]) == Confusion(tp=2, fp=4, fn=6, tn=8)
    assert one.total == 10
