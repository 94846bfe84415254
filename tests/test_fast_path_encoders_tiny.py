import cv2
import numpy as np
import pytest
import torch

from fast_path import checkpoint, motion
from fast_path.encoders import tiny
from fast_path.motion_statistics import COUNT, statistics
from guard.errors import InvalidConfig


def texture(height=128, width=192, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def moving_square(frames=3, step=4, background=None):
    picture = texture() // 3 if background is None else background
    patch = texture(40, 40, seed=9)
    clip = np.stack([picture] * frames)
    for index in range(frames):
        x = 60 + step * index
        clip[index, 50:90, x : x + 40] = patch
    return clip


@pytest.fixture(scope="module")
def encoder():
    return tiny.tiny()


def test_batch_equals_single_and_is_deterministic(encoder):
    clips = np.stack([moving_square(), moving_square(step=0), np.stack([texture(seed=4)] * 3)])
    together = encoder.embed(clips)
    assert together.shape == (3, encoder.dimension)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, encoder.embed(clips))
    single = np.concatenate([encoder.embed(clip[None]) for clip in clips])
    np.testing.assert_allclose(together, single, atol=1e-5)


def test_no_clips_no_embeddings(encoder):
    assert encoder.embed(np.zeros((0, encoder.clip_frames, 32, 32, 3), np.uint8)).shape == (0, encoder.dimension)


@pytest.mark.parametrize("shape", [(1, 2, 96, 96, 3), (1, 3, 96, 96, 1), (4, 96, 96, 3)])
def test_wrong_shapes_are_refused(encoder, shape):
    with pytest.raises(ValueError, match="clips"):
        encoder.embed(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("size", [(96, 170), (144, 144), (228, 128), (17, 40)])
def test_any_size_is_taken(encoder, size):
    clips = np.random.default_rng(0).integers(0, 256, (2, encoder.clip_frames, *size, 3), dtype=np.uint8)
    assert np.isfinite(encoder.embed(clips)).all()


@pytest.mark.parametrize("level", [0, 255])
def test_blank_pictures_give_finite_values(encoder, level):
    assert np.isfinite(encoder.embed(np.full((1, encoder.clip_frames, 96, 128, 3), level, np.uint8))).all()


def test_black_borders_are_cut_off():
    clip = moving_square()
    bordered = np.pad(clip, ((0, 0), (20, 24), (16, 8), (0, 0)))
    assert motion.content_box(bordered) == (20, 20 + 128, 16, 16 + 192)
    np.testing.assert_allclose(motion.motion_maps(bordered), motion.motion_maps(clip), atol=1e-2)


def speeds(view):
    return np.hypot(view[0].astype(float), view[1].astype(float))


def test_what_moves_on_its_own_stays():
    own = speeds(motion.motion_maps(moving_square())[0])
    assert own[6:12].max() > 1.0  # the square: 4 px at 128 are 2 px at 64
    assert np.median(own) < 0.1


def test_the_camera_is_taken_out():
    wide = cv2.GaussianBlur(texture(128, 240), (0, 0), 2)
    panned = np.stack([wide[:, 4 * index : 4 * index + 192] for index in range(4)])
    assert np.median(speeds(motion.motion_maps(panned)[0])) < 0.3


def test_the_window_of_motion_closes_in_on_what_moves():
    energy = np.zeros(motion.GRID)
    assert motion.motion_window(energy) == (0, 0, *motion.GRID)
    assert motion.motion_window(energy + 1) == (0, 0, *motion.GRID)
    energy[4:6, 10:12] = 1
    row, column, rows, columns = motion.motion_window(energy)
    assert (rows, columns) == (7, 10)
    assert row <= 4 < 6 <= row + rows
    assert column <= 10 < 12 <= column + columns


def test_far_and_near_look_more_alike_in_the_window():
    far = np.stack([texture() // 3] * 4)
    patch = texture(14, 14, seed=9)
    for index in range(4):
        far[index, 60:74, 90 + 2 * index : 104 + 2 * index] = patch
    whole, window = motion.motion_maps(far)
    fastest = [speeds(view).max() for view in (whole, window)]
    assert fastest[1] > 1.8 * fastest[0]


def test_statistics_are_finite_and_follow_speed():
    maps = np.stack([motion.motion_maps(moving_square(step=step)) for step in (0, 2, 6)])
    network = tiny.tiny().network
    found = statistics(*network.parts(torch.from_numpy(maps).float())).reshape(3, 2, COUNT)
    assert torch.isfinite(found).all()
    assert found[0, 0, 4] < found[1, 0, 4] < found[2, 0, 4]  # the fastest hundredth


def test_a_blind_encoder_sees_no_motion():
    blind = tiny.build(tiny.Config(untrained_seed=0, width=8, blind_to_motion=True))
    clip = moving_square()
    shaken = clip[[2, 1, 0]]  # the same middle picture among others
    np.testing.assert_allclose(blind.embed(clip[None]), blind.embed(shaken[None]), atol=1e-3)


def test_a_dark_scene_is_left_whole():
    assert motion.content_box(np.full((4, 50, 60, 3), 10, np.uint8)) == (0, 50, 0, 60)


def test_a_fresh_network_is_the_same_for_the_same_seed_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (tiny.build(tiny.Config(untrained_seed=3, width=16)) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != tiny.build(tiny.Config(untrained_seed=4, width=16)).fingerprint
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_shipped_weights_load_and_are_small():
    encoder = tiny.build(tiny.Config())
    size = len((checkpoint.resources.files("fast_path") / "weights" / "tiny" / checkpoint.WEIGHTS).read_bytes())
    assert size < 4_000_000
    assert encoder.embed(moving_square(encoder.clip_frames)[None]).shape == (1, encoder.dimension)


def test_a_missing_or_damaged_checkpoint_is_a_typed_error(tmp_path):
    with pytest.raises(InvalidConfig):
        tiny.build(tiny.Config(weights=tmp_path))
    (tmp_path / checkpoint.WEIGHTS).write_bytes(b"junk")
    (tmp_path / checkpoint.CONFIG).write_text("{}")
    with pytest.raises(InvalidConfig):
        tiny.build(tiny.Config(weights=tmp_path))
