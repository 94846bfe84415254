"""What may change in a clip without changing what happens in it.

Pixels first (`augment_clip`): framing, colour, noise, blur, compression, borders, captions and a shaking camera, all of
which differ between the sources of a small training set and would otherwise be learned. Then the maps (`augment_maps`):
mirror, speed and erased blocks cost nothing there and differ on every step.
"""

from __future__ import annotations

import string
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from guard.types import UInt8Array

Picture = UInt8Array
_LETTERS = list(string.ascii_uppercase + string.digits + " :/")


def augment_clip(clip: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Return a changed copy of one burst, uint8 [L, H, W, 3] to [L, h, w, 3]; one draw holds for all its frames."""
    frames = _framed(clip, rng)
    lut = _tone(rng)
    gray = rng.random() < 0.12
    noise = rng.uniform(2, 10) if rng.random() < 0.25 else 0.0
    blur = rng.random() < 0.2
    quality = int(rng.integers(15, 80)) if rng.random() < 0.5 else 0
    overlay = _Overlay(frames[0].shape[:2], rng)
    changed = []
    for frame in frames:
        picture = np.repeat(_uint8(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))[..., None], 3, 2) if gray else frame
        picture = _uint8(cv2.LUT(picture, lut))
        if blur:
            picture = _uint8(cv2.GaussianBlur(picture, (3, 3), 0))
        if noise:
            grain = rng.normal(0, noise, picture.shape[:2])[..., None]
            picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
        picture = overlay(picture)
        changed.append(_recoded(picture, quality) if quality else picture)
    return np.stack(changed)


def augment_maps(pairs: Tensor, burst: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return changed copies of motion maps.

    `pairs` float32 [N, P, 5, h, w] and `burst` float32 [N, 7, h, w], as `motion` lays them out.
    """
    count = len(pairs)
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    sign = torch.where(mirrored, -1.0, 1.0).reshape(count, 1, 1, 1)
    pairs = torch.where(mirrored.reshape(count, 1, 1, 1, 1), pairs.flip(-1), pairs)
    burst = torch.where(mirrored.reshape(count, 1, 1, 1), burst.flip(-1), burst)
    speed = torch.from_numpy(np.exp(rng.normal(0, 0.25, count)).astype(np.float32)).reshape(count, 1, 1, 1)
    moved = torch.cat(
        [pairs[:, :, :1] * (sign * speed)[:, None], pairs[:, :, 1:3] * speed[:, None], pairs[:, :, 3:]], 2
    )
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.15, (count, 3, 1, 1))).astype(np.float32))
    shift = torch.from_numpy(rng.normal(0, 0.08, (count, 3, 1, 1)).astype(np.float32))
    burst = torch.cat([burst[:, :3] * gain + shift, burst[:, 3:]], 1)
    keep = _kept_blocks(count, pairs.shape[-2:], rng)
    return moved * keep[:, None], burst * keep


def _framed(clip: UInt8Array, rng: np.random.Generator) -> list[Picture]:
    """Crop, stretch a little, and in some clips let the camera drift."""
    height, width = clip.shape[1:3]
    zoom = rng.uniform(0.65, 1)
    rows, columns = int(height * zoom * rng.uniform(0.9, 1)), int(width * zoom * rng.uniform(0.9, 1))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    drift_y, drift_x = rng.normal(0, 1.5, 2) if rng.random() < 0.3 else (0.0, 0.0)
    frames = []
    for index, frame in enumerate(clip):
        y = int(np.clip(top + drift_y * index, 0, height - rows))
        x = int(np.clip(left + drift_x * index, 0, width - columns))
        frames.append(np.ascontiguousarray(frame[y : y + rows, x : x + columns]))
    return frames


def _tone(rng: np.random.Generator) -> UInt8Array:
    gamma, gains = np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0, 0.1, 3) + rng.normal(0, 0.1))
    curve = 255 * (np.arange(256)[:, None] / 255) ** gamma * gains
    return _uint8(np.clip(curve, 0, 255).astype(np.uint8)[:, None])


def _recoded(picture: Picture, quality: int) -> Picture:
    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return _uint8(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def _uint8(picture: Any) -> Picture:
    return np.asarray(picture, np.uint8)


class _Overlay:
    """Black borders and a line of text, in some clips: both occur in all classes and mean nothing."""

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        height, width = shape
        bordered, captioned = rng.random() < 0.25, rng.random() < 0.3
        self.rows = int(rng.uniform(0, 0.2) * height) if bordered else 0
        self.columns = int(rng.uniform(0, 0.12) * width) if bordered else 0
        self.text = "".join(rng.choice(_LETTERS, 12)) if captioned else ""
        self.place = (int(rng.uniform(0, 0.7) * width), int(rng.uniform(0, 0.85) * height) + 12)
        red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
        self.colour = (red, green, blue)

    def __call__(self, picture: Picture) -> Picture:
        picture = picture.copy()
        if self.rows:
            picture[: self.rows] = picture[-self.rows :] = 0
        if self.columns:
            picture[:, : self.columns] = picture[:, -self.columns :] = 0
        if self.text:
            cv2.putText(picture, self.text, self.place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, self.colour, 1)
        return picture


def _kept_blocks(count: int, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Return float32 [N, 1, h, w]: 0 in one random block of some items."""
    rows, columns = shape
    keep = torch.ones(count, 1, rows, columns)
    for index in np.flatnonzero(rng.random(count) < 0.3):
        height, width = (int(rng.integers(length // 6, length // 2)) for length in shape)
        top, left = int(rng.integers(0, rows - height)), int(rng.integers(0, columns - width))
        keep[index, :, top : top + height, left : left + width] = 0
    return keep
