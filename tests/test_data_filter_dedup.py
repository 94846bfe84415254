"""Perceptual near-duplicates and leakage."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from data_filter import dedup, leakage
from data_filter.leakage import Fingerprint
from guard.errors import UsageError


def _clip(seed: int, frames: int = 6) -> np.ndarray:
    """A moving scene: smooth blobs whose positions depend on the seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:112, 0:160].astype(np.float32)
    places, speeds, colours = rng.uniform(0, 112, (7, 2)), rng.normal(0, 4, (7, 2)), rng.uniform(40, 255, (7, 3))
    out = []
    for t in range(frames):
        picture = np.full((112, 160, 3), rng.uniform(10, 40) if t == 0 else out[0][0, 0, 0], np.float32)
        for (py, px), (vy, vx), colour in zip(places, speeds, colours, strict=True):
            near = np.exp(-((y - py - vy * t) ** 2 + (x - px - vx * t) ** 2) / 400)
            picture = picture * (1 - near[..., None]) + colour * near[..., None]
        out.append(picture)
    return np.stack(out).clip(0, 255).astype(np.uint8)


def _reencoded(images: np.ndarray, quality: int = 30, side: int = 72) -> np.ndarray:
    out = []
    for image in images:
        small = cv2.resize(image, (round(side * 160 / 112), side), interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out.append(cv2.convertScaleAbs(cv2.imdecode(data, cv2.IMREAD_COLOR), alpha=1.1, beta=6))
    return np.stack(out)


def _hashes(images: np.ndarray) -> np.ndarray:
    """Of all frames but the last, each with the next as the moment later."""
    return dedup.clip_hashes(images[:-1], images[1:])


def test_reencoded_copies_are_near_and_strangers_far() -> None:
    clips = [_hashes(_clip(seed)) for seed in range(12)]
    copies = [_hashes(_reencoded(_clip(seed))) for seed in range(12)]
    looks, motions = zip(*(dedup.distance(a, b) for a, b in zip(clips, copies, strict=True)), strict=True)
    other = [dedup.distance(a, b)[0] for a, b in itertools.combinations(clips, 2)]
    assert max(looks) < dedup.NEAR_BITS < min(other)
    assert max(motions) < dedup.MOTION_BITS


def test_the_same_scene_with_another_event_is_no_duplicate() -> None:
    """A fixed camera: one picture, something small moving in different places."""
    scene = np.repeat(_clip(4)[:1], 6, axis=0)
    y, x = np.mgrid[0:112, 0:160]
    clips = []
    for py, px in ((20, 20), (90, 130)):
        images = scene.copy()
        for t, image in enumerate(images):
            image[(y - py) ** 2 + (x - px - (9 if px < 80 else -9) * t) ** 2 < 80] = 255
        clips.append(_hashes(images))
    look, motion = dedup.distance(*clips)
    assert look <= dedup.NEAR_BITS
    assert motion is not None
    assert motion > dedup.MOTION_BITS
    assert dedup.near_pairs(clips) == []
    still = _hashes(scene)
    assert [(p.first, p.second) for p in dedup.near_pairs([still, still])] == [(0, 1)]


def test_pairs_equal_brute_force() -> None:
    clips = [_hashes(_clip(seed)) for seed in range(10)]
    clips += [_hashes(_reencoded(_clip(seed))) for seed in (2, 5, 5)]
    found = {(p.first, p.second) for p in dedup.near_pairs(clips)}
    brute = {(i, j) for i, j in itertools.combinations(range(13), 2) if dedup.same(*dedup.distance(clips[i], clips[j]))}
    assert found == brute == {(2, 10), (5, 11), (5, 12), (11, 12)}
    assert dedup.clusters(13, dedup.near_pairs(clips)) == [[2, 10], [5, 11, 12]]


def test_fast_pairs_equal_the_plain_rule_for_any_hashes() -> None:
    """Clips of 1 to 6 frames, some moving and some still, each with a copy that differs by a few bits."""
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(60):
        frames = int(rng.integers(1, 7))
        clip = rng.integers(0, 2**64, size=(frames, 2), dtype=np.uint64)
        clip[:, 1] *= rng.integers(0, 2, size=frames).astype(np.uint64)
        clips.append(clip)
        copy = clip.copy()
        copy[:, 0] ^= np.uint64(1) << rng.integers(0, 64, size=frames, dtype=np.uint64)
        copy[copy[:, 1] > 0, 1] ^= np.uint64(int(rng.choice([1, 0xFFFF])))
        clips.append(copy[:: int(rng.integers(1, 3))])
    sharing = [{(b, (int(h) >> (16 * b)) & 0xFFFF) for h in c[:, 0] for b in range(4)} for c in clips]
    plain = {
        (i, j)
        for i, j in itertools.combinations(range(120), 2)
        if sharing[i] & sharing[j] and dedup.same(*dedup.distance(clips[i], clips[j]))
    }
    assert {(p.first, p.second) for p in dedup.near_pairs(clips)} == plain
    assert 20 < len(plain) < 70
    across = {(p.first, p.second) for p in dedup.near_pairs(clips[::2], clips[1::2])}
    assert across == {(i // 2, j // 2) for i, j in plain if i % 2 == 0 and j % 2 == 1}
    assert dedup.near_pairs([]) == dedup.near_pairs([], clips) == []


def test_black_clips_are_not_all_one() -> None:
    black = _hashes(np.zeros((4, 64, 64, 3), np.uint8))
    assert dedup.near_pairs([black, black]) == []


def test_clips_of_other_lengths_are_laid_over_each_other() -> None:
    hashes = _hashes(_clip(3, frames=9))
    assert dedup.distance(hashes, hashes[::2])[0] < 16
    assert dedup.distance(hashes, hashes[:0]) == (64.0, None)


def _print(name: str, seed: int, *, sha: str = "", group: str = "", copy: bool = False) -> Fingerprint:
    images = _reencoded(_clip(seed)) if copy else _clip(seed)
    return Fingerprint(id=name, sha256=sha or name, group=group or name, hashes=_hashes(images))


@pytest.mark.parametrize(
    ("query", "by"),
    [
        (_print("q", 7, sha="t1"), "content"),
        (_print("q", 7, group="t1"), "group"),
        (_print("q", 1, copy=True), "look"),
    ],
)
def test_queries_that_show_what_the_test_split_shows_are_refused(query: Fingerprint, by: str) -> None:
    test = [_print("t0", 0), _print("t1", 1)]
    fine = _print("fine", 9)
    assert [(o.id, o.test_id, o.by) for o in leakage.overlaps([fine, query], test)] == [("q", "t1", by)]
    with pytest.raises(UsageError, match=rf"1 of 2 queries overlap .*q = t1 \({by}\)"):
        leakage.refuse([fine, query], test)
    leakage.refuse([fine], test)
