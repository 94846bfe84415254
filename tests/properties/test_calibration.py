"""Promises of maps and thresholds that hold for every input."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fast_path.risk import Target, block_threshold, clear_threshold, group_loss, hoeffding_bentkus
from fast_path.scaling import fit

unit = st.floats(0.0, 1.0, width=32)
samples = st.lists(st.tuples(unit, st.booleans(), st.integers(0, 9)), min_size=2, max_size=60)
targets = st.builds(
    Target,
    alpha=st.floats(0.02, 0.9),
    guarantee=st.sampled_from(["expected", "high_probability"]),
    delta=st.floats(0.05, 0.5),
)


def split(sample):
    scores, truth, groups = zip(*sample, strict=True)
    return np.array(scores, np.float32), np.array(truth), [str(g) for g in groups]


@given(samples, st.sampled_from(["identity", "temperature", "platt", "isotonic"]), st.lists(unit, min_size=2))
def test_maps_stay_in_range_and_never_change_the_order(sample, method, queries):
    raw, truth, _ = split(sample)
    mapped = fit(method, raw.astype(np.float64), truth).apply(np.sort(np.array(queries, np.float32)))
    assert mapped.dtype == np.float32
    assert np.all((mapped >= 0) & (mapped <= 1))
    assert np.all(np.diff(mapped) >= 0)


@given(samples, targets)
def test_a_threshold_loses_no_more_than_is_proven(sample, target):
    scores, _, groups = split(sample)
    for cut, lost in (
        (clear := clear_threshold(scores, groups, target), lambda t: scores < t),
        (block_threshold(scores, groups, target), lambda t: scores >= t),
    ):
        if cut.threshold is not None:
            loss, count = group_loss(lost(np.float32(cut.threshold)), groups)
            assert abs(loss - cut.lost) < 1e-6
            assert target.bound(loss, count) <= target.alpha + 1e-6
        else:
            assert target.bound(0.0, cut.groups) > target.alpha - 1e-6
    assert clear.clips == len(scores)


@given(samples, st.floats(0.02, 0.5), st.floats(0.0, 0.4))
def test_a_looser_target_never_narrows_what_is_accepted(sample, alpha, more):
    scores, _, groups = split(sample)
    strict, loose = Target(alpha=alpha), Target(alpha=alpha + more)
    for choose, sign in ((clear_threshold, 1), (block_threshold, -1)):
        first, second = (choose(scores, groups, t).threshold for t in (strict, loose))
        if first is not None:
            assert second is not None
            assert sign * second >= sign * first


@given(samples, st.floats(0.05, 0.9), st.randoms())
def test_thresholds_do_not_depend_on_order_or_names(sample, alpha, random):
    scores, _, groups = split(sample)
    order = list(range(len(scores)))
    random.shuffle(order)
    first = clear_threshold(scores, groups, Target(alpha=alpha))
    second = clear_threshold(scores[order], [f"x{groups[i]}" for i in order], Target(alpha=alpha))
    assert first.threshold == second.threshold


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_p_values_are_monotone_in_the_loss(groups, alpha, one, other):
    low, high = sorted((one * groups, other * groups))
    assert 0.0 <= hoeffding_bentkus(low, groups, alpha) <= hoeffding_bentkus(high, groups, alpha) + 1e-12 <= 1.0 + 1e-12
