"""Decode hostile video in processes that can be killed: the `Decoder` of the pipeline.

    with SandboxedDecoder(workers=2) as decoder:
        decoded = decoder.decode(open_video(Path("clip.mp4")), SamplingNeeds(side_px=128))

Thread-safe; each call borrows one worker. `feed` hands frames over in chunks, so that every frame of an hour does
not sit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from guard.interfaces import Decoded, Fed, FrameSink, SamplingNeeds
from guard.limits import Limits
from guard.types import Frames, MediaInfo, Video, require
from guard.video.pool import Pool
from guard.video.process import Worker
from guard.video.reader import ReadRequest, ReadResult, Task
from guard.video.sampling import SamplingConfig, content_seed
from guard.video.source import content_fd
from guard.video.streaming import collect_frames, feed_frames


class SandboxedDecoder:
    """Decodes videos in a pool of locked worker processes.

    Args:
        workers: Processes, and so videos decoded at once.
        limits: Bounds for each input.
        sampling: How densely to look.
        reader: Part of kind `reader`: `pyav` (default), `decord` or `opencv`.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        limits: Limits | None = None,
        sampling: SamplingConfig | None = None,
        reader: str = "pyav",
    ) -> None:
        require(workers >= 1, "workers", ">= 1", workers)
        self.limits = limits or Limits()
        self.sampling = sampling or SamplingConfig()
        self.reader = reader
        self._pool = Pool(workers, reader, self.limits)

    def decode(self, video: Video, needs: SamplingNeeds) -> Decoded:
        """Decode one video and return the sampled frames. Raises an `InputError` for whatever the file does wrong.

        With `needs.every_frame` all frames must fit in `limits.max_result_bytes`; use `feed` for longer videos.
        """
        result, frames, cpu_seconds = self._run(video, self._request("sample", video, needs))
        return Decoded(video=replace(video, media=result.media), frames=frames, cpu_seconds=cpu_seconds)

    def probe(self, video: Video) -> MediaInfo:
        """Return what the file says of itself and what its packets show; one frame is decoded as a proof."""
        result, _, _ = self._run(video, self._request("probe", video, SamplingNeeds()))
        return result.media

    def frames_at(self, video: Video, times_seconds: Sequence[float], side_px: int) -> Frames:
        """Return the frames nearest to the given presentation times, in full quality, each its own burst.

        Two times nearest to one frame give that frame once. `coverage` speaks of these frames alone.
        """
        require(len(times_seconds) > 0, "times_seconds", "at least one time", times_seconds)
        needs = SamplingNeeds(side_px=side_px)
        request = replace(
            self._request("times", video, needs), times_seconds=tuple(sorted(float(t) for t in times_seconds))
        )
        return self._run(video, request)[1]

    def feed(self, video: Video, needs: SamplingNeeds, sink: FrameSink) -> Fed:
        """Give the frames that `decode` would return to `sink`, in chunks of some 32 MiB that cut no burst.

        The coverage of a chunk is provisional; that of the returned value is final. Raises an `InputError` for whatever
        the file does wrong, and whatever `sink` raises.
        """
        request = self._request("sample", video, needs)
        with content_fd(video) as fd, self._borrowed() as worker:
            result, cpu_seconds = feed_frames(worker, request, fd, video.source, sink)
        return Fed(video=replace(video, media=result.media), coverage=result.coverage, cpu_seconds=cpu_seconds)

    def sandbox_report(self) -> Mapping[str, str]:
        """Return what the system lets a worker give up: `on`, or `off: reason`, by measure (for `guard doctor`)."""
        with self._borrowed() as worker:
            return dict(worker.report)

    def close(self) -> None:
        """Stop all workers. Calls in progress fail with `DecoderCrashed`."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _borrowed(self) -> Iterator[Worker]:
        worker = self._pool.borrow()
        try:
            yield worker
        finally:
            self._pool.give_back(worker)

    def _request(self, task: Task, video: Video, needs: SamplingNeeds) -> ReadRequest:
        seed = content_seed(self.sampling.seed, video.sha256)
        return ReadRequest(task=task, needs=needs, sampling=self.sampling, limits=self.limits, seed=seed)

    def _run(self, video: Video, request: ReadRequest) -> tuple[ReadResult, Frames, float]:
        with content_fd(video) as fd, self._borrowed() as worker:
            return collect_frames(worker, request, fd, video.source)


def sandbox_report(reader: str = "pyav") -> Mapping[str, str]:
    """Start one worker and return what the system lets it give up (for `guard doctor`)."""
    with SandboxedDecoder(reader=reader) as decoder:
        return decoder.sandbox_report()
