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
            look, motion = distance(clip, (clips if others is None else others)[j])
            if same(look, motion, bits):
                found.append(NearPair(first=i, second=j, bits=look))
    return found


def _bands(clip: Hashes) -> set[tuple[int, int]]:
    telling = [int(h) for h in clip[:, 0] if 4 <= int(h).bit_count() <= 60]
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
