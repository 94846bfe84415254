from __future__ import annotations

import io

import media
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import Guard
from guard.video import embedded
from guard.video.embedded import embedded_films

FILM = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42" + b"\x01" * 40


def _plainly(data: bytes) -> int:
    """The same, over the whole content at once."""
    return sum(
        data[i : i + 4] == b"ftyp"
        and 16 <= int.from_bytes(data[i - 4 : i], "big") <= 1024
        and len(data[i + 4 : i + 8]) == 4
        and all(0x20 <= byte < 0x7F for byte in data[i + 4 : i + 8])
        for i in range(5, len(data))
    )


@given(
    st.lists(st.sampled_from([FILM, FILM[:9], b"ftyp", b"\x00\x00", b"\x00" * 7, b"abcd", b"\xff\xd8"]), max_size=12),
    st.integers(12, 40),
)
def test_films_are_found_wherever_the_pieces_are_cut(parts: list[bytes], chunk: int) -> None:
    data = b"".join(parts)
    file = io.BytesIO(data)
    file.seek(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_CHUNK", chunk)
        assert embedded_films(file) == _plainly(data)
    assert file.tell() == 3


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_film_behind_a_picture_is_not_waved_through(extension: str) -> None:
    picture = media.still(extension)
    with Guard.load(policy="screen", workers=1) as guard:
        still, motion = guard.check(picture), guard.check(picture + media.render())
    assert still.coverage is not None
    assert still.coverage.complete
    assert motion.decision not in ("allow", "block")
    assert (motion.error and motion.error.code) or (motion.coverage and motion.coverage.problem) == "too_many_streams"
