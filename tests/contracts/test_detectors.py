"""What every detector promises: each file in `fast_path/detectors` is found and held to it."""

import numpy as np
import pytest

from guard import plugins, taxonomy
from guard.interfaces import Detector
from guard.types import Coverage, Frames, Scores

NAMES = plugins.names("detector")


@pytest.fixture(scope="module", params=NAMES)
def detector(request):
    return plugins.module("detector", request.param).tiny()


def video(detector, *, seed=0, bursts=6, size=(48, 80), short=False):
    """Frames as the sampler gives them: bursts of the length that the detector asked for, or every frame."""
    needs = detector.needs
    length = 1 if short else needs.burst_frames
    count = bursts * length if not needs.every_frame else 40
    images = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    if needs.every_frame:
        ids, times = np.zeros(count, np.int32), np.arange(count) / 25
    else:
        ids = np.repeat(np.arange(bursts, dtype=np.int32), length)
        times = ids * 2.0 + np.tile(np.arange(length), bursts) * needs.burst_spacing_seconds
    coverage = Coverage(
        frames_scored=count, frames_decoded=count, largest_gap_seconds=2.0, full_decode=True,
        decoded_seconds=float(times[-1]), declared_seconds=float(times[-1]), complete=True, sampler="test", seed=0,
    )  # fmt: skip
    return Frames(images=images, pts_seconds=times.astype(np.float64), burst_ids=ids, coverage=coverage)


def same(first: Scores, second: Scores) -> None:
    np.testing.assert_allclose(first.probability, second.probability, atol=1e-5)
    np.testing.assert_allclose(first.per_moment, second.per_moment, atol=1e-5)
    np.testing.assert_array_equal(first.moment_seconds, second.moment_seconds)


def test_there_are_detectors():
    assert {"flash", "open_vocabulary", "probe", "tiny"} <= set(NAMES)


def test_the_protocol_is_met(detector):
    assert isinstance(detector, Detector)
    assert detector.name in NAMES
    assert detector.categories
    assert all(taxonomy.is_known(category) for category in detector.categories)
    assert len(set(detector.categories)) == len(detector.categories)
    assert detector.fingerprint
    needs = detector.needs
    assert needs.side_px > 0
    assert needs.burst_frames >= 1


def test_scores_are_labelled_and_in_range(detector):
    found = detector.score([video(detector, seed=1), video(detector, seed=2)])
    assert len(found) == 2
    for scores in found:
        assert isinstance(scores, Scores)  # which checks shapes, dtypes and the range when made
        assert scores.categories == detector.categories
        assert (scores.detector, scores.fingerprint) == (detector.name, detector.fingerprint)
        assert scores.calibration is None
        assert np.all(np.diff(scores.moment_seconds) > 0)
    assert detector.score([]) == []


def test_moments_lie_within_the_video(detector):
    given = video(detector)
    times = detector.score([given])[0].moment_seconds
    assert len(times) == 0 or (times[0] >= given.pts_seconds[0] and times[-1] <= given.pts_seconds[-1])


def test_batch_equals_single(detector):
    videos = [video(detector, seed=seed, bursts=3 + seed, size=(48, 60 + 8 * seed)) for seed in range(3)]
    for given, together in zip(videos, detector.score(videos), strict=True):
        same(detector.score([given])[0], together)


def test_the_same_video_gives_the_same_scores_and_is_left_alone(detector):
    given = video(detector, seed=3)
    before = given.images.copy()
    same(detector.score([given])[0], detector.score([given])[0])
    np.testing.assert_array_equal(given.images, before)


def cut(given, detector, chunk_bursts):
    """The same video in chunks, as the decoder hands them over: no burst cut, burst ids from 0 in each."""
    every = detector.needs.every_frame
    numbers = np.arange(len(given.pts_seconds)) // 7 if every else given.burst_ids // chunk_bursts
    for number in np.unique(numbers):
        part = numbers == number
        ids = given.burst_ids[part] - given.burst_ids[part][0]
        yield Frames(
            images=given.images[part], pts_seconds=given.pts_seconds[part], burst_ids=ids, coverage=given.coverage
        )


@pytest.mark.parametrize("chunk_bursts", [1, 4])
def test_chunks_equal_the_whole(detector, chunk_bursts):
    given = video(detector, seed=4, bursts=9)
    session, other = detector.begin(), detector.begin()
    for part in cut(given, detector, chunk_bursts):
        session.feed(part)
        other.feed(part)  # sessions side by side do not mix
    same(session.finish(given.coverage), detector.score([given])[0])
    same(other.finish(given.coverage), detector.score([given])[0])


def test_one_frame_is_enough(detector):
    whole = video(detector, bursts=1, short=True)
    still = Frames(
        images=whole.images[:1],
        pts_seconds=whole.pts_seconds[:1],
        burst_ids=whole.burst_ids[:1],
        coverage=whole.coverage,
    )
    detector.score([still])


def test_bursts_shorter_than_asked_are_taken(detector):
    detector.score([video(detector, short=True)])


@pytest.mark.parametrize("level", [0, 255])
def test_blank_videos_are_scored(detector, level):
    given = video(detector)
    blank = Frames(
        images=np.full_like(given.images, level), pts_seconds=given.pts_seconds, burst_ids=given.burst_ids,
        coverage=given.coverage,
    )  # fmt: skip
    detector.score([blank])


def test_a_second_instance_is_the_same(detector):
    again = plugins.module("detector", detector.name).tiny()
    assert (again.fingerprint, again.categories) == (detector.fingerprint, detector.categories)
    given = video(detector, seed=6)
    same(again.score([given])[0], detector.score([given])[0])
