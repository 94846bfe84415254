"""Settle every input of a scan in order: judged, taken over from an earlier run, or reported as a copy of another."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guard.errors import InputError
from guard.types import ErrorInfo, Verdict, Video
from guard.verdict import failed
from serve.inputs import Input
from serve.progress import Progress
from serve.results import duplicate_record, record_of
from serve.run_dir import RunDirectory
from serve.same_content import speaks_of_content

if TYPE_CHECKING:
    from guard.api import Guard


class Scanner:
    """Settles every input of a run, in order."""

    def __init__(
        self, guard: Guard, run: RunDirectory, inputs: Sequence[Input], progress: Progress, *, retry_failed: bool
    ) -> None:
        self.scored = 0
        self.video_seconds = 0.0
        self._guard = guard
        self._run = run
        self._inputs = inputs
        self._progress = progress
        self._stale = {i for i, done in run.done.items() if retry_failed and done.failed}
        self._originals = {
            done.sha256: i
            for i, done in sorted(run.done.items(), reverse=True)
            if done.sha256 and not done.duplicate and done.of_content and i not in self._stale
        }
        self._under_way: deque[tuple[int, Video]] = deque()
        self._twins: dict[str, list[int]] = {}
        """Content that is being judged, and the later inputs that wait for its verdict."""
        self._again: list[int] = []
        """Inputs whose twin failed for a reason that may not be its content's: they are judged themselves."""
        self._failures: Counter[str] = Counter()
        """Attempts by content that failed so: what failed twice is reported of every further copy."""

    def run(self) -> None:
        """Settle all inputs; returns once each has its record."""
        self._judge(range(len(self._inputs)))
        while self._again:
            again, self._again = sorted(self._again), []
            self._judge(again)

    def _judge(self, indexes: Sequence[int]) -> None:
        for verdict in self._guard.check_many(self._to_judge(indexes)):
            index, video = self._under_way.popleft()
            if verdict.sha256 != video.sha256:
                raise RuntimeError("verdicts came back in another order than their videos")
            self._judged(index, verdict)

    def _to_judge(self, indexes: Sequence[int]) -> Iterator[Video]:
        for index in indexes:
            entry = self._inputs[index]
            if self._kept(index, entry):
                continue
            video = self._open(index, entry)
            if video is None or self._is_twin(index, entry, video):
                continue
            self._twins[video.sha256] = []
            self._under_way.append((index, video))
            yield video

    def _kept(self, index: int, entry: Input) -> bool:
        """Whether an earlier run settled this input, and the file is still the one it saw."""
        done = self._run.done.get(index)
        if done is None or done.path != entry.path or index in self._stale:
            return False
        # The time of change of the inode cannot be set by hand, as that of the content can.
        same = done.identity == entry.identity
        moved_away = entry.error is not None and entry.error.code == "input_not_found" and done.sha256 is not None
        if same or moved_away:
            self._progress.advance(self._run.read(index), kept=True)
        return same or moved_away

    def _open(self, index: int, entry: Input) -> Video | None:
        if entry.error is not None:
            self._fail(index, entry, entry.error)
            return None
        try:
            return self._guard.open(Path(os.path.abspath(entry.path)), name=entry.source)  # noqa: PTH100
        except InputError as error:
            self._fail(index, entry, error.info())
            return None

    def _is_twin(self, index: int, entry: Input, video: Video) -> bool:
        """Settle content that is known already, or let it wait for the verdict on the first of its kind."""
        done = self._run.done.get(index)
        if done is not None and done.sha256 == video.sha256 and done.path == entry.path and index not in self._stale:
            record = {**self._run.read(index), "input": entry.to_json()}  # touched since, but the same content
            self._settle(index, record, kept=True)
            return True
        if video.sha256 in self._twins:
            self._twins[video.sha256].append(index)
            return True
        original = self._originals.get(video.sha256)
        # The file at that place may have been replaced since, and judged again: its record is then of other content.
        if original is None or self._run.done[original].sha256 != video.sha256:
            return False
        self._settle(index, duplicate_record(index, entry, self._run.read(original)))
        return True

    def _judged(self, index: int, verdict: Verdict) -> None:
        record = record_of(index, self._inputs[index], verdict)
        if verdict.coverage is not None:
            self.scored += 1
            self.video_seconds += verdict.coverage.decoded_seconds
        self._settle(index, record)
        if verdict.sha256 is None:
            return
        twins = self._twins.pop(verdict.sha256, [])
        if not speaks_of_content(record):
            self._failures[verdict.sha256] += 1
            if self._failures[verdict.sha256] == 1:
                self._again += twins
                return
        self._originals[verdict.sha256] = index
        for twin in twins:
            self._settle(twin, duplicate_record(twin, self._inputs[twin], record))

    def _fail(self, index: int, entry: Input, error: ErrorInfo) -> None:
        verdict = failed(source=entry.source, sha256=None, policy=self._guard.policy, error=error)
        verdict = replace(verdict, versions=self._guard.pipeline.stages.versions)
        self._settle(index, record_of(index, entry, verdict))

    def _settle(self, index: int, record: Mapping[str, Any], *, kept: bool = False) -> None:
        self._run.append(index, record)
        self._progress.advance(record, kept=kept)
