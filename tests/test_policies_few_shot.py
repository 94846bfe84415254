"""Few-shot scores: they separate what is separable, and do not pretend where they cannot know."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InvalidConfig
from policies import few_shot, separation
from policies.few_shot import Config

WIDTH = 24


def clips(rng, count, shift=0.0):
    """Background-like vectors; the first axis carries what violates."""
    made = rng.normal(size=(count, WIDTH))
    made[:, 0] += shift
    return (made @ np.diag(np.linspace(0.5, 20, WIDTH)) + 3).astype(np.float32)


@pytest.fixture(scope="module")
def background():
    return few_shot.fit_background(clips(np.random.default_rng(0), 200))


def model(background, count, shift, seed=1, **changes):
    return few_shot.fit(clips(np.random.default_rng(seed), count, shift), background, **changes)


def auroc(positive, negative):
    return float((positive[:, None] > negative[None]).mean())


def test_more_examples_separate_better_and_narrow_the_interval(background):
    rng = np.random.default_rng(5)
    positive, negative = clips(rng, 200, 5.0), clips(rng, 200)
    quality, width = [], []
    for count in (1, 4, 16):
        runs = [model(background, count, 5.0, seed) for seed in range(8)]
        quality.append(np.mean([auroc(m.score(positive).probability, m.score(negative).probability) for m in runs]))
        width.append(np.mean([(s := m.score(negative)).high - s.low for m in runs]))
    assert quality[0] < quality[1] < quality[2]
    assert quality[2] > 0.95
    assert width[0] > width[1] > width[2]


def test_one_example_settles_nothing(background):
    """Neither a look-alike is surely violating nor an ordinary clip surely clear after one example."""
    rng = np.random.default_rng(6)
    everything = np.concatenate([clips(rng, 200, 5.0), clips(rng, 500)])
    cautious = model(background, 1, 5.0).score(everything).cautious
    assert cautious.min() >= 0.1
    assert cautious.max() < 0.9


def test_examples_that_look_like_the_background_clear_nothing(background):
    rng = np.random.default_rng(7)
    for seed in range(5):
        scored = model(background, 8, 0.0, seed).score(clips(rng, 300))
        assert (scored.cautious < 0.1).mean() < 0.02
        assert (scored.cautious >= 0.9).sum() == 0


def test_what_is_called_clear_or_violating_rarely_is_not(background):
    """At 20 % violations, cleared and blocked clips may each be wrong in no more than a tenth."""
    rng = np.random.default_rng(8)
    videos = np.concatenate([clips(rng, 200, 4.0), clips(rng, 800)])
    truth = np.arange(1000) < 200
    wrong_clear, wrong_block = [], []
    for seed in range(10):
        cautious = model(background, 8, 4.0, seed).score(videos).cautious
        wrong_clear.append(truth[cautious < 0.1].mean() if (cautious < 0.1).any() else 0.0)
        wrong_block.append((~truth[cautious >= 0.9]).mean() if (cautious >= 0.9).any() else 0.0)
    assert np.mean(wrong_clear) < 0.1
    assert np.mean(wrong_block) < 0.1
    assert any(model(background, 8, 4.0, seed).score(videos).cautious.max() >= 0.9 for seed in range(10))


def test_harmless_look_alikes_move_the_score_away_from_them(background):
    rng = np.random.default_rng(9)
    bumps = clips(rng, 12, 4.0)
    bumps[:, 1] += 40  # harmless ones share the first axis and differ in the second
    violating = clips(rng, 6, 4.0)
    plain = few_shot.fit(violating, background)
    careful = few_shot.fit(violating, background, harmless=bumps[:8])
    assert careful.score(bumps[8:]).probability.mean() < plain.score(bumps[8:]).probability.mean()


def test_scores_do_not_depend_on_the_batch_and_repeat(background):
    videos = clips(np.random.default_rng(10), 30)
    fitted = model(background, 3, 3.0)
    whole = fitted.score(videos)
    for index in (0, 7, 29):
        single = fitted.score(videos[index : index + 1])
        assert np.allclose(single.probability[0], whole.probability[index], atol=1e-6)
    again = model(background, 3, 3.0).score(videos)
    assert np.array_equal(again.probability, whole.probability)


def test_scale_and_offset_of_the_encoder_do_not_matter(background):
    rng = np.random.default_rng(11)
    ordinary, examples, videos = clips(rng, 100), clips(rng, 4, 4.0), clips(rng, 20)
    plain = few_shot.fit(examples, few_shot.fit_background(ordinary)).score(videos)
    moved = few_shot.fit(examples * 7 - 2, few_shot.fit_background(ordinary * 7 - 2)).score(videos * 7 - 2)
    assert np.allclose(plain.probability, moved.probability, atol=1e-3)


@given(st.integers(1, 12), st.integers(0, 2**16), st.floats(0, 8))
def test_probabilities_lie_in_their_interval(count, seed, shift):
    background = _SMALL
    scored = model(background, count, shift, seed).score(clips(np.random.default_rng(seed + 1), 10, shift))
    for values in (scored.probability, scored.low, scored.high, scored.cautious):
        assert values.dtype == np.float32
        assert ((values >= 0) & (values <= 1)).all()
    assert (scored.low <= scored.probability).all()
    assert (scored.probability <= scored.high).all()
    assert (np.abs(scored.cautious - 0.5) <= np.abs(scored.probability - 0.5) + 1e-6).all()


_SMALL = few_shot.fit_background(clips(np.random.default_rng(0), 40))


@given(st.integers(1, 300), st.floats(0.01, 0.6), st.integers(0, 8))
def test_the_more_alike_the_likelier_without_end_and_without_ties(ordinary, base_rate, seen):
    """A slow oracle of the order: more deviations never make a violation less likely, however far out."""
    belief = separation.believe(np.full(seen, 2.0), Config())
    scored = belief.score(np.linspace(-3, 30, 80), base_rate=base_rate, ordinary=ordinary, interval=0.9)
    assert (np.diff(scored.probability) > 0).all()
    assert (np.diff(scored.low) >= -1e-4).all()


@given(st.integers(1, 60))
def test_windows_that_say_nothing_leave_the_base_rate(count):
    belief = separation.Belief(separations=np.zeros(1), weights=np.ones(1))
    share = 1 - (1 - 0.2) ** (1 / count)
    each = belief.score(np.zeros(count), base_rate=share, ordinary=10**6, interval=0.9)
    assert separation.any_of(each).probability[0] == pytest.approx(0.2, abs=0.02)


@given(st.integers(1, 500))
def test_windows_cover_every_moment_once_and_none_is_short(count):
    cut = few_shot.windows(count)
    assert [i for part in cut for i in range(count)[part]] == list(range(count))
    lengths = [part.stop - part.start for part in cut]
    assert min(lengths) >= min(8, count)
    assert max(lengths) < 16


def test_a_constant_dimension_and_a_repeated_example_are_harmless():
    ordinary = clips(np.random.default_rng(12), 50)
    ordinary[:, 5] = 4.0
    example = ordinary[:1].copy()
    example[:, 5] = 9.0
    scored = few_shot.fit(np.repeat(example, 3, axis=0), few_shot.fit_background(ordinary)).score(ordinary)
    assert np.isfinite(scored.probability).all()


def test_pool_keeps_a_short_event():
    moments = np.zeros((10, 3), np.float32)
    moments[4] = 5
    assert few_shot.pool(moments).tolist() == [0.5] * 3 + [5.0] * 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda b: few_shot.fit_background(clips(np.random.default_rng(0), 5)), "at least 20 clips; got 5"),
        (lambda b: few_shot.fit(np.zeros((0, WIDTH), np.float32), b), "at least one example"),
        (lambda b: few_shot.fit(np.zeros((1, 3), np.float32), b), r"shape \[n, 24\]; got \(1, 3\)"),
        (lambda b: few_shot.fit(np.full((1, WIDTH), np.nan, np.float32), b), "finite"),
        (lambda b: model(b, 1, 1.0).score(np.zeros((2, 3), np.float32)), "One encoder"),
        (lambda b: model(b, 1, 1.0, config=Config(base_rate=0.0)), "base_rate"),
        (lambda b: model(b, 1, 1.0, config=Config(correlation=1.5)), "correlation"),
        (lambda b: few_shot.fit_background(clips(np.random.default_rng(0), 50), Config(shrinkage=0)), "shrinkage"),
        (lambda b: few_shot.pool(np.zeros(3, np.float32)), "moments"),
    ],
)
def test_what_cannot_be_fitted_is_refused(background, call, said):
    with pytest.raises(InvalidConfig, match=said):
        call(background)
