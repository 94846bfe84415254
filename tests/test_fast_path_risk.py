"""Thresholds with a proven risk: exact small cases, a brute-force oracle, and simulations of the promise."""

import math

import numpy as np
import pytest

from fast_path.risk import Target, binomial_cdf, block_threshold, clear_threshold, group_loss, hoeffding_bentkus


def singles(scores):
    return np.array(scores, np.float32), [str(i) for i in range(len(scores))]


def test_expected_risk_takes_the_textbook_rank():
    scores, groups = singles(np.arange(1, 20) / 20)  # 19 violating clips: alpha 0.1 allows (1 + 1) / 20, so one below
    cut = clear_threshold(scores, groups, Target(alpha=0.1))
    assert cut.threshold == pytest.approx(0.10)
    assert (cut.lost, cut.groups, cut.bound) == (1.0, 19, pytest.approx(0.1))


def test_block_is_the_mirror_image_and_spares_the_clip_at_the_edge():
    scores, groups = singles(np.arange(1, 20) / 20)
    cut = block_threshold(scores, groups, Target(alpha=0.1))
    assert np.sum(scores >= np.float32(cut.threshold)) == 1
    assert cut.threshold == pytest.approx(0.90, abs=1e-6)


@pytest.mark.parametrize(("count", "feasible"), [(18, False), (19, True)])
def test_too_few_groups_prove_nothing(count, feasible):
    scores, groups = singles(np.linspace(0.5, 0.9, count))
    cut = clear_threshold(scores, groups, Target(alpha=0.05))
    assert (cut.threshold is not None) == feasible
    assert cut.bound == pytest.approx(1 / (count + 1))


@pytest.mark.parametrize(("count", "feasible"), [(44, False), (45, True)])  # 0.95 ** 45 = 0.0994 <= 0.1
def test_high_probability_needs_more_groups(count, feasible):
    scores, groups = singles(np.linspace(0.5, 0.9, count))
    target = Target(alpha=0.05, guarantee="high_probability", delta=0.1)
    cut = clear_threshold(scores, groups, target)
    assert (cut.threshold is not None) == feasible
    assert cut.bound == pytest.approx(1 - 0.1 ** (1 / count), abs=1e-6)


def test_no_clips_at_all():
    cut = clear_threshold(np.zeros(0, np.float32), [], Target(alpha=0.5))
    assert (cut.threshold, cut.groups, cut.bound) == (None, 0, 1.0)


def test_clips_of_one_group_count_once():
    # nine copies of one low clip are one group among ten, not half of the evidence
    scores = np.array([0.1] * 9 + [0.5 + i / 100 for i in range(9)], np.float32)
    groups = ["same"] * 9 + [str(i) for i in range(9)]
    cut = clear_threshold(scores, groups, Target(alpha=0.2))
    assert (cut.groups, cut.lost) == (10, pytest.approx(1.0))
    assert cut.threshold == pytest.approx(0.50)


def brute_force(scores, groups, alpha):
    """Try every score as threshold."""
    best = None
    for candidate in sorted(set(scores.tolist())):
        lost = 0.0
        for name in set(groups):
            mine = [s for s, g in zip(scores.tolist(), groups, strict=True) if g == name]
            lost += sum(s < candidate for s in mine) / len(mine)
        if (lost + 1) / (len(set(groups)) + 1) <= alpha + 1e-12:
            best = candidate
    return best


@pytest.mark.parametrize("seed", range(30))
def test_clear_threshold_equals_brute_force(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    scores = random.integers(0, 12, count).astype(np.float32) / 12  # many ties
    groups = [str(g) for g in random.integers(0, 15, count)]
    alpha = float(random.uniform(0.05, 0.6))
    assert clear_threshold(scores, groups, Target(alpha=alpha)).threshold == brute_force(scores, groups, alpha)


def simulate(groups_per_trial, draw, target, trials, seed):
    """Return the true miss rate of each trial: many new groups, one clip each, against the fitted threshold."""
    random = np.random.default_rng(seed)
    fresh = np.concatenate([draw(random)[:1] for _ in range(4000)])
    risks = []
    for _ in range(trials):
        parts = [draw(random) for _ in range(groups_per_trial)]
        names = [str(i) for i, part in enumerate(parts) for _ in part]
        cut = clear_threshold(np.concatenate(parts).astype(np.float32), names, target)
        risks.append(0.0 if cut.threshold is None else float(np.mean(fresh < cut.threshold)))
    return np.array(risks)


def clustered(random):
    """A group with a common level and one to twenty clips around it."""
    level = random.normal()
    return 1 / (1 + np.exp(-(level + 0.3 * random.normal(size=int(random.integers(1, 21))))))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_expected_risk_holds_over_many_splits_and_is_not_idle(alpha):
    risks = simulate(59, clustered, Target(alpha=alpha), 400, seed=1)
    slack = 3 * risks.std() / math.sqrt(len(risks)) + 0.006  # 0.006: the 4000 fresh clips are a sample themselves
    assert risks.mean() <= alpha + slack
    assert risks.mean() >= alpha - 1 / 60 - slack  # the finite-sample rule loses at most one group of 60


def test_high_probability_holds_over_many_splits():
    target = Target(alpha=0.1, guarantee="high_probability", delta=0.1)
    risks = simulate(80, clustered, target, 400, seed=2)
    assert np.mean(risks > 0.1 + 0.006) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)
    assert risks.mean() > 0.01  # it does clear something


def test_treating_clips_as_independent_would_break_the_promise():
    """The control: the same rule on clips instead of groups, with sizes that go with the score, misses the target."""

    def sized(random):
        low = random.uniform() < 0.3
        return np.full(1 if low else 20, 0.2 if low else 0.8) + random.uniform(0, 0.1)

    random = np.random.default_rng(3)
    fresh = np.array([sized(random)[0] for _ in range(4000)])
    by_clip, by_group = [], []
    for _ in range(200):
        parts = [sized(random) for _ in range(59)]
        scores = np.concatenate(parts).astype(np.float32)
        for names, into in (
            ([str(i) for i in range(len(scores))], by_clip),
            ([str(i) for i, part in enumerate(parts) for _ in part], by_group),
        ):
            cut = clear_threshold(scores, names, Target(alpha=0.1))
            into.append(float(np.mean(fresh < cut.threshold)))
    assert np.mean(by_group) <= 0.11
    assert np.mean(by_clip) > 0.2


def test_group_loss_averages_within_groups():
    assert group_loss(np.array([True, False, True]), ["a", "a", "b"]) == (1.5, 2)


@pytest.mark.parametrize(("k", "n", "p"), [(0, 10, 0.1), (3, 10, 0.1), (10, 10, 0.3), (40, 200, 0.25)])
def test_binomial_cdf_equals_the_plain_sum(k, n, p):
    plain = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
    assert binomial_cdf(k, n, p) == pytest.approx(plain, rel=1e-9)


def test_p_value_is_valid_for_binary_losses():
    """Under the null the p-value is at most u with probability at most u."""
    n, alpha = 60, 0.2
    weights = [math.comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(n + 1)]
    for u in (0.01, 0.05, 0.1, 0.3):
        below = sum(w for k, w in enumerate(weights) if hoeffding_bentkus(k, n, alpha) <= u)
        assert below <= u


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": 0.1, "delta": 0.0}])
def test_bad_targets_are_refused(bad):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Target(**bad)
