import cv2
import numpy as np
import pytest
import torch

from fast_path import checkpoint, motion
from fast_path.encoders import tiny
from guard.errors import InvalidConfig


def texture(height=128, width=192, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def moving_square(frames=4, step=4, background=None):
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
    clips = np.stack([moving_square(), moving_square(step=0), np.stack([texture(seed=4)] * 4)])
    together = encoder.embed(clips)
    assert together.shape == (3, encoder.dimension)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, encoder.embed(clips))
    single = np.concatenate([encoder.embed(clip[None]) for clip in clips])
    np.testing.assert_allclose(together, single, atol=1e-5)


def test_no_clips_no_embeddings(encoder):
    assert encoder.embed(np.zeros((0, encoder.clip_frames, 32, 32, 3), np.uint8)).shape == (0, encoder.dimension)


@pytest.mark.parametrize("shape", [(1, 2, 96, 96, 3), (1, 4, 96, 96, 1), (4, 96, 96, 3)])
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
