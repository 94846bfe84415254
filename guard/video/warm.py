"""What a reader does before its process is locked."""

from __future__ import annotations

import importlib
import io
import pkgutil

from guard.types import UInt8Array


def warm_clip() -> bytes:
    """Load all of PyAV and return a four-frame mp4: reading it once loads what a locked process could not load
    later.
    """
    import av

    for found in pkgutil.walk_packages(av.__path__, "av."):
        if found.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(found.name)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


class NoSink:
    """Takes everything and keeps nothing."""

    def frame(self, image: UInt8Array, pts_seconds: float, burst: int) -> None:
        """Drop a frame."""

    def tick(self, frames_decoded: int, reached_seconds: float) -> None:
        """Do nothing."""

    def restart(self) -> None:
        """Do nothing."""
