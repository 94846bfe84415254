"""Turn normalised text into hashed n-gram counts, vectorised over code points.

Character n-grams survive misspelling, word n-grams carry a little order ("not bad"). A feature is the bucket that its
n-gram hashes to, so no vocabulary is kept. Feature hashing: Weinberger et al., arXiv 0902.2206.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fast_path.text.normalise import Plain
from guard.types import require

UInt64Array = NDArray[np.uint64]
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: spreads neighbouring values
_SPACE = np.uint64(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """Which n-grams are counted, and into how many buckets."""

    buckets_log2: int = 18
    """Buckets of each kind = 2 to this power; 10 to 22."""
    char_ngrams: tuple[int, ...] = (2, 3, 4, 5)
    """Lengths in characters, the space around a word included; none spans two words."""
    word_ngrams: tuple[int, ...] = (1, 2, 3)
    """Lengths in words; surface marks count as single words."""

    def __post_init__(self) -> None:
        require(10 <= self.buckets_log2 <= 22, "buckets_log2", "10 to 22", self.buckets_log2)

    @property
    def buckets(self) -> int:
        """Number of buckets."""
        return 1 << self.buckets_log2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """The distinct buckets of N texts, sorted within each text, in compressed rows."""

    indices: NDArray[np.int32]
    """int32 [K]: bucket numbers."""
    starts: NDArray[np.int64]
    """int64 [N + 1]: text i owns `indices[starts[i]:starts[i + 1]]`."""
    kinds: NDArray[np.int8]
    """int8 [K]: 0 for characters, 1 for words."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> slice:
        """Return where text `index` lies in `indices`."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))


def bags(texts: Sequence[Plain], config: FeatureConfig) -> Bags:
    """Return the buckets of every text; row i depends on text i alone."""
    rows = [_row(text, config) for text in texts]
    starts = np.cumsum([0, *(len(indices) for indices, _ in rows)], dtype=np.int64)
    indices = np.concatenate([r[0] for r in rows]) if rows else np.empty(0, np.int32)
    kinds = np.concatenate([r[1] for r in rows]) if rows else np.empty(0, np.int8)
    return Bags(indices=indices, starts=starts, kinds=kinds)


def word_hashes(words: str) -> UInt64Array:
    """Return one 64-bit hash for each word of a normalised text: uint64 [W]."""
    if not words:
        return np.empty(0, np.uint64)
    codes = _codes(words)
    gaps = np.flatnonzero(codes == _SPACE)
    starts = np.r_[0, gaps + 1]
    lengths = np.r_[gaps, len(codes)] - starts
    place = np.arange(len(codes)) - np.repeat(starts, np.r_[np.diff(starts), len(codes) - starts[-1]])
    terms = _mix(codes + (place.astype(np.uint64) + np.uint64(1)) * np.uint64(0x1000003))
    terms[gaps] = 0
    sums = np.add.reduceat(terms, starts)  # wraps around, which is what a hash wants
    return _mix(sums + lengths.astype(np.uint64))


def _row(text: Plain, config: FeatureConfig) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    shift = np.uint64(64 - config.buckets_log2)
    chars = np.unique(_char_hashes(text.words, config.char_ngrams) >> shift)
    words = np.unique(_word_ngrams(text, config.word_ngrams) >> shift)
    kinds = np.r_[np.zeros(len(chars), np.int8), np.ones(len(words), np.int8)]
    return np.r_[chars, words].astype(np.int32), kinds


def _char_hashes(words: str, lengths: Sequence[int]) -> UInt64Array:
    if not words:
        return np.empty(0, np.uint64)
    codes = _codes(f" {words} ")
    space = codes == _SPACE
    found = []
    for length in lengths:
        count = len(codes) - length + 1
        if count <= 0:
            continue
        value = np.full(count, length, np.uint64)
        for offset in range(length):
            value = (value ^ codes[offset : offset + count]) * _MULTIPLIER
            value ^= value >> np.uint64(29)
        spaces = np.r_[0, np.cumsum(space[1:-1])]  # a window may begin or end with a space, and hold none inside
        inner = spaces[length - 2 : length - 2 + count] - spaces[:count] if length > 2 else np.zeros(count)
        found.append(value[inner == 0])
    return _mix(np.concatenate(found)) if found else np.empty(0, np.uint64)


def _word_ngrams(text: Plain, lengths: Sequence[int]) -> UInt64Array:
    hashes = word_hashes(text.words)
    found = [np.array([_mark_hash(mark) for mark in text.surface], dtype=np.uint64)]
    for length in lengths:
        count = len(hashes) - length + 1
        if count <= 0:
            continue
        value = np.full(count, 0x51 + length, np.uint64)
        for offset in range(length):
            value = _mix(value * np.uint64(31) + hashes[offset : offset + count])
        found.append(value)
    return np.concatenate(found)


@lru_cache(maxsize=256)
def _mark_hash(mark: str) -> int:
    return int(_mix(word_hashes(mark) ^ np.uint64(0xA5A5A5A5))[0])


def _codes(text: str) -> UInt64Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _mix(values: UInt64Array) -> UInt64Array:
    """Scramble 64-bit integers so that the top bits depend on all of them (the finaliser of SplitMix64)."""
    z = values + _MULTIPLIER
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
