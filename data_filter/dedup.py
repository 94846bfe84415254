"""Perceptual near-duplicates: re-encodes, crops of a few pixels, other sizes of the same pictures.

A clip is a few 64-bit hashes, one per sampled frame. A hash says for a small grey picture whether each pixel is
brighter than its right neighbour; another encoder, size or brightness changes few bits. Two clips are
near-duplicates where their frames match one to one within `bits` on average and at least one pair of frames is very
close: candidates share one of the four 16-bit bands of a hash, which two hashes within 3 bits always do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from guard.types import UInt8Array, require

Hashes: TypeAlias = NDArray[np.uint64]
"""uint64 [F]: one hash per sampled frame, in order of time."""

NEAR_BITS = 7
"""Mean bits of 64 that may differ per frame. Unrelated pictures differ in about 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two clips that show the same."""

    first: int
    second: int
    bits: float
    """Mean number of differing bits per frame."""


def frame_hash(image: UInt8Array) -> int:
    """Return the 64-bit difference hash of an RGB picture, uint8 [H, W, 3]."""
    require(image.ndim == 3 and image.shape[2] == 3, "image", "uint8 [H, W, 3]", image.shape)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(cv2.GaussianBlur(grey, (0, 0), max(grey.shape) / 64), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def clip_hashes(images: UInt8Array) -> Hashes:
    """Return the hashes of frames uint8 [F, H, W, 3]."""
    return np.array([frame_hash(image) for image in images], dtype=np.uint64)


def distance(first: Hashes, second: Hashes) -> float:
    """Return the mean number of differing bits between clips, the shorter one laid over the longer evenly."""
    if len(first) > len(second):
        first, second = second, first
    if len(first) == 0:
        return 64.0
    at = np.linspace(0, len(second) - 1, len(first)).round().astype(np.int64)
    return float(np.bitwise_count(first ^ second[at]).mean())


def near_pairs(
    clips: Sequence[Hashes], others: Sequence[Hashes] | None = None, *, bits: float = NEAR_BITS
) -> list[NearPair]:
    """Return the near-duplicate pairs within `clips` (first < second), or between `clips` and `others`.

    Plain pictures (a black frame hashes to 0) match everything: frames whose hash has fewer than 4 bits set or
    cleared do not nominate candidates, though they count in the distance.
    """
    table: dict[tuple[int, int], set[int]] = defaultdict(set)
    for j, clip in enumerate(clips if others is None else others):
        for band in _bands(clip):
            table[band].add(j)
    found = []
    for i, clip in enumerate(clips):
        candidates: set[int] = set().union(*(table.get(band, set()) for band in _bands(clip)))
        for j in sorted(candidates):
            if others is None and j <= i:
                continue
            apart = distance(clip, (clips if others is None else others)[j])
            if apart <= bits:
                found.append(NearPair(first=i, second=j, bits=apart))
    return found


def _bands(clip: Hashes) -> set[tuple[int, int]]:
    telling = [int(h) for h in clip if 4 <= int(h).bit_count() <= 60]
    return {(band, (h >> (16 * band)) & 0xFFFF) for h in telling for band in range(4)}


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
