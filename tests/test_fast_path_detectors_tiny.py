import numpy as np
import pytest

from fast_path.detectors import tiny
from guard.interfaces import Detector
from guard.types import Coverage, Frames

COVERAGE = Coverage(
    frames_scored=1,
    frames_decoded=1,
    largest_gap_seconds=0.0,
    full_decode=True,
    decoded_seconds=1.0,
    declared_seconds=1.0,
    complete=True,
    sampler="test",
    seed=0,
)


def frames(lengths, spacing=0.12, seed=0):
    ids = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    places = np.concatenate([np.arange(n) * spacing + 2.0 * i for i, n in enumerate(lengths)])
    images = np.random.default_rng(seed).integers(0, 256, (len(ids), 96, 128, 3), dtype=np.uint8)
    return Frames(images=images, pts_seconds=places, burst_ids=ids, coverage=COVERAGE)


@pytest.fixture(scope="module")
def detector():
    return tiny.build(tiny.Config())


def test_it_keeps_the_protocol(detector):
    assert isinstance(detector, Detector)
    assert detector.needs.burst_frames == detector.encoder.clip_frames > 1
    assert detector.fingerprint == tiny.build(tiny.Config()).fingerprint != tiny.tiny().fingerprint
    assert set(detector.categories) >= {"violence.fighting", "illegal.fire", "accidents.road"}


def test_one_moment_per_burst_and_a_batch_is_its_parts(detector):
    videos = [frames([4, 4, 4]), frames([4], seed=1), frames([4] * 9, seed=2)]
    together = detector.score(videos)
    for video, scores in zip(videos, together, strict=True):
        alone = detector.score([video])[0]
        assert len(scores.moment_seconds) == int(video.burst_ids[-1]) + 1
        np.testing.assert_allclose(scores.probability, alone.probability, atol=1e-6)
        np.testing.assert_allclose(scores.per_moment, alone.per_moment, atol=1e-6)


@pytest.mark.parametrize("lengths", [[1], [2, 1], [6, 6], [3, 4, 1]])
def test_bursts_of_any_length_are_taken(detector, lengths):
    scores = detector.score([frames(lengths)])[0]
    assert len(scores.moment_seconds) == len(lengths)


def test_short_bursts_repeat_their_last_frame_and_long_ones_are_cut():
    sampled = frames([2, 6])
    clips, seconds = tiny.clips_of(sampled, 4)
    np.testing.assert_array_equal(clips[0], sampled.images[[0, 1, 1, 1]])
    np.testing.assert_array_equal(clips[1], sampled.images[2:6])
    np.testing.assert_allclose(seconds, [0.06, 2.18])
