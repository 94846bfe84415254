"""What every reader promises, on clips that carry their frame numbers.

A promise that a reader cannot keep must be a typed refusal.
"""

from __future__ import annotations

import io

import numpy as np
import pytest

from guard import plugins
from guard.errors import GuardError, InputError, MissingExtra, NoVideoStream, TooManyPixels, Undecodable
from guard.interfaces import SamplingNeeds
from guard.limits import Limits
from guard.video.reader import Reader, ReadRequest
from tests import media

REFUSES = {"decord": {"edit list", "gif", "still"}}
"""What a reader says that it cannot do."""


class Kept:
    """A sink that keeps everything."""

    def __init__(self):
        self.images, self.pts, self.bursts = [], [], []

    def frame(self, image, pts_seconds, burst):
        self.images.append(image)
        self.pts.append(pts_seconds)
        self.bursts.append(burst)

    def tick(self, frames_decoded, reached_seconds):
        pass

    def restart(self):
        self.__init__()

    @property
    def numbers(self):
        return [media.frame_number(image) for image in self.images]


@pytest.fixture(scope="module", params=plugins.names("reader"))
def reader(request) -> Reader:
    try:
        return plugins.module("reader", request.param).tiny()
    except (MissingExtra, ModuleNotFoundError) as error:
        pytest.skip(str(error))


def read(reader, clip, **settings):
    kept = Kept()
    needs = settings.pop("needs", SamplingNeeds(every_frame=True))
    result = reader.read(io.BytesIO(clip), ReadRequest(needs=needs, **settings), kept)
    return kept, result


def refused(reader, trouble, clip) -> bool:
    if trouble not in REFUSES.get(reader.name, set()):
        return False
    with pytest.raises(InputError):
        read(reader, clip)
    return True


def test_name_is_the_registry_key(reader):
    assert isinstance(reader, Reader)
    assert reader.name in plugins.names("reader")


def test_every_frame_once_in_order_with_its_time(reader):
    kept, result = read(reader, media.render(frames=40, fps=20, options={"bf": "3"}))
    assert kept.numbers == list(range(40))
    np.testing.assert_allclose(kept.pts, np.arange(40) / 20, atol=2e-3)
    assert (result.coverage.complete, result.coverage.full_decode, result.coverage.problem) == (True, True, None)
    assert result.coverage.frames_scored == result.coverage.frames_decoded == 40
    assert result.media.fps == pytest.approx(20, abs=0.1)
    assert result.media.vfr is False


def test_rgb_and_size(reader):
    kept, result = read(reader, media.render(frames=3))
    assert kept.images[0].shape == (128, 192, 3)
    assert kept.images[0].dtype == np.uint8
    assert media.corner_colours(kept.images[0]) == {"top left": "red", "bottom right": "blue"}
    assert (result.media.width, result.media.height) == (192, 128)


@pytest.mark.parametrize(
    ("degrees", "corners"),
    [
        (90, {"top right": "red", "bottom left": "blue"}),
        (180, {"bottom right": "red", "top left": "blue"}),
        (270, {"bottom left": "red", "top right": "blue"}),
    ],
)
def test_rotation_is_applied(reader, degrees, corners):
    kept, result = read(reader, media.rotated(media.render(frames=3), degrees))
    assert media.corner_colours(kept.images[0]) == corners
    shape = (128, 192, 3) if degrees == 180 else (192, 128, 3)
    assert kept.images[0].shape == shape
    assert (result.media.height, result.media.width) == shape[:2]


def test_variable_frame_rate_keeps_real_times(reader):
    times_ms = [0, 33, 66, 1000, 1033, 1066, 3000, 3033]
    kept, result = read(reader, media.render(frames=8, pts_ms=times_ms, options={"bf": "0"}))
    assert kept.numbers == list(range(8))
    np.testing.assert_allclose(kept.pts, np.array(times_ms) / 1000, atol=2e-3)
    assert result.media.vfr is True


def test_edit_list_hides_what_players_hide(reader):
    clip = media.cut_by_edit_list(media.render(frames=60), 0.5)
    if refused(reader, "edit list", clip):
        return
    kept, _ = read(reader, clip)
    assert kept.numbers == list(range(15, 60))
    np.testing.assert_allclose(kept.pts, np.arange(45) / 30, atol=2e-3)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"size": (97, 131), "pix_fmt": "yuv444p"}, (173, 128, 3)),
        ({"pix_fmt": "yuv420p10le"}, (128, 192, 3)),
        ({"size": (64, 48), "codec": "mpeg4"}, (128, 171, 3)),
        ({"size": (320, 32)}, (128, 256, 3)),
        ({"codec": "libvpx-vp9", "container": "webm", "options": {"deadline": "realtime"}}, (128, 192, 3)),
        ({"options": {"g": "250", "x264opts": "open-gop=1:bframes=3"}}, (128, 192, 3)),
    ],
    ids=["odd size", "10 bit", "enlarged", "squashed", "vp9", "open gop"],
)
def test_formats(reader, settings, shape):
    kept, _ = read(reader, media.render(frames=12, **settings))
    assert kept.images[0].shape == shape
    assert kept.numbers == list(range(12))


def test_gif(reader):
    if refused(reader, "gif", media.gif()):
        return
    kept, _ = read(reader, media.gif())
    assert kept.numbers == list(range(6))
    np.testing.assert_allclose(kept.pts, np.arange(6) / 10, atol=2e-3)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp"])
def test_a_still_is_one_frame(reader, extension):
    clip = media.still(extension)
    if refused(reader, "still", clip):
        return
    kept, result = read(reader, clip, needs=SamplingNeeds(burst_frames=4))
    assert kept.numbers == [5]
    assert result.media.fps is None
    assert result.coverage.largest_gap_seconds == 0


def test_sampling_keeps_the_gap_and_the_real_times(reader):
    clip = media.render(frames=240, options={"g": "250", "bf": "3"})
    kept, result = read(reader, clip, needs=SamplingNeeds(burst_frames=2), seed=7)
    assert result.coverage.complete
    assert 0 < result.coverage.largest_gap_seconds <= 2.0
    assert len(kept.pts) < 120
    assert kept.numbers == [round(seconds * 30) for seconds in kept.pts]  # each picture belongs to its time
    again, _ = read(reader, clip, needs=SamplingNeeds(burst_frames=2), seed=7)
    other, _ = read(reader, clip, needs=SamplingNeeds(burst_frames=2), seed=8)
    assert again.pts == kept.pts
    assert other.pts != kept.pts


def test_nearest_frames_to_times(reader):
    kept, _ = read(reader, media.render(frames=60), task="times", times_seconds=(0.0, 0.51, 0.52, 1.2, 99.0))
    assert kept.numbers == [0, 15, 16, 36, 59]
    assert kept.bursts == sorted(kept.bursts)


def test_second_video_track_makes_it_incomplete(reader):
    _, result = read(reader, media.render(frames=5, tracks=2))
    assert not result.coverage.complete
    assert result.coverage.problem == "too_many_streams"


@pytest.mark.parametrize("clip", [media.audio_only, media.cover_only], ids=["audio", "cover"])
def test_no_moving_picture(reader, clip):
    with pytest.raises(NoVideoStream):
        read(reader, clip())


@pytest.mark.parametrize("clip", [b"\0" * 4096, b"\x1aE\xdf\xa3" + b"\x80" * 999], ids=["zeros", "broken mkv"])
def test_rubbish(reader, clip):
    with pytest.raises(InputError):
        read(reader, clip)


def test_truncated_file_gives_its_frames_and_says_so(reader):
    whole = media.render(frames=120, container="matroska", options={"g": "30"}, draw=_noise)
    try:
        kept, result = read(reader, whole[: len(whole) // 2])
    except Undecodable:
        assert reader.name != "pyav"
        return
    assert 20 < len(kept.pts) < 100
    assert not result.coverage.complete
    assert result.coverage.problem in ("truncated", "undecodable")


def test_frames_over_the_pixel_limit(reader):
    with pytest.raises(TooManyPixels):
        read(reader, media.render(frames=3), limits=Limits(max_side_px=100))


def test_errors_are_typed_and_say_why(reader):
    with pytest.raises(GuardError) as caught:
        read(reader, media.audio_only())
    assert "audio" in caught.value.message


def _noise(number):
    rng = np.random.default_rng(number)
    return rng.integers(0, 255, (128, 192, 3), dtype=np.uint8)
