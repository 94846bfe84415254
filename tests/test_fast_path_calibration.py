"""Calibrations as a whole: scaling, thresholds, the file, and what is refused."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from fast_path import calibration
from fast_path.calibrate import CalibrationSet, calibrate, label_matrix
from fast_path.calibration import FileCalibrator, load_calibrators, merged_thresholds
from fast_path.calibration_file import NEVER_BLOCK, CalibrationFile
from fast_path.reliability import brier, expected_calibration_error, risk_coverage
from fast_path.router import Config, build
from fast_path.scaling import Scaling, choose, fit, log_loss
from guard.errors import CalibrationMismatch, InfeasibleTarget, InvalidManifest, UsageError
from guard.types import Coverage, Policy, RouteReason, Rule, Scores, Thresholds

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def make(count=300, categories=("violence", "illegal.fire"), seed=0, spread=2.0):
    """Scores that separate, but are twice as sure of themselves as they should be."""
    random = np.random.default_rng(seed)
    labels = (random.uniform(size=(count, len(categories))) < 0.35).astype(np.int8)
    logits = spread * (2 * labels - 1) * 0.7 + random.normal(size=labels.shape)
    return CalibrationSet(
        categories=tuple(categories), scores=sigmoid(2 * logits).astype(np.float32), labels=labels,
        groups=tuple(f"g{i // 2}" for i in range(count)), detector="tiny", fingerprint="abc",
    )  # fmt: skip


def raw(data, row):
    return Scores(
        categories=data.categories, probability=data.scores[row], moment_seconds=np.array([0.0, 1.0]),
        per_moment=data.scores[[row, 0]], detector="tiny", fingerprint="abc",
    )  # fmt: skip


def test_thresholds_hold_their_bounds_on_the_set_itself():
    data = make()
    file = calibrate(data, fnr=0.1, fpr=0.05, now=NOW)
    for column, name in enumerate(data.categories):
        entry = file.categories[name]
        mapped = entry.scaling().apply(data.scores[:, column])
        positive = data.labels[:, column] == 1
        assert entry.clear.bound <= 0.1
        assert entry.block.bound <= 0.05
        assert np.mean(mapped[positive] < entry.clear.threshold) <= 0.1
        assert np.mean(mapped[~positive] >= entry.block.threshold) <= 0.05
        assert entry.clear.threshold <= entry.block.threshold
        assert entry.log_loss_calibrated < entry.log_loss_raw  # the scores were overconfident
    assert 0 < file.escalation < 1


def test_easier_targets_escalate_less():
    data = make(spread=1.0)
    shares = [calibrate(data, fnr=a, fpr=a).escalation for a in (0.05, 0.1, 0.2, 0.4)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_scores_that_separate_leave_no_uncertain_band():
    data = make(spread=40.0)
    entry = calibrate(data, fnr=0.1, fpr=0.1).categories["violence"]
    assert entry.clear.threshold == entry.block.threshold
    mapped = entry.scaling().apply(data.scores[:, 0])
    assert np.array_equal(mapped >= entry.block.threshold, data.labels[:, 0] == 1)  # the cut makes no error it need not


def test_infeasible_targets_say_how_far_the_data_reaches():
    data = make(count=40)
    with pytest.raises(InfeasibleTarget, match=r"violence: \d+ groups of violating clips .* --fnr is 0.01") as caught:
        calibrate(data, fnr=0.01, fpr=0.3)
    positives = len({g for g, y in zip(data.groups, data.labels[:, 0], strict=True) if y == 1})
    assert f"no less than {1 / (positives + 1):.3f}" in caught.value.message


def test_unproven_categories_can_go_to_the_slow_path_instead():
    data = make(count=40)
    file = calibrate(data, fnr=0.01, fpr=0.3, escalate_unproven=True)
    entry = file.categories["violence"]
    assert (entry.clear.proven, entry.clear.threshold) == (False, 0.0)
    assert entry.block.proven
    none = replace(data, labels=np.zeros_like(data.labels))
    closed = calibrate(none, fnr=0.3, fpr=0.01, escalate_unproven=True).categories["violence"]
    assert closed.thresholds() == Thresholds(clear_below=0.0, block_at=NEVER_BLOCK)


@pytest.mark.parametrize("budget", [0.1, 0.2, 0.4])
def test_budget_is_kept_and_used(budget):
    data = make(spread=1.0)
    file = calibrate(data, budget=budget)
    assert file.guarantee == "estimate"
    assert file.escalation <= budget
    looser = calibrate(data, budget=budget + 0.15)
    assert looser.categories["violence"].clear.bound <= file.categories["violence"].clear.bound
    assert looser.escalation > file.escalation


def test_a_rare_category_is_not_met_by_blocking_everything():
    data = make(spread=1.5)
    rare = data.labels.copy()
    rare[np.flatnonzero(rare[:, 1])[4:], 1] = 0
    harmless = rare.sum(axis=1) == 0
    file = calibrate(replace(data, labels=rare), budget=0.4)
    high = np.array([t.block_at for t in file.thresholds().values()])
    mapped = np.stack([file.categories[c].scaling().apply(data.scores[:, i]) for i, c in enumerate(data.categories)], 1)
    assert file.categories["illegal.fire"].clear.threshold > 0
    assert np.mean((mapped >= high).any(1)[harmless]) < 0.4
    assert not file.categories["illegal.fire"].clear.proven


def test_budget_holds_on_new_videos():
    shares = []
    for seed in range(20):
        file = calibrate(make(count=200, spread=1.0, seed=seed), budget=0.3)
        fresh = make(count=2000, spread=1.0, seed=1000 + seed)
        mapped = np.stack(
            [file.categories[c].scaling().apply(fresh.scores[:, i]) for i, c in enumerate(fresh.categories)], 1
        )
        low = np.array([t.clear_below for t in file.thresholds().values()])
        high = np.array([t.block_at for t in file.thresholds().values()])
        shares.append(np.mean((mapped >= low).any(1) & ~(mapped >= high).any(1)))
    assert np.mean(shares) <= 0.3 + 0.02
    assert np.mean(shares) > 0.2


def test_targets_that_do_not_fit_the_budget_are_refused():
    with pytest.raises(InfeasibleTarget, match="escalated"):
        calibrate(make(spread=0.5), fnr=0.05, fpr=0.05, budget=0.05)
    with pytest.raises(InfeasibleTarget, match=r"No thresholds escalate at most 0\.05"):
        calibrate(make(count=16), budget=0.05)  # eight groups can prove no share below a ninth
    one_kind = replace(make(), labels=np.zeros((300, 2), np.int8))
    with pytest.raises(InfeasibleTarget, match="violence lacks clips of one kind"):
        calibrate(one_kind, budget=0.5)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"fnr": 0.1}, "belong together"),
        ({}, "Say what"),
        ({"fnr": 0.0, "fpr": 0.1}, "between 0 and 1"),
        ({"budget": 1.0}, "--budget"),
    ],
)
def test_unclear_requests_are_refused(request_, match):
    with pytest.raises(UsageError, match=match):
        calibrate(make(), **request_)


def test_unknown_labels_count_neither_way():
    data = make()
    unknown = data.labels.copy()
    unknown[::3, 0] = -1
    scrambled = data.scores.copy()
    scrambled[::3, 0] = 0.5
    first = calibrate(replace(data, labels=unknown), fnr=0.2, fpr=0.2)
    second = calibrate(replace(data, labels=unknown, scores=scrambled), fnr=0.2, fpr=0.2)
    assert first.categories["violence"].clear == second.categories["violence"].clear
    assert first.categories["violence"].clear.clips == int((unknown[:, 0] == 1).sum())


def test_label_matrix_follows_the_taxonomy():
    table = label_matrix([["violence.fighting"], ["illegal"], [], ["illegal.fire.smoke"]], ["violence", "illegal.fire"])
    assert table.tolist() == [[1, 0], [0, -1], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    "change",
    [
        {"scores": np.full((300, 2), np.nan, np.float32)},
        {"labels": np.full((300, 2), 2, np.int8)},
        {"groups": ("a",)},
        {"scores": np.zeros((0, 2), np.float32), "labels": np.zeros((0, 2), np.int8), "groups": ()},
    ],
)
def test_bad_sets_are_refused(change):
    with pytest.raises(InvalidManifest):
        replace(make(), **change)


def test_file_survives_the_disk_and_notices_edits(tmp_path):
    path = tmp_path / "calibration.json"
    file = calibrate(make(), fnr=0.1, fpr=0.1, now=NOW)
    file.save(path)
    assert CalibrationFile.load(path) == file
    assert list(tmp_path.iterdir()) == [path]
    content = json.loads(path.read_text())
    assert content["id"] == file.id
    content["categories"]["violence"]["clear"]["threshold"] -= 0.01
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationMismatch, match="changed after it was written"):
        CalibrationFile.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "x", "format": 2}', '{"id": "x", "surprise": 1}', "\udcff"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CalibrationMismatch, match="not a readable calibration"):
        CalibrationFile.load(path)
    with pytest.raises(CalibrationMismatch):
        CalibrationFile.load(tmp_path / "missing.json")


def test_id_says_what_was_fitted_and_not_when():
    data = make()
    file = calibrate(data, fnr=0.1, fpr=0.1, now=NOW)
    order = np.random.default_rng(0).permutation(len(data.groups))
    shuffled = replace(
        data, scores=data.scores[order], labels=data.labels[order], groups=tuple(data.groups[i] for i in order)
    )
    assert calibrate(data, fnr=0.1, fpr=0.1).id == file.id
    assert shuffled.data_hash() == data.data_hash()
    assert calibrate(data, fnr=0.1, fpr=0.2).id != file.id
    assert calibrate(replace(data, fingerprint="other"), fnr=0.1, fpr=0.1).id != file.id


def test_apply_maps_video_and_moments_alike():
    data = make()
    file = calibrate(data, fnr=0.1, fpr=0.1)
    scores = raw(data, 0)
    done = FileCalibrator(file).apply(scores)
    for column, name in enumerate(data.categories):
        scaling = file.categories[name].scaling()
        assert done.probability[column] == scaling.apply(scores.probability[column : column + 1])[0]
        assert done.per_moment[:, column].tolist() == scaling.apply(scores.per_moment[:, column]).tolist()
    assert done.calibration == file.id
    with pytest.raises(CalibrationMismatch, match="already"):
        FileCalibrator(file).apply(done)
    empty = replace(scores, moment_seconds=np.zeros(0), per_moment=np.zeros((0, 2), np.float32))
    assert FileCalibrator(file).apply(empty).per_moment.shape == (0, 2)


@pytest.mark.parametrize(
    "change", [{"fingerprint": "other"}, {"detector": "probe"}, {"categories": ("violence", "spam")}]
)
def test_another_models_scores_are_refused(change):
    data = make()
    with pytest.raises(CalibrationMismatch):
        FileCalibrator(calibrate(data, fnr=0.1, fpr=0.1)).apply(replace(raw(data, 0), **change))


class Named:
    def __init__(self, name, fingerprint):
        self.name, self.fingerprint = name, fingerprint


def test_calibrators_are_found_for_the_model_in_use(tmp_path, monkeypatch):
    file = calibrate(make(), fnr=0.1, fpr=0.1)
    asked = tmp_path / "asked.json"
    file.save(asked)
    assert load_calibrators(asked, [Named("tiny", "abc")])["tiny"].id == file.id
    assert load_calibrators(asked, [Named("flash", "x")]) == {}
    with pytest.raises(CalibrationMismatch, match="models in use are: tiny new"):
        load_calibrators(asked, [Named("tiny", "new")])
    with pytest.raises(CalibrationMismatch, match=r"fitted for tiny abc; the models in use are: flash x"):
        load_calibrators(asked, [], loaded=[Named("flash", "x")])  # asked for, and nothing could use it
    assert load_calibrators(asked, [], loaded=[Named("tiny", "abc")]) == {}  # no rule needs the detector it is for
    shipped = tmp_path / "weights" / "tiny"
    shipped.mkdir(parents=True)
    file.save(shipped / "calibration.json")
    monkeypatch.setattr(calibration, "_WEIGHTS", tmp_path / "weights")
    assert set(load_calibrators(None, [Named("tiny", "abc"), Named("flash", "x")])) == {"tiny"}
    assert load_calibrators(None, [Named("tiny", "retrained")]) == {}
    probe = calibrate(replace(make(), detector="probe"), fnr=0.1, fpr=0.1)
    probe.save(asked)
    both = load_calibrators(asked, [Named("tiny", "abc"), Named("probe", "abc")])
    assert {name: found.id for name, found in both.items()} == {"tiny": file.id, "probe": probe.id}


def test_a_calibration_for_another_density_of_sampling_is_not_used(tmp_path, monkeypatch):
    """At smaller gaps the classifier scores lower: thresholds of another gap would clear what they never proved."""
    file = calibrate(replace(make(), max_gap_seconds=2.0), fnr=0.1, fpr=0.1)
    assert file.max_gap_seconds == 2.0
    assert file.id != calibrate(make(), fnr=0.1, fpr=0.1).id
    asked = tmp_path / "calibration.json"
    file.save(asked)
    tiny = [Named("tiny", "abc")]
    assert load_calibrators(asked, tiny, max_gap_seconds=2.0)["tiny"].id == file.id
    with pytest.raises(CalibrationMismatch, match=r"at least every 2 s; max_gap_seconds is 0\.5"):
        load_calibrators(asked, tiny, max_gap_seconds=0.5)
    monkeypatch.setattr(calibration, "_WEIGHTS", tmp_path)
    assert set(load_calibrators(None, tiny, max_gap_seconds=2.0)) == {"tiny"}
    assert load_calibrators(None, tiny, max_gap_seconds=0.5) == {}


def test_a_budget_for_one_category_leaves_the_others_to_the_slow_path():
    data = make(spread=1.0)
    whole = calibrate(data, budget=0.3)
    one = calibrate(data, budget=0.3, only=["violence"])
    entry, other = one.categories["violence"], one.categories["illegal.fire"]
    assert other.thresholds() == Thresholds(clear_below=0.0, block_at=NEVER_BLOCK)
    assert one.escalation <= 0.3
    mapped = entry.scaling().apply(data.scores[:, 0])
    band = (mapped >= entry.clear.threshold) & (mapped < entry.block.threshold)
    assert np.mean(band) == pytest.approx(one.escalation, abs=0.02)
    assert one.escalation > 0.2  # and the budget is used
    assert entry.clear.bound <= whole.categories["violence"].clear.bound
    proven = calibrate(data, fnr=0.1, fpr=0.1, only=["violence"])
    assert proven.categories["violence"] == calibrate(data, fnr=0.1, fpr=0.1).categories["violence"]
    few = data.labels.copy()
    few[6:, 1] = 0
    assert calibrate(replace(data, labels=few), fnr=0.1, fpr=0.1, only=["violence"])  # what is not fitted cannot fail
    with pytest.raises(InfeasibleTarget, match=r"illegal\.fire"):
        calibrate(replace(data, labels=few), fnr=0.1, fpr=0.1)


def test_a_category_can_be_kept_from_blocking():
    data = make(spread=4.0)  # separates: without it, one cut both clears and blocks
    file = calibrate(data, fnr=0.1, fpr=0.1, never_block=["violence"])
    entry, free = file.categories["violence"], calibrate(data, fnr=0.1, fpr=0.1).categories["violence"]
    assert (entry.block.threshold, entry.block.proven, entry.clear.proven) == (NEVER_BLOCK, False, True)
    assert entry.clear.threshold >= free.clear.threshold  # nothing to make room for
    assert file.categories["illegal.fire"].block.threshold < 1
    mapped = np.stack([file.categories[c].scaling().apply(data.scores[:, i]) for i, c in enumerate(data.categories)], 1)
    waits = (mapped[:, 0] >= entry.clear.threshold) & (mapped[:, 1] < file.categories["illegal.fire"].block.threshold)
    assert file.escalation == pytest.approx(np.mean(waits), abs=0.02)
    for option in ("only", "never_block"):
        with pytest.raises(UsageError, match=r"the detector scores violence, illegal\.fire"):
            calibrate(data, budget=0.3, **{option: ["spam"]})


def test_the_more_cautious_of_two_calibrations_counts():
    strict = FileCalibrator(calibrate(make(), fnr=0.05, fpr=0.05))
    loose = FileCalibrator(calibrate(make(), fnr=0.3, fpr=0.3))
    merged = merged_thresholds({"a": loose, "b": strict})
    for name, pair in merged.items():
        assert pair.clear_below == min(strict.thresholds[name].clear_below, loose.thresholds[name].clear_below)
        assert pair.block_at == max(strict.thresholds[name].block_at, loose.thresholds[name].block_at)


def test_router_and_calibration_agree_on_who_is_escalated():
    """End to end over arrays: the share that the router sends on is the one that the file states."""
    data = replace(make(spread=1.0), groups=tuple(str(i) for i in range(300)))
    file = calibrate(data, fnr=0.1, fpr=0.1)
    router = build(Config(thresholds=merged_thresholds({"tiny": FileCalibrator(file)})))
    policy = Policy(
        name="p", version="1", hash="h", rules={c: Rule(category=c, state="block") for c in data.categories}
    )
    seen = Coverage(
        frames_scored=8, frames_decoded=8, largest_gap_seconds=1.0, full_decode=True, decoded_seconds=8.0,
        declared_seconds=8.0, complete=True, sampler="bursts", seed=0,
    )  # fmt: skip
    routes = []
    for row in range(len(data.groups)):
        scores = replace(raw(data, row), moment_seconds=np.zeros(0), per_moment=np.zeros((0, 2), np.float32))
        routes.append(router.route([FileCalibrator(file).apply(scores)], policy, seen))
    assert np.mean([route.path == "slow" for route in routes]) == pytest.approx(file.escalation)
    cleared = [route.reason is RouteReason.CONFIDENT_CLEAR for route in routes]
    assert np.mean(np.array(cleared)[data.labels.any(axis=1)]) <= 0.1


@pytest.mark.parametrize(("slope", "offset"), [(0.4, 0.0), (1.0, 0.0), (2.5, -1.0), (0.7, 1.5)])
def test_platt_recovers_the_truth(slope, offset):
    random = np.random.default_rng(0)
    logit = random.normal(0, 2, 40_000)
    truth = random.uniform(size=len(logit)) < sigmoid(slope * logit + offset)
    found = fit("platt", sigmoid(logit), truth)
    assert found.slope == pytest.approx(slope, rel=0.06)
    assert found.offset == pytest.approx(offset, abs=0.06)


def test_a_perfect_separation_keeps_the_slope_finite():
    found = fit("platt", np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert 0 < found.slope < 50


@pytest.mark.parametrize("seed", range(10))
def test_isotonic_equals_the_plain_definition(seed):
    """The isotonic value at i is max over a <= i of min over b >= i of the mean of a..b."""
    random = np.random.default_rng(seed)
    values = np.arange(1, 31) / 31
    truth = random.uniform(size=30) < 0.3 + 0.4 * values
    knots = np.array(fit("isotonic", values, truth).knots_probability)
    plain = [max(min(truth[a : b + 1].mean() for b in range(i, 30)) for a in range(i + 1)) for i in range(30)]
    np.testing.assert_allclose(knots, plain, atol=1e-12)


def test_the_map_is_chosen_by_what_helps():
    random = np.random.default_rng(0)
    score = random.uniform(size=3000)
    groups = [str(i) for i in range(3000)]
    honest = random.uniform(size=3000) < score
    steps = random.uniform(size=3000) < np.where(score < 0.3, 0.05, np.where(score < 0.8, 0.5, 0.55))
    wrong = log_loss(score, steps)
    assert choose(score[:60], honest[:60], ["one"] * 60).method == "identity"  # one group: nothing can be validated
    chosen = choose(score, steps, groups)
    assert chosen.method == "isotonic"
    assert log_loss(chosen.apply(score), steps) < wrong
    assert log_loss(choose(score, honest, groups).apply(score), honest) <= log_loss(score, honest) + 1e-3


def test_scaling_refuses_what_is_not_increasing():
    with pytest.raises(ValueError, match="slope"):
        Scaling(method="platt", slope=0.0)
    with pytest.raises(ValueError, match="knots"):
        Scaling(method="isotonic", knots_raw=(0.5, 0.5), knots_probability=(0.0, 1.0))


def test_reliability_of_known_cases():
    truth = np.array([True, False, True, False])
    assert brier(np.array([1.0, 0.0, 1.0, 0.0]), truth) == 0
    assert brier(np.full(4, 0.5), truth) == 0.25
    assert expected_calibration_error(np.full(4, 0.9), truth, bins=1) == pytest.approx(0.4)
    random = np.random.default_rng(0)
    p = random.uniform(size=20_000)
    assert expected_calibration_error(p, random.uniform(size=20_000) < p) < 0.02
    assert np.isnan(brier(np.zeros(0), np.zeros(0, bool)))
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_risk_coverage_of_a_known_order():
    curve = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([False, False, True, True]))
    assert curve.risk.tolist() == [0, 0, pytest.approx(1 / 3), 0.5]
    assert curve.excess_aurc == pytest.approx(0)
    tied = risk_coverage(np.full(4, 0.5), np.array([False, False, True, True]))
    assert (tied.coverage.tolist(), tied.aurc) == ([1.0], 0.5)
    assert risk_coverage(np.array([0.1, 0.9]), np.array([False, True])).excess_aurc > 0
