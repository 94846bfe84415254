"""How many frames a file has, found by reading packets without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFacts:
    """Length of a video stream."""

    frames: int
    fps: float
    seconds: float


@lru_cache(maxsize=100_000)
def facts_of(path: Path) -> MediaFacts | None:
    """Return the facts of the first video stream, or None where the file cannot be opened or has no frames."""
    import av

    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                return None
            stream = container.streams.video[0]
            frames = sum(1 for packet in container.demux(stream) if packet.size)
            rate = float(stream.average_rate or stream.guessed_rate or 25)
    except (av.error.FFmpegError, OSError):
        return None
    return MediaFacts(frames=frames, fps=rate, seconds=frames / rate) if frames else None
