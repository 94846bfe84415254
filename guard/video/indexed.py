"""Read with a library that only knows frame numbers: the timeline comes from the packets, the library gives the pixels.

The library must agree with the timeline on how many frames there are and when they are shown. Where it does not (edit
lists, streams without times), the file is refused with a typed error rather than scored at the wrong times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

import numpy as np

from guard.errors import Undecodable
from guard.types import UInt8Array
from guard.video.av_container import opened, scan
from guard.video.av_frame import check_pixels
from guard.video.outcome import Walked, plan, result_of, settle
from guard.video.picking import Picker
from guard.video.reader import BudgetSpent, ReadRequest, ReadResult, Sink, WatchedFile, output_size
from guard.video.sampling import Burst

_TOLERANCE_SECONDS = 2e-3


class PixelSource(Protocol):
    """A library's view of one file: upright RGB frames by number."""

    def frames(self, indexes: Sequence[int]) -> Iterator[tuple[UInt8Array | None, float]]:
        """Yield (image or None, seconds) for numbers up to the last wanted, in order;

        None where a frame was only passed over.
        """
        ...


class Opener(Protocol):
    """Opens a file with the library. Raises `Undecodable`."""

    def __call__(self, file: BinaryIO, frame_count: int) -> PixelSource:
        """Return the source; `frame_count` is what the packets say."""
        ...


def read_indexed(name: str, file: BinaryIO, request: ReadRequest, sink: Sink, open_source: Opener) -> ReadResult:
    """Serve one job through `open_source`. Raises `Undecodable` where the library's times are not the container's."""
    watched = WatchedFile(file, sink)
    with opened(watched, request.limits) as container:
        found = scan(container, watched, request.limits, keep_bytes=0)
    settled = settle(found, request)
    if not settled.reliable:
        raise Undecodable(f"The stream carries no usable times, which {name} needs; read it with pyav.")
    wanted = wanted_frames(settled.times, plan(settled, request), request)
    check_pixels(found.media.width, found.media.height, request.limits)
    file.seek(0)
    source = open_source(file, len(settled.times))
    walked, size, offset = Walked(), None, 0.0
    try:
        for index, (image, seconds) in enumerate(source.frames(sorted(wanted))):
            if index >= len(settled.times):
                raise Undecodable(
                    f"{name} counts more frames than the {len(settled.times)} packets shown; read it with pyav."
                )
            expected = settled.times[index]
            offset = seconds - expected if index == 0 else offset
            if abs(seconds - offset - expected) > _TOLERANCE_SECONDS:
                raise Undecodable(
                    f"{name} puts frame {index} at {seconds - offset:.3f} s, the container at {expected:.3f} s;"
                    " read it with pyav."
                )
            walked.decoded += 1
            walked.reached_seconds = expected
            watched.progress(len(found.timeline.pts) + index, expected)
            if index in wanted and image is not None:
                if size is None:
                    height, width, _ = image.shape
                    walked.displayed, size = (width, height), output_size(width, height, request.needs.side_px)
                sink.frame(_resized(image, size), expected, wanted[index])
                walked.scored.append(expected)
    except BudgetSpent:
        walked.timed_out = True
    walked.full = walked.decoded == len(settled.times)
    walked.errors = len(wanted) - len(walked.scored)
    if not walked.scored:
        raise Undecodable(f"{name} could not decode one frame of the video.")
    return result_of(found, settled, walked, request)


def wanted_frames(times: Sequence[float], bursts: Sequence[Burst] | None, request: ReadRequest) -> dict[int, int]:
    """Return frame number to burst id for every frame that the plan takes."""
    if bursts is None:
        return dict.fromkeys(range(len(times)), 0)
    gap = request.sampling.max_gap_seconds if request.task == "sample" else float("inf")
    picker: Picker[int] = Picker(bursts, gap, share=request.task == "times")
    picked = [one for index, seconds in enumerate(times) for one in picker.offer(index, seconds)] + picker.finish()
    return {one.frame: one.burst for one in picked}


def _resized(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    import cv2

    way = cv2.INTER_AREA if size[0] <= image.shape[1] and size[1] <= image.shape[0] else cv2.INTER_LINEAR
    small: UInt8Array = np.asarray(cv2.resize(image, size, interpolation=way), dtype=np.uint8)
    return small
