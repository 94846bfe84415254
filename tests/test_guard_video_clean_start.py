"""Where decoding may start: a key flag, and even a recovery point, is not enough."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
import pytest

from guard.interfaces import SamplingNeeds
from guard.video.clean_start import CleanStart
from guard.video.reader import ReadRequest
from guard.video.readers import pyav
from guard.video.sampling import SamplingConfig

RECOVERY_POINT = bytes.fromhex("00000001" + "0606" + "01" + "c4" + "80")
"""An SEI message: a recovery point that is complete at once and exact."""
FPS = 30


class Kept:
    def __init__(self) -> None:
        self.images: dict[float, np.ndarray] = {}
        self.restarts = 0

    def frame(self, image: np.ndarray, pts_seconds: float, burst: int) -> None:
        self.images[round(pts_seconds, 4)] = image

    def tick(self, frames_decoded: int, reached_seconds: float) -> None:
        pass

    def restart(self) -> None:
        self.images = {}
        self.restarts += 1


def read(clip: bytes, **needs: object) -> tuple[Kept, int]:
    kept = Kept()
    sampling = SamplingConfig(max_gap_seconds=2.0, max_extra_bursts=0)
    request = ReadRequest(needs=SamplingNeeds(side_px=64, **needs), sampling=sampling)  # type: ignore[arg-type]
    return kept, pyav.tiny().read(io.BytesIO(clip), request, kept).coverage.frames_decoded


def blocks(seed: int, low: int, high: int, height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(low, high, (height // 4, width // 4, 3), dtype=np.uint8)
    return small.repeat(4, 0).repeat(4, 1)


def picture(number: int) -> np.ndarray:
    """A patch that is always there, but for the first frame of each scene: the next one takes it from before that."""
    scene, place = divmod(number + 30, 60)
    image = blocks(100 + scene, 140, 255, 64, 96)
    image[16:48, 32:64] = 128 if place == 0 else blocks(8, 0, 255, 32, 32)
    return image


def units(data: bytes) -> Iterator[bytes]:
    parts = data.split(b"\x00\x00\x01")[1:]
    yield from parts


def is_plain_intra(data: bytes) -> bool:
    """Whether all slices are I slices of a frame that is no IDR."""
    found = []
    for unit in units(data):
        if unit[0] & 31 in range(1, 6):
            bits = "".join(f"{byte:08b}" for byte in unit[1:8])[1:]  # first_mb_in_slice is 0: a single 1
            zeros = len(bits) - len(bits.lstrip("0"))
            kind = int(bits[zeros : 2 * zeros + 1], 2) - 1
            found.append(unit[0] & 31 == 1 and kind % 5 == 2)
    return bool(found) and all(found)


@pytest.fixture(scope="module")
def clip() -> bytes:
    """H.264 in MP4 whose cuts are plain I frames, each called a key frame and given a recovery point message."""
    buffer = io.BytesIO()
    options = {"threads": "1", "g": "6000", "keyint_min": "6000", "sc_threshold": "100", "bf": "0", "refs": "4"}
    marked = 0
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=FPS, options=options | {"qp": "10", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in [*range(600), None]:
            frame = None
            if number is not None:
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p")
            for packet in stream.encode(frame):
                content = bytes(packet)
                if is_plain_intra(content):
                    forged = av.Packet(RECOVERY_POINT + content)
                    for name in ("pts", "dts", "time_base", "stream", "duration"):
                        setattr(forged, name, getattr(packet, name))
                    forged.is_keyframe = True
                    packet, marked = forged, marked + 1
                out.mux(packet)
    assert marked, "the encoder made no plain I frame: the attack is not there"
    return buffer.getvalue()


def worst(kept: Kept, exact: Kept) -> float:
    return max(float(np.abs(i.astype(int) - exact.images[t].astype(int)).mean()) for t, i in kept.images.items())


def test_an_i_frame_with_a_recovery_point_is_no_place_to_start(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, _ = read(clip, every_frame=True)
    kept, _ = read(clip, min_bursts=1)
    assert worst(kept, exact) < 0.5
    monkeypatch.setattr(CleanStart, "accepts", lambda self, data: True)
    fooled, decoded = read(clip, min_bursts=1)
    assert decoded < 600, "the attack must be one: without the check the reader jumps"
    assert fooled.restarts == 0, "and the decoder reports nothing"
    assert worst(fooled, exact) > 5


def nal(*kinds: int, prefixed: bool, hevc: bool = False) -> bytes:
    heads = [bytes([kind << 1, 1]) if hevc else bytes([0x60 | kind]) for kind in kinds]
    bodies = [head + b"\x88\x84" for head in heads]
    return b"".join((len(b).to_bytes(4, "big") if prefixed else b"\x00\x00\x01") + b for b in bodies)


AVCC, HVCC = b"\x01d\x00\x1f\xff" + b"\xe1", b"\x01" + bytes(20) + b"\x03\x00"


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize(
    ("codec", "kinds", "clean"),
    [
        ("h264", (7, 8, 5, 5), True),
        ("h264", (6, 1), False),
        ("h264", (5, 1), False),
        ("h264", (7, 8), False),
        ("hevc", (32, 33, 34, 19), True),
        ("hevc", (20,), True),
        ("hevc", (21,), False),
        ("hevc", (16,), False),
        ("hevc", (19, 1), False),
    ],
)
def test_only_idr_frames_empty_the_decoder(codec: str, kinds: tuple[int, ...], clean: bool, prefixed: bool) -> None:
    extradata = {"h264": AVCC, "hevc": HVCC}[codec] if prefixed else b"\x00\x00\x01g"
    judge = CleanStart.of(codec, extradata)
    assert judge.length_bytes == (4 if prefixed else 0)
    assert judge.accepts(nal(*kinds, prefixed=prefixed, hevc=codec == "hevc")) is clean


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x01", b"\xff" * 9, b"\x00\x00\x00\x00" * 3])
@pytest.mark.parametrize("extradata", [None, AVCC])
def test_what_is_no_picture_is_no_start(data: bytes, extradata: bytes | None) -> None:
    assert not CleanStart.of("h264", extradata).accepts(data)
    assert CleanStart.of("vp9", None).accepts(data), "left to the decoder"
