import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from fast_path import head as heads
from fast_path.head import HeadConfig, TemporalHead

CATEGORIES = ("violence.fighting", "illegal.fire", "accidents.road")


@pytest.fixture
def head():
    torch.manual_seed(0)
    made = TemporalHead(HeadConfig(dimension=12, parts=(8, 4), categories=CATEGORIES, hidden=16, heads=2)).eval()
    for probe in made.probes:
        torch.nn.init.normal_(probe.context.weight)  # trained heads use context; a fresh one starts without
        torch.nn.init.normal_(probe.time_bias)
    return made


def sequence(length, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(length, 12)).astype(np.float32), np.arange(length) * 0.9


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_any_length_gives_probabilities_for_video_and_bursts(head, length):
    video, bursts = head.score(*sequence(length))
    assert video.shape == (3,)
    assert bursts.shape == (length, 3)
    assert video.dtype == bursts.dtype == np.float32
    assert np.all((bursts > 0) & (bursts < 1))


def test_padding_changes_nothing(head):
    embeddings, seconds = sequence(5)
    padded = torch.zeros(1, 9, 12)
    padded[0, :5] = torch.from_numpy(embeddings)
    padded[0, 5:] = 50.0
    times = torch.zeros(1, 9)
    times[0, :5] = torch.from_numpy(seconds).float()
    mask = torch.arange(9)[None] < 5
    with torch.inference_mode():
        logits, _ = head(padded, times, mask)
    video, _ = head.score(embeddings, seconds)
    np.testing.assert_allclose(torch.sigmoid(logits[0]).numpy(), video, atol=1e-5)


def test_order_matters(head):
    embeddings, seconds = sequence(6)
    forwards, _ = head.score(embeddings, seconds)
    backwards, _ = head.score(embeddings[::-1].copy(), seconds)
    assert np.abs(forwards - backwards).max() > 1e-4


def test_bursts_beyond_the_window_do_not_touch_each_other(head):
    embeddings, _ = sequence(2)
    near = head.score(embeddings, np.asarray([0.0, 1.0]))[1]
    far = head.score(embeddings, np.asarray([0.0, 60.0]))[1]
    alone = head.score(embeddings[:1], np.asarray([0.0]))[1]
    np.testing.assert_allclose(far[0], alone[0], atol=1e-6)
    assert np.abs(near[0] - alone[0]).max() > 1e-4


def test_one_burst_in_five_minutes_is_found():
    head = TemporalHead(HeadConfig(dimension=1, categories=("violence.fighting",), hidden=4, heads=1)).eval()
    with torch.no_grad():
        probe = head.probes[0]
        probe.embed[1].weight.zero_()
        probe.embed[1].weight[:, 0] = 1.0  # the burst itself
        probe.embed[1].bias.zero_()
        probe.alone.weight.fill_(2.5)
        probe.alone.bias.fill_(-4.0)
    embeddings, seconds = np.zeros((150, 1), np.float32), np.arange(150) * 2.0
    clean, _ = head.score(embeddings, seconds)
    embeddings[70] = 1.0
    video, bursts = head.score(embeddings, seconds)
    assert clean[0] < 0.05
    assert video[0] > 0.9
    assert int(bursts[:, 0].argmax()) == 70


def test_one_noisy_burst_of_a_short_video_is_outvoted_and_a_long_one_is_its_worst_stretch(head):
    calm, alarm = torch.full((1, 8, 3), -3.0), torch.full((1, 8, 3), 3.0)
    noisy = calm.clone()
    noisy[:, 4] = 3.0
    long = torch.cat([calm.repeat(1, 50, 1), alarm, calm.repeat(1, 50, 1)], 1)

    def pooled(bursts):
        return float(head.pool(bursts, torch.ones(bursts.shape[:2], dtype=torch.bool))[0, 0])

    with torch.inference_mode():
        assert pooled(calm) == pytest.approx(-3, abs=1e-4)
        assert -3 < pooled(noisy) < 2
        assert pooled(long) == pytest.approx(3, abs=1e-4)


def test_stretches_of_long_videos_join_without_a_seam(head, monkeypatch):
    embeddings, seconds = sequence(50)
    whole = head.score(embeddings, seconds)
    monkeypatch.setattr(heads, "_STRETCH", 7)
    cut = head.score(embeddings, seconds)
    np.testing.assert_allclose(whole[0], cut[0], atol=1e-5)
    np.testing.assert_allclose(whole[1], cut[1], atol=1e-5)


def test_it_is_small_and_its_attention_sharpness_is_learned():
    head = TemporalHead(HeadConfig(dimension=192, categories=CATEGORIES))
    assert sum(p.numel() for p in head.parameters()) < 100_000
    assert head.probes[0].log_sharpness.requires_grad


def test_each_part_has_its_own_probe_and_the_scores_are_their_mean(head):
    embeddings, seconds = (torch.from_numpy(array).float()[None] for array in sequence(6))
    mask = torch.ones(1, 6, dtype=torch.bool)
    with torch.inference_mode():
        first, second = head.members(embeddings, seconds, mask)
        _, bursts = head(embeddings, seconds, mask)
        embeddings[..., 8:] = 0
        same, other = head.members(embeddings, seconds, mask)
    torch.testing.assert_close(bursts, (first + second) / 2)
    torch.testing.assert_close(first, same)
    assert (second - other).abs().max() > 1e-3


def test_a_configuration_survives_json(head):
    assert heads.config_from(json.loads(json.dumps(asdict(head.config)))) == head.config


def test_bad_input_is_refused(head):
    with pytest.raises(ValueError, match="embeddings and seconds"):
        head.score(np.zeros((0, 12), np.float32), np.zeros(0))
    with pytest.raises(ValueError, match="parts"):
        HeadConfig(dimension=4, parts=(3, 2), categories=CATEGORIES)
    with pytest.raises(ValueError, match="hidden"):
        TemporalHead(HeadConfig(dimension=4, categories=CATEGORIES, hidden=10, heads=4))
