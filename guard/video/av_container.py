"""Open a container with FFmpeg's doors shut, choose the stream to score, and read its timeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guard.errors import InputError, NoVideoStream, TooManyFrames, TooManyStreams, Undecodable, UnsupportedMediaType
from guard.limits import DECODERS, DEMUXERS, Limits, looks_like_media
from guard.types import MediaInfo
from guard.video.av_frame import check_pixels
from guard.video.clean_start import CleanStart
from guard.video.embedded import embedded_films
from guard.video.reader import WatchedFile
from guard.video.timeline import Timeline

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_TIME_BASE = 1_000_000
_IO_BUFFER_BYTES = 1 << 18
_DEFAULT_FPS = 25.0


@contextlib.contextmanager
def opened(file: WatchedFile, limits: Limits) -> Iterator[InputContainer]:
    """Open a container: listed demuxers and decoders only, no protocol for anything that it might want to open besides.

    Raises:
        UnsupportedMediaType: nothing that is opened here, judging by the first bytes.
        Undecodable: damaged.
    """
    import av

    file.seek(0)
    head = file.read(4096)
    file.seek(0)
    doors = {
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": ",".join(DECODERS),
        "protocol_whitelist": "none",
    }
    try:
        container = av.open(
            file, mode="r", container_options=doors, metadata_errors="ignore", buffer_size=_IO_BUFFER_BYTES
        )
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError as error:
        if not looks_like_media(head):
            raise UnsupportedMediaType(
                "The file starts like none of the containers that are opened (mp4, mkv, webm ...)."
            ) from None
        raise Undecodable(f"The container cannot be opened: {error.strerror}.") from None
    try:
        yield container
    finally:
        container.close()


@dataclass(slots=True, kw_only=True)
class Scan:
    """What one pass over the packets showed."""

    stream_index: int
    media: MediaInfo
    base_seconds: float
    """Container time that counts as 0."""
    time_base: float
    fps: float
    timeline: Timeline
    packets: list[Packet[VideoStream]] | None
    """The packets themselves, where they are few enough to keep."""
    rivals: int
    """Further video streams, and films inside a still picture, which a player might show instead."""
    declared_seconds: float | None
    declared_of_stream: bool = False
    problems: list[str] = field(default_factory=list)


def choose(container: InputContainer, limits: Limits) -> tuple[VideoStream, set[int]]:
    """Return the video stream that a player would show, and the numbers of the others; cover pictures do not count.

    Raises:
        TooManyStreams, NoVideoStream, UnsupportedMediaType, TooManyPixels: by their names.
    """
    from av.stream import Disposition

    if len(container.streams) > limits.max_streams:
        raise TooManyStreams(
            f"The file holds {len(container.streams)} streams or more; allowed are {limits.max_streams}."
        )
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise NoVideoStream(f"The file holds no moving picture; its streams are: {kinds}.")
    usable = [
        stream for stream in videos if stream.codec_context is not None and stream.codec_context.codec.name in DECODERS
    ]
    if not usable:
        names = ", ".join(sorted({_codec_name(stream) for stream in videos}))
        raise UnsupportedMediaType(f"The video codec {names} is not decoded here.")

    def rank(stream: VideoStream) -> tuple[bool, int]:
        return bool(stream.disposition & Disposition.default), stream.codec_context.width * stream.codec_context.height

    best = max(usable, key=rank)
    check_pixels(best.codec_context.width, best.codec_context.height, limits)
    return best, {stream.index for stream in videos} - {best.index}


def scan(container: InputContainer, file: WatchedFile, limits: Limits, keep_bytes: int) -> Scan:
    """Read all packets once. Raises `NoVideoStream`, `TooManyFrames` and what `choose` raises."""
    import av

    stream, others = choose(container, limits)
    rivals: set[int] = set()
    time_base = float(stream.time_base or 1 / _DEFAULT_FPS)
    timeline, kept, kept_bytes = Timeline(), list[Any](), 0
    start = float("inf")
    clean, replaced = CleanStart.of(stream.codec_context.codec.name, stream.codec_context.extradata), False
    try:
        for packet in container.demux():
            if packet.size == 0 and packet.dts is None:
                continue
            when = packet.pts if packet.pts is not None else packet.dts
            if packet.stream_index != stream.index:
                rivals |= {packet.stream_index} & others
                if when is not None and packet.stream.type in ("video", "audio"):
                    ends = (when + (packet.duration or 0)) * float(packet.time_base)
                    timeline.others_end_seconds = max(timeline.others_end_seconds, ends)
                continue
            seconds = when * time_base if when is not None else float("nan")
            timeline.pts.append(seconds)
            replaced = replaced or packet.has_sidedata("new_extradata")  # the packing of NAL units may change with it
            timeline.keys.append(packet.is_keyframe and not replaced and clean.accepts(bytes(packet)))
            timeline.hidden.append(packet.is_discard)
            timeline.last_duration_seconds = (packet.duration or 0) * time_base
            if when is not None and not packet.is_discard:
                start = min(start, seconds)
            if len(timeline.pts) > limits.max_frames:
                raise TooManyFrames(f"The stream holds more than {limits.max_frames} frames.")
            kept_bytes += packet.size
            if kept_bytes <= keep_bytes:
                kept.append(packet)
            file.progress(len(timeline.pts), 0.0)
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError:
        timeline.broken = True
    base = min(start, container.start_time / _TIME_BASE if container.start_time is not None else start)
    base = base if base != float("inf") else 0.0
    for index, seconds in enumerate(timeline.pts):
        timeline.pts[index] = seconds - base
    timeline.others_end_seconds = max(timeline.others_end_seconds - base, 0.0)
    declared, of_stream = _declared(container, stream, time_base)
    return Scan(
        stream_index=stream.index,
        media=_media(container, stream, declared),
        base_seconds=base,
        time_base=time_base,
        fps=_fps(stream),
        timeline=timeline,
        packets=kept if kept_bytes <= keep_bytes else None,
        # A phone plays the clip of a motion photo; a decoder is shown its still alone.
        rivals=len(rivals) + (embedded_films(file) if len(timeline.pts) <= 1 else 0),
        declared_seconds=declared,
        declared_of_stream=of_stream,
    )


def reread(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of the chosen stream once more, from a container that was opened again."""
    for packet in container.demux(stream):
        if packet.size == 0 and packet.dts is None:
            continue
        yield packet


def _declared(container: InputContainer, stream: VideoStream, time_base: float) -> tuple[float | None, bool]:
    if stream.duration is not None and stream.duration > 0:
        return stream.duration * time_base, True
    if container.duration is not None and container.duration > 0:
        return container.duration / _TIME_BASE, False
    return None, False


def _fps(stream: VideoStream) -> float:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0.01 < float(rate) < 1000:
            return float(rate)
    return _DEFAULT_FPS


def _media(container: InputContainer, stream: VideoStream, declared: float | None) -> MediaInfo:
    counts: dict[str, int] = {}
    for each in container.streams:
        counts[each.type] = counts.get(each.type, 0) + 1
    context = stream.codec_context
    return MediaInfo(
        container=container.format.name,
        codec=context.codec.name,
        width=context.width,
        height=context.height,
        declared_duration_seconds=declared,
        streams=counts,
    )


def _codec_name(stream: Any) -> str:
    context = stream.codec_context
    return context.codec.name if context is not None else "(unknown)"


__all__ = ["InputError", "Scan", "choose", "opened", "reread", "scan"]
