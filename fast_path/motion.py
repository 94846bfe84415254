"""What moves in a burst, apart from the camera: small maps made by hand, so that 400 clips suffice to learn from.

Per pair of neighbouring frames: optical flow (DIS) with the camera's own motion (a robustly fitted affine field)
taken out, its peak, the frame difference, and what the flow cannot explain (blows, falls and debris deform; walking
does not). Per burst: colour, texture, flicker and fire-like chroma. All on a grid of 24 x 36 cells, whatever the
size and borders of the input.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from guard.types import Float32Array, UInt8Array, require

GRID = (24, 36)
"""Rows and columns of the maps."""
PAIR_CHANNELS = 5
"""Per pair: residual flow x and y (px at 96 x 144), its peak in the cell, |difference| / 16, |unexplained| / 16."""
BURST_CHANNELS = 7
"""Per burst: mean R, G, B in [0, 1], texture, luminance flicker, peak of fire-like chroma, chroma flicker."""

_CELL = 4
_SIZE = (GRID[0] * _CELL, GRID[1] * _CELL)
_COARSE = (12, 18)
_DARK = 24  # black bars carry coding noise up to about 16 + a few levels
_XX, _YY = np.meshgrid(np.arange(_SIZE[1], dtype=np.float32), np.arange(_SIZE[0], dtype=np.float32))
_KERNEL = np.ones((_CELL, _CELL), np.uint8)
_LOCAL = threading.local()  # a DIS object keeps work buffers, so threads must not share one

Map = NDArray[Any]


def channels(clip_frames: int) -> int:
    """Return the number of channels of `motion_maps` for bursts of `clip_frames`."""
    return PAIR_CHANNELS * (clip_frames - 1) + BURST_CHANNELS


def motion_maps(clip: UInt8Array) -> NDArray[np.float16]:
    """Return float16 [C, 24, 36] for one burst, uint8 [L >= 2, H, W, 3] RGB; pairs first, then the burst."""
    require(clip.ndim == 4 and len(clip) >= 2 and clip.shape[3] == 3, "clip", "[L >= 2, H, W, 3]", clip.shape)
    top, bottom, left, right = content_box(clip)
    frames = [
        cv2.resize(np.ascontiguousarray(frame[top:bottom, left:right]), _SIZE[::-1], interpolation=cv2.INTER_AREA)
        for frame in clip
    ]
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    maps = [layer for first, second in itertools.pairwise(grays) for layer in _pair(first, second)]
    return np.stack([*maps, *_burst(frames, grays)]).astype(np.float16)


def content_box(clip: UInt8Array) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of what is not a black border in uint8 [L, H, W, 3].

    Borders come with the source of a clip, not with what happens in it. A picture that is dark nearly everywhere is
    left whole.
    """
    height, width = clip.shape[1:3]
    brightest: Map = cv2.cvtColor(np.ascontiguousarray(clip[0]), cv2.COLOR_RGB2GRAY)
    for frame in clip[2::2]:
        brightest = cv2.max(brightest, cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY))
    lit = (brightest > _DARK).astype(np.float32)
    rows = np.flatnonzero(cv2.reduce(lit, 1, cv2.REDUCE_AVG)[:, 0] > 0.05)
    columns = np.flatnonzero(cv2.reduce(lit, 0, cv2.REDUCE_AVG)[0] > 0.05)
    if len(rows) < 0.4 * height or len(columns) < 0.4 * width:
        return 0, height, 0, width
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _basis(shape: tuple[int, int]) -> Float32Array:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    x, y = (columns.ravel() + 0.5) / shape[1] * 2 - 1, (rows.ravel() + 0.5) / shape[0] * 2 - 1
    return np.stack([np.ones_like(x), x, y], 1)


_FINE_BASIS, _COARSE_BASIS = _basis(GRID), _basis(_COARSE)
_OUTER = (_COARSE_BASIS[:, :, None] * _COARSE_BASIS[:, None, :]).reshape(-1, 9)
_RIDGE = 1e-3 * np.eye(3, dtype=np.float32)


def camera_motion(flow: Map) -> Float32Array:
    """Fit an affine field float32 [3, 2] to flow [24, 36, 2], robustly: what moves on its own gets little weight."""
    coarse = cv2.resize(flow, _COARSE[::-1], interpolation=cv2.INTER_AREA).reshape(-1, 2)
    weight = np.ones(len(coarse), np.float32)
    field = np.zeros((3, 2), np.float32)
    for _ in range(4):
        normal = (weight @ _OUTER).reshape(3, 3) + _RIDGE
        field = np.linalg.solve(normal, _COARSE_BASIS.T @ (coarse * weight[:, None])).astype(np.float32)
        residual = np.abs(coarse - _COARSE_BASIS @ field).sum(1)
        middle = np.partition(residual, len(residual) // 2)[len(residual) // 2] + 0.05
        weight = (1 / (1 + (residual / (2 * middle)) ** 2)).astype(np.float32)
    return field


def _pair(first: Map, second: Map) -> list[Map]:
    flow = _dis().calc(first, second, None)
    cells = _cells(flow)
    camera = (_FINE_BASIS @ camera_motion(cells)).reshape(*GRID, 2)
    own = cells - camera
    fine = flow - cv2.resize(camera, _SIZE[::-1])
    warped = cv2.remap(
        second, _XX + flow[..., 0], _YY + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return [
        own[..., 0],
        own[..., 1],
        _peaks(cv2.magnitude(fine[..., 0], fine[..., 1])),
        _cells(cv2.absdiff(first, second)).astype(np.float32) / 16,
        _cells(cv2.absdiff(first, warped)).astype(np.float32) / 16,
    ]


def _burst(frames: list[Map], grays: list[Map]) -> list[Map]:
    middle = len(frames) // 2
    colour = _cells(frames[middle]).astype(np.float32) / 255
    gray = grays[middle].astype(np.float32)
    texture = np.sqrt(np.maximum(_cells(gray * gray) - _cells(gray) ** 2, 0)) / 32
    warmth = [cv2.subtract(frame[..., 0], frame[..., 2]) for frame in frames]  # saturates at 0: only warm colours
    red = np.ascontiguousarray(frames[middle][..., 0])
    flame = cv2.min(warmth[middle], cv2.subtract(red, np.full_like(red, 80)))
    return [
        colour[..., 0],
        colour[..., 1],
        colour[..., 2],
        texture,
        _cells(_deviation(grays)) / 32,
        _peaks(flame).astype(np.float32) / 64,
        _cells(_deviation(warmth)) / 32,
    ]


def _dis() -> Any:
    if not hasattr(_LOCAL, "dis"):
        _LOCAL.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return _LOCAL.dis


def _cells(layer: Map) -> Map:
    return cv2.resize(layer, GRID[::-1], interpolation=cv2.INTER_AREA)


def _peaks(layer: Map) -> Map:
    return cv2.dilate(layer, _KERNEL, anchor=(0, 0))[::_CELL, ::_CELL]


def _deviation(layers: list[Map]) -> Map:
    floats = [layer.astype(np.float32) for layer in layers]
    mean = sum(floats[1:], floats[0]) / len(floats)
    spread = sum(((layer - mean) ** 2 for layer in floats), np.zeros_like(floats[0]))
    return cv2.sqrt(spread / len(floats))
