"""Embeds clips of several requests in one forward pass, where the encoder runs on an accelerator.

Whoever comes while a pass is under way waits for its end; the first of those then takes the clips of all who wait. So a
lone request waits for nobody, and under load batches grow by themselves. On a CPU passes side by side are as fast, and
nothing is changed there.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from guard.types import Float32Array, UInt8Array

MAX_CLIPS = 256
"""Bursts in one pass: 256 of 3 frames of 224 pixels are 110 MiB as bytes."""


class Encoder(Protocol):
    """What is asked of an encoder here."""

    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB; element i depends on clip i alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    clips: UInt8Array
    answer: Future[Float32Array] = field(default_factory=Future)


class Coalesced:
    """An encoder whose passes take in everything that waits. Safe for threads; everything else is the encoder's own."""

    def __init__(self, encoder: Encoder, *, max_clips: int = MAX_CLIPS) -> None:
        self._inner = encoder
        self._max_clips = max_clips
        self._line: deque[_Waiting] = deque()
        self._taking = threading.Lock()
        self._passing = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return what the encoder alone would return."""
        mine = _Waiting(clips=clips)
        with self._taking:
            self._line.append(mine)
        with self._passing:
            if not mine.answer.done():  # nobody has taken it along
                self._pass(self._take(mine))
        return mine.answer.result()

    def _take(self, mine: _Waiting) -> list[_Waiting]:
        """Take `mine`, and all of its shape that fit beside it, in the order in which they came."""
        with self._taking:
            self._line.remove(mine)
            batch, size = [mine], len(mine.clips)
            for other in list(self._line):
                if other.clips.shape[1:] == mine.clips.shape[1:] and size + len(other.clips) <= self._max_clips:
                    self._line.remove(other)
                    batch.append(other)
                    size += len(other.clips)
            return batch

    def _pass(self, batch: list[_Waiting]) -> None:
        if len(batch) > 1:
            try:
                found = self._inner.embed(np.concatenate([one.clips for one in batch]))
            except Exception:  # one of them is at fault, or all are too much at once: each for itself
                found = None
            if found is not None:
                ends = np.cumsum([len(one.clips) for one in batch])
                for one, rows in zip(batch, np.split(found, ends[:-1]), strict=True):
                    one.answer.set_result(rows)
                return
        for one in batch:
            try:
                one.answer.set_result(self._inner.embed(one.clips))
            except BaseException as error:
                one.answer.set_exception(error)


def coalesce(detectors: Any) -> None:
    """Let those of `detectors` whose encoder runs on an accelerator share its passes."""
    for detector in detectors:
        holder, name = detector, "encoder"
        if hasattr(
            getattr(detector, "encoder", None), "_encoder"
        ):  # the one that remembers its last batch stays in front
            holder, name = detector.encoder, "_encoder"
        encoder = getattr(holder, name, None)
        if encoder is not None and not isinstance(encoder, Coalesced) and on_accelerator(encoder):
            setattr(holder, name, Coalesced(encoder))


def on_accelerator(encoder: Any) -> bool:
    """Whether the weights of an encoder lie elsewhere than in main memory."""
    network = getattr(encoder, "network", None) or getattr(encoder, "model", None)
    parameters = getattr(network, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return first is not None and first.device.type != "cpu"
