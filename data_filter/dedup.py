"""Perceptual near-duplicates: re-encodes, crops of a few pixels, other sizes of the same clip.

A clip is a few pairs of 64-bit hashes, one pair per sampled moment: of the look (is each pixel of a small grey
picture brighter than its right neighbour?) and of the motion (the same for the difference between neighbouring
frames). A fixed camera shows the same picture for years; what tells two of its clips apart is what moves. Another
encoder, size or brightness changes few bits of either.

Candidates share one of the four 16-bit bands of a look hash at some moment, which two hashes within 3 bits always do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from data_filter.types import Float64Array, Int64Array
from guard.types import UInt8Array, require

Hashes: TypeAlias = NDArray[np.uint64]
"""uint64 [F, 2]: look and motion at each sampled moment, in order of time; motion 0 where hardly anything moves."""

NEAR_BITS = 7
"""Mean bits of 64 by which looks may differ. Unrelated pictures differ in about 32."""

MOTION_BITS = 9
"""The same for motion, which is noisier."""

STILL_BITS = 2
"""How close looks must be where nothing moves in either clip, so that motion cannot tell."""

_MOVING = 1.5  # mean grey levels of difference; the noise of an encoder stays below


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two clips that show the same."""

    first: int
    second: int
    bits: float
    """Mean number of differing bits of the look."""


def frame_hash(image: UInt8Array) -> int:
    """Return the 64-bit difference hash of an RGB picture, uint8 [H, W, 3]."""
    require(image.ndim == 3 and image.shape[2] == 3, "image", "uint8 [H, W, 3]", image.shape)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(cv2.GaussianBlur(grey, (0, 0), max(grey.shape) / 64), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def clip_hashes(images: UInt8Array, later: UInt8Array) -> Hashes:
    """Return the hashes for frames uint8 [F, H, W, 3] and the frames a moment later, of the same shape."""
    require(images.shape == later.shape, "later", f"of shape {images.shape}", later.shape)
    pairs = [(frame_hash(first), _motion_hash(first, second)) for first, second in zip(images, later, strict=True)]
    return np.array(pairs, dtype=np.uint64).reshape(len(images), 2)


def _motion_hash(first: UInt8Array, second: UInt8Array) -> int:
    change = np.asarray(cv2.absdiff(first, second), dtype=np.uint8)
    return frame_hash(change) if float(change.mean()) >= _MOVING else 0


def distance(first: Hashes, second: Hashes) -> tuple[float, float | None]:
    """Return the mean differing bits of look and of motion, the shorter clip laid over the longer evenly.

    Motion is None where there is no moment at which both move.
    """
    if len(first) > len(second):
        first, second = second, first
    if len(first) == 0:
        return 64.0, None
    at = np.linspace(0, len(second) - 1, len(first)).round().astype(np.int64)
    differing = np.bitwise_count(first ^ second[at])
    moving = (first[:, 1] > 0) & (second[at, 1] > 0)
    return float(differing[:, 0].mean()), float(differing[moving, 1].mean()) if moving.any() else None


def same(look: float, motion: float | None, bits: float = NEAR_BITS) -> bool:
    """Whether two clips at these distances show the same."""
    return look <= min(bits, STILL_BITS) if motion is None else look <= bits and motion <= MOTION_BITS


def near_pairs(
    clips: Sequence[Hashes], others: Sequence[Hashes] | None = None, *, bits: float = NEAR_BITS
) -> list[NearPair]:
    """Return the near-duplicate pairs within `clips` (first < second), or between `clips` and `others`.

    Plain pictures (a black frame hashes to 0) match everything: frames whose hash has fewer than 4 bits set or
    cleared do not nominate candidates, though they count in the distance.
    """
    right = clips if others is None else others
    table = _Table(right)
    keys, owner = _bands(clips)
    starts = np.searchsorted(owner, np.arange(len(clips) + 1))
    found = []
    for i, clip in enumerate(clips):
        candidates = table.sharing(keys[starts[i] : starts[i + 1]])
        if others is None:
            candidates = candidates[candidates > i]
        near, look = table.near(clip, candidates, bits)
        found += [NearPair(first=i, second=int(j), bits=float(d)) for j, d in zip(near, look, strict=True)]
    return found


def _bands(clips: Sequence[Hashes]) -> tuple[Int64Array, Int64Array]:
    """Return the 16-bit bands of telling frames as numbers below 4 x 2^16, and whose they are, sorted by clip."""
    if not clips:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    owner = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
    looks = np.concatenate([clip[:, 0] for clip in clips])
    count = np.bitwise_count(looks)
    owner, looks = owner[(count >= 4) & (count <= 60)], looks[(count >= 4) & (count <= 60)]
    values = [
        ((looks >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64) + (band << 16) for band in range(4)
    ]
    both = np.unique(np.stack([np.tile(owner, 4), np.concatenate(values)], axis=1), axis=0)
    return both[:, 1], both[:, 0]


class _Table:
    """Clips by their bands, and their hashes in one block for each number of frames."""

    def __init__(self, clips: Sequence[Hashes]) -> None:
        keys, owner = _bands(clips)
        order = np.argsort(keys, kind="stable")
        self._owner = owner[order]
        self._starts = np.searchsorted(keys[order], np.arange((4 << 16) + 1))
        self._length = np.array([len(clip) for clip in clips], dtype=np.int64)
        self._place = np.zeros(len(clips), dtype=np.int64)
        self._blocks: dict[int, Hashes] = {}
        for length in np.unique(self._length):
            mine = np.flatnonzero(self._length == length)
            self._place[mine] = np.arange(len(mine))
            self._blocks[int(length)] = np.stack([clips[int(i)] for i in mine])

    def sharing(self, keys: Int64Array) -> Int64Array:
        """Return the clips that share one of the bands, sorted."""
        parts = [self._owner[self._starts[k] : self._starts[k + 1]] for k in keys]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)

    def near(self, clip: Hashes, candidates: Int64Array, bits: float) -> tuple[Int64Array, Float64Array]:
        """Return those of the candidates that show the same as `clip`, and their look distances; as `distance` and
        `same` say, for many clips at once."""
        look, motion = np.full(len(candidates), np.inf), np.full(len(candidates), np.nan)
        for length in np.unique(self._length[candidates]):
            mine = self._length[candidates] == length
            block = self._blocks[int(length)][self._place[candidates[mine]]]
            look[mine], motion[mine] = _distances(clip, block)
        still = np.isnan(motion)
        fits = np.where(still, look <= min(bits, STILL_BITS), (look <= bits) & (motion <= MOTION_BITS))
        return candidates[fits], look[fits]


def _distances(clip: Hashes, block: Hashes) -> tuple[Float64Array, Float64Array]:
    """Return look and motion distances [n] of one clip to clips [n, F, 2]; motion NaN where nothing moves."""
    if len(clip) <= block.shape[1]:
        block = block[:, np.linspace(0, block.shape[1] - 1, len(clip)).round().astype(np.int64)]
    else:
        clip = clip[np.linspace(0, len(clip) - 1, block.shape[1]).round().astype(np.int64)]
    differing = np.bitwise_count(clip[None] ^ block).astype(np.float64)
    moving = (clip[None, :, 1] > 0) & (block[:, :, 1] > 0)
    count = moving.sum(axis=1)
    motion = np.where(count > 0, (differing[:, :, 1] * moving).sum(axis=1) / np.maximum(count, 1), np.nan)
    return differing[:, :, 0].mean(axis=1), motion


def clusters(total: int, pairs: Sequence[NearPair]) -> list[list[int]]:
    """Return groups of two or more clips that are linked by near-duplicate pairs, each sorted, in order of first
    member."""
    parent = list(range(total))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        a, b = root(pair.first), root(pair.second)
        parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(total):
        groups[root(i)].append(i)
    return [members for members in groups.values() if len(members) > 1]
