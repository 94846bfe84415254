"""Reader on decord: for comparison, and for installations that trained on its pixels.

decord 0.6.0 is unmaintained since 2022 and carries an FFmpeg of that time; it can wait forever on containers that
promise more frames than they hold, which the sandbox ends. It reads the whole file into memory. Edit lists, GIF and
stills are refused: it misplaces the former and does not open the latter.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from guard.errors import Undecodable
from guard.interfaces import SamplingNeeds
from guard.types import UInt8Array
from guard.video.indexed import PixelSource, read_indexed
from guard.video.reader import Reader, ReadRequest, ReadResult, Sink
from guard.video.warm import NoSink, warm_clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the decord reader: none."""


def build(config: Config) -> Reader:
    """Return the reader, warmed.

    Raises `ModuleNotFoundError` (a `MissingExtra` through `guard.plugins`) without decord.
    """
    del config
    import cv2  # noqa: F401  (the locked process could not load it later)
    import decord  # noqa: F401

    reader = DecordReader()
    reader.read(io.BytesIO(warm_clip()), ReadRequest(needs=SamplingNeeds(side_px=16)), NoSink())
    return reader


def tiny() -> Reader:
    """Return the reader: it has no size."""
    return build(Config())


class DecordReader:
    """Decodes with decord."""

    name = "decord"

    def read(self, file: BinaryIO, request: ReadRequest, sink: Sink) -> ReadResult:
        """Decode what is asked for."""
        return read_indexed(self.name, file, request, sink, _Source.open)


class _Source:
    def __init__(self, video: Any) -> None:
        self._video = video

    @classmethod
    def open(cls, file: BinaryIO, frame_count: int) -> PixelSource:
        import decord

        try:
            video = decord.VideoReader(io.BytesIO(file.read()), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise Undecodable(f"decord cannot open the file: {str(error).splitlines()[0][:120]}.") from None
        if len(video) != frame_count:
            raise Undecodable(
                f"decord counts {len(video)} frames, the container shows {frame_count}; read it with pyav."
            )
        return cls(video)

    def frames(self, indexes: Sequence[int]) -> Iterator[tuple[UInt8Array | None, float]]:
        import decord

        wanted = set(indexes)
        stamps = self._video.get_frame_timestamp(range(len(self._video)))[:, 0]
        if stamps[0] < 0:  # it hands over frame 15 as frame 0 of a film cut by half a second, and counts on to the end
            raise Undecodable("decord misplaces the frames of a file with an edit list; read it with pyav.")
        for index in range(max(wanted) + 1):
            if index not in wanted:
                yield None, float(stamps[index])
                continue
            try:
                image = self._video[index].asnumpy()
            except (decord.DECORDError, RuntimeError) as error:
                raise Undecodable(f"decord stopped at frame {index}: {str(error).splitlines()[0][:120]}.") from None
            yield image, float(stamps[index])
