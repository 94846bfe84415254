"""Reader on OpenCV's FFmpeg: every frame up to the last wanted one is decoded, wanted ones are converted.

OpenCV's seeking by number is wrong for many files, so this reader never seeks. Its clock is checked frame by frame
against the container's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from guard.errors import Undecodable
from guard.interfaces import SamplingNeeds
from guard.types import UInt8Array
from guard.video.indexed import PixelSource, read_indexed
from guard.video.reader import Reader, ReadRequest, ReadResult, Sink
from guard.video.warm import NoSink, warm_clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the OpenCV reader: none."""


def build(config: Config) -> Reader:
    """Return the reader, warmed."""
    del config
    import cv2

    cv2.setNumThreads(1)
    reader = OpenCVReader()
    reader.read(io.BytesIO(warm_clip()), ReadRequest(needs=SamplingNeeds(side_px=16)), NoSink())
    return reader


def tiny() -> Reader:
    """Return the reader: it has no size."""
    return build(Config())


class OpenCVReader:
    """Decodes with OpenCV."""

    name = "opencv"

    def read(self, file: BinaryIO, request: ReadRequest, sink: Sink) -> ReadResult:
        """Decode what is asked for."""
        return read_indexed(self.name, file, request, sink, _Source.open)


class _Stream(io.BufferedIOBase):
    """OpenCV accepts only this base class to read from."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)


class _Source:
    def __init__(self, capture: Any, stream: _Stream) -> None:
        self._capture = capture
        # OpenCV lets go of the stream without the interpreter lock: were this the last reference, the process would
        # abort.
        self._stream = stream

    @classmethod
    def open(cls, file: BinaryIO, frame_count: int) -> PixelSource:
        import cv2

        del frame_count  # OpenCV's own count comes from the header and proves nothing
        stream = _Stream(file)
        capture = cast("Any", cv2.VideoCapture)(stream, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not capture.isOpened():
            raise Undecodable("OpenCV cannot open the file; read it with pyav.")
        return cls(capture, stream)

    def frames(self, indexes: Sequence[int]) -> Iterator[tuple[UInt8Array | None, float]]:
        import cv2

        wanted = set(indexes)
        try:
            for index in range(max(wanted) + 1):
                if not self._capture.grab():
                    return
                seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                image = None
                if index in wanted:
                    done, bgr = self._capture.retrieve()
                    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) if done else None
                yield image, seconds
        finally:
            self._capture.release()
