"""What every encoder promises, whoever wrote it: each file in `fast_path/encoders` is found and held to it."""

import numpy as np
import pytest

from fast_path.interfaces import Encoder, TrainableEncoder
from guard import plugins

NAMES = plugins.names("encoder")


@pytest.fixture(scope="module", params=NAMES)
def encoder(request):
    return plugins.module("encoder", request.param).tiny()


def clips(encoder, count, size=(40, 68), seed=0):
    shape = (count, encoder.clip_frames, *size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_there_are_encoders():
    assert {"tiny", "siglip", "videomae", "vlm_probe"} <= set(NAMES)


def test_the_protocol_is_met(encoder):
    assert isinstance(encoder, Encoder)
    assert encoder.dimension > 0
    assert encoder.clip_frames >= 1
    assert encoder.clip_spacing_seconds > 0
    assert encoder.input_side_px > 0
    assert encoder.fingerprint


def test_one_finite_float32_row_per_clip(encoder):
    embedded = encoder.embed(clips(encoder, 5))
    assert (embedded.shape, embedded.dtype) == ((5, encoder.dimension), np.float32)
    assert np.isfinite(embedded).all()
    assert encoder.embed(clips(encoder, 0)).shape == (0, encoder.dimension)


def test_different_clips_differ(encoder):
    embedded = encoder.embed(clips(encoder, 3))
    assert np.abs(embedded[0] - embedded[1]).max() > 1e-4


def test_batch_equals_single(encoder):
    given = clips(encoder, 5, seed=1)
    together = encoder.embed(given)
    for index in range(len(given)):
        np.testing.assert_allclose(encoder.embed(given[index : index + 1])[0], together[index], atol=1e-5, rtol=1e-4)


def test_order_of_the_batch_does_not_matter(encoder):
    given = clips(encoder, 4, seed=2)
    np.testing.assert_allclose(encoder.embed(given[::-1]), encoder.embed(given)[::-1], atol=1e-5, rtol=1e-4)


def test_the_same_clips_give_the_same_numbers(encoder):
    given = clips(encoder, 3, seed=3)
    before = given.copy()
    np.testing.assert_array_equal(encoder.embed(given), encoder.embed(given))
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("size", [(64, 64), (72, 40), (17, 90)])
def test_any_shape_of_frame_is_taken(encoder, size):
    assert np.isfinite(encoder.embed(clips(encoder, 2, size))).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda e: clips(e, 2).astype(np.float32),
        lambda e: clips(e, 2)[..., :1],
        lambda e: clips(e, 2)[0],
        lambda e: np.repeat(clips(e, 2), 2, axis=1),
    ],
    ids=["dtype", "channels", "no batch", "frames"],
)
def test_other_arrays_are_refused(encoder, wrong):
    with pytest.raises(ValueError, match="clips"):
        encoder.embed(wrong(encoder))


def test_a_second_instance_is_the_same(encoder):
    name = next(name for name in NAMES if plugins.module("encoder", name).Encoder is type(encoder))
    again = plugins.module("encoder", name).tiny()
    assert again.fingerprint == encoder.fingerprint
    given = clips(encoder, 2, seed=4)
    np.testing.assert_array_equal(again.embed(given), encoder.embed(given))


def test_training_sees_what_scoring_sees(encoder):
    """`embed(x) == network(prepare(x))`, of encoders that a head can be trained on."""
    import torch

    if not isinstance(encoder, TrainableEncoder):
        pytest.fail("every encoder of the package can be trained upon")
    given = clips(encoder, 3, seed=5)
    prepared = torch.from_numpy(np.asarray(encoder.prepare(given), np.float32))
    with torch.inference_mode():
        passed = encoder.network(prepared).numpy()
    np.testing.assert_allclose(passed, encoder.embed(given), atol=1e-4, rtol=1e-3)
    changed = encoder.augment(prepared, np.random.default_rng(0))
    assert changed.shape == prepared.shape
