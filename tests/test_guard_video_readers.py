"""What the default reader does beyond the contract: thrift, honesty about holes, and distrust of key frames."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from guard.errors import DecoderMemory, TooLong, TooManyFrames, TooManyStreams
from guard.interfaces import SamplingNeeds
from guard.limits import Limits
from guard.video.reader import BudgetSpent, ReadRequest
from guard.video.readers import pyav
from guard.video.sampling import SamplingConfig
from tests import media


class Kept:
    """A sink that keeps frames, and may run out of time after some ticks."""

    def __init__(self, ticks=10**9):
        self.images, self.pts, self.bursts, self.restarts, self.ticks = [], [], [], 0, ticks

    def frame(self, image, pts_seconds, burst):
        self.images.append(image)
        self.pts.append(pts_seconds)
        self.bursts.append(burst)

    def tick(self, frames_decoded, reached_seconds):
        self.ticks -= 1
        if self.ticks < 0:
            raise BudgetSpent

    def restart(self):
        self.images, self.pts, self.bursts = [], [], []
        self.restarts += 1


@pytest.fixture(scope="module")
def reader():
    return pyav.tiny()


def read(reader, clip, sink=None, **settings):
    sink = sink or Kept()
    request = ReadRequest(**({"needs": SamplingNeeds(min_bursts=1)} | settings))
    return sink, reader.read(io.BytesIO(clip), request, sink)


def noise(number):
    return np.random.default_rng(number).integers(0, 255, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def long_clip():
    return media.render(frames=600, size=(96, 64), options={"g": "60", "keyint_min": "60", "sc_threshold": "0"})


@pytest.mark.parametrize("gop", ["1", "15", "60", "600"])
@pytest.mark.parametrize("mode", ["jitter", "keyframe"])
def test_the_gap_holds_whatever_the_key_frames(reader, gop, mode):
    clip = media.render(frames=450, size=(96, 64), options={"g": gop, "bf": "3"})
    for gap in (0.5, 2.0):
        _, result = read(reader, clip, sampling=SamplingConfig(max_gap_seconds=gap, mode=mode))
        assert result.coverage.complete
        assert 0 < result.coverage.largest_gap_seconds <= gap


def test_frames_between_samples_are_not_decoded(reader, long_clip):
    settings = {"sampling": SamplingConfig(mode="keyframe", max_extra_bursts=0)}
    kept, result = read(reader, long_clip, **settings)
    assert result.coverage.frames_decoded < 60  # of 600: a reorder delay at each of the ten key frames
    assert not result.coverage.full_decode
    assert [media.frame_number(image) for image in kept.images] == [round(t * 30) % 256 for t in kept.pts]


def test_a_file_too_large_to_keep_is_read_twice_with_the_same_result(reader, long_clip):
    small, _ = read(reader, long_clip)
    large, _ = read(pyav.build(pyav.Config(keep_packet_bytes=100)), long_clip)
    assert large.pts == small.pts
    np.testing.assert_array_equal(large.images, small.images)


def test_a_cut_to_another_scene_is_looked_at(reader):
    def draw(number):
        return np.full((64, 96, 3), 230 if 40 <= number < 46 else 20, dtype=np.uint8)

    clip = media.render(frames=300, size=(96, 64), draw=draw, options={"g": "300", "bf": "0", "sc_threshold": "0"})
    for seed in range(5):
        kept, _ = read(reader, clip, seed=seed)
        assert any(image.mean() > 150 for image in kept.images)
        blind, _ = read(reader, clip, seed=seed, sampling=SamplingConfig(max_extra_bursts=0))
        assert len(blind.pts) < len(kept.pts)


def test_key_frames_that_are_none_cost_a_second_pass_not_a_hole(reader):
    clip = media.render(frames=300, size=(96, 64), container="matroska", draw=noise, options={"g": "300", "bf": "0"})
    kept, result = read(reader, _all_simple_blocks_key(clip), seed=3)
    assert kept.restarts <= 1
    assert result.coverage.largest_gap_seconds <= 2.0 or not result.coverage.complete


@pytest.mark.parametrize(("codec", "container"), [("mpeg4", "mp4"), ("flv", "flv"), ("wmv2", "asf")])
def test_false_key_frames_cannot_paint_over_what_is_shown(reader, codec, container):
    def draw(number):  # dark for a second, then bright, with something that moves
        image = np.full((64, 96, 3), 20 if number < 30 else 230, dtype=np.uint8)
        image[20:30, number % 80 : number % 80 + 10] = 128
        return image

    options = {"g": "600", "sc_threshold": "1000000000"}
    plain = media.render(frames=600, size=(96, 64), codec=codec, container=container, draw=draw, options=options)
    clip = _all_key(plain, container)
    kept, result = read(reader, clip, needs=SamplingNeeds(burst_frames=4), sampling=SamplingConfig(seed=1))
    assert kept.restarts == 1, "a jump to a frame that needs others is found out, and all is decoded"
    assert all(image.mean() > 180 for image, seconds in zip(kept.images, kept.pts, strict=True) if seconds > 1.1)
    assert result.coverage.frames_decoded > 500
    chosen, _ = read(reader, clip, task="times", times_seconds=(5.0, 12.0))
    assert [image.mean() > 180 for image in chosen.images] == [True, True], (
        "nor over the pictures that others are shown"
    )


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "mpeg2video", "libvpx-vp9", "mjpeg"])
def test_true_key_frames_are_jumped_to(reader, codec):
    options = {
        "g": "30",
        "forced-idr": "1",
        "x265-params": "keyint=30:open-gop=0:log-level=none",
        "deadline": "realtime",
    }
    kinds = {"libx265": ("g", "x265-params"), "libvpx-vp9": ("g", "deadline")}.get(codec, ("g",))
    form = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = media.render(
        frames=600,
        size=(96, 64),
        codec=codec,
        container="matroska",
        pix_fmt=form,
        options={k: options[k] for k in kinds},
    )
    kept, result = read(reader, clip, needs=SamplingNeeds(min_bursts=1))
    assert kept.restarts == 0
    assert result.coverage.complete
    assert result.coverage.frames_decoded < 600


def test_every_frame_called_disposable_cannot_hide_anything(reader):
    plain = {"g": "300", "bf": "0", "sc_threshold": "0"}
    clip = _without_references(media.render(frames=300, size=(96, 64), options=plain))
    kept, result = read(reader, clip)
    assert kept.restarts == 1  # the thrifty pass saw nothing but key frames
    assert result.coverage.largest_gap_seconds <= 2.0 or not result.coverage.complete
    assert result.coverage.frames_scored > 3


@pytest.mark.parametrize("burst_frames", [1, 4])
def test_what_is_shown_in_disposable_frames_only_is_seen(reader, burst_frames):
    def draw(number):  # dark in the frames that others refer to, bright in the 15 of 16 that can be left out
        return np.full((64, 96, 3), 20 if number % 16 == 0 else 230, dtype=np.uint8)

    fixed = {"bf": "15", "b-pyramid": "none", "b-adapt": "0", "sc_threshold": "0", "g": "600", "weightp": "0"}
    clip = media.render(frames=600, size=(96, 64), draw=draw, options=fixed)
    kept, result = read(reader, clip, needs=SamplingNeeds(burst_frames=burst_frames), sampling=SamplingConfig(seed=1))
    bright = np.mean([image.mean() > 128 for image in kept.images])
    assert bright > 0.4, "15 of 16 frames are bright; extra bursts after a change may add dark ones"
    assert not result.coverage.full_decode, "seen without decoding everything"


def test_time_running_out_keeps_what_there_is(reader, long_clip):
    kept, result = read(reader, long_clip, Kept(ticks=700))
    assert 0 < len(kept.pts) < 10
    assert not result.coverage.complete
    assert result.coverage.problem == "decode_timeout"
    assert result.coverage.decoded_seconds < 19


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (Limits(max_seconds=5), TooLong),
        (Limits(max_frames=100), TooManyFrames),
    ],
)
def test_bounds_hold_for_what_is_there(reader, long_clip, limits, error):
    with pytest.raises(error):
        read(reader, long_clip, limits=limits)


def test_too_many_streams(reader):
    with pytest.raises(TooManyStreams):
        read(reader, media.render(frames=2, tracks=4), limits=Limits(max_streams=2))


def test_a_declared_length_far_beyond_the_content_is_incomplete(reader):
    clip = media.render(frames=60, audio_seconds=0)
    at = clip.index(b"mdhd") + 4 + 16
    lie = clip[:at] + (int.from_bytes(clip[at : at + 4]) * 5).to_bytes(4) + clip[at + 4 :]
    _, result = read(reader, lie)
    assert result.coverage.declared_seconds is not None
    if result.coverage.declared_seconds > 5:
        assert result.coverage.problem == "truncated"


def test_sound_longer_than_the_picture_is_no_truncation(reader):
    _, result = read(reader, media.render(frames=30, container="matroska", audio_seconds=3.0))
    assert result.coverage.complete


def test_bad_metadata_does_not_hide_a_video(reader):
    clip = bytearray(media.render(frames=5, container="matroska"))
    at = clip.index(b"ENCODER")
    clip[at : at + 7] = b"\xff\xfe\xb1NCOD"
    kept, _ = read(reader, bytes(clip), needs=SamplingNeeds(every_frame=True))
    assert len(kept.pts) == 5


def test_memory_error_is_not_swallowed(reader, long_clip):
    class Full(Kept):
        def frame(self, image, pts_seconds, burst):
            raise MemoryError

    with pytest.raises(MemoryError):
        read(reader, long_clip, Full())
    assert DecoderMemory.code == "decoder_memory"


def _all_simple_blocks_key(clip: bytes) -> bytes:
    """Return the matroska file with the key flag set on every SimpleBlock of track 1."""
    out, at = bytearray(clip), 0
    while (at := out.find(b"\xa3", at)) != -1:
        for length_bytes in (1, 2, 3, 4):
            lead = out[at + 1] if at + 1 < len(out) else 0
            if lead >> (8 - length_bytes) == 1 and out[at + 1 + length_bytes : at + 2 + length_bytes] == b"\x81":
                flags = at + 1 + length_bytes + 3
                if flags < len(out) and out[flags] == 0:
                    out[flags] = 0x80
        at += 1
    return bytes(out)


def _all_key(clip: bytes, container: str) -> bytes:
    """Return the clip in another container that calls every packet a key frame."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(clip)) as source, av.open(buffer, "w", format=container) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream, packet.is_keyframe = stream, True
                out.mux(packet)
    return buffer.getvalue()


def _without_references(clip: bytes) -> bytes:
    """Return the mp4 with nal_ref_idc 0 on every slice that is not a key frame's."""
    out = bytearray(clip)
    start = clip.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(clip[start - 8 : start - 4])
    while start < end:
        size = int.from_bytes(out[start : start + 4])
        if out[start + 4] & 0x1F == 1:
            out[start + 4] &= 0x9F
        start += 4 + size
    return bytes(out)
