"""What moves in a burst, apart from the camera: small maps made by hand, so that 400 clips suffice to learn from.

Per pair of neighbouring frames: optical flow (DIS) with the camera's own motion (a robustly fitted affine field)
taken out, its peak, the frame difference, and what the flow cannot explain (blows, falls and debris deform; walking
does not). Per burst: colour, texture, flicker and fire-like chroma.

Everything is made twice: for the whole picture, and for the smallest window that holds most of the motion. People
far from a surveillance camera fill a few pixels and move a fraction of a pixel; in their window they look and move
like people who stand close, so one camera's walking is not another's fighting.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from guard.types import Float32Array, UInt8Array, require

GRID = (20, 30)
"""Rows and columns of the maps."""
VIEWS = 2
"""The whole picture, and the window of motion."""
PAIR_CHANNELS = 5
"""Per pair: own flow x and y (px at 80 x 120), its peak in the cell, |difference| / 16, |unexplained| / 16."""
BURST_CHANNELS = 7
"""Per burst: mean R, G, B in [0, 1], texture, luminance flicker, peak of fire-like chroma, chroma flicker."""

_CELL = 4
_SIZE = (GRID[0] * _CELL, GRID[1] * _CELL)
_COARSE = (GRID[0] // 2, GRID[1] // 2)
_DARK = 24  # black bars carry coding noise up to about 16 + a few levels
_STILL_PX = 0.1  # own motion below this is noise of the flow
_WINDOWS = (0.34, 0.5, 0.67)  # sides of the window of motion, as shares of the picture
_HELD = 0.6  # share of the motion that a window must hold
_XX, _YY = np.meshgrid(np.arange(_SIZE[1], dtype=np.float32), np.arange(_SIZE[0], dtype=np.float32))
_KERNEL = np.ones((_CELL, _CELL), np.uint8)
_LOCAL = threading.local()  # a DIS object keeps work buffers, so threads must not share one

Map = NDArray[Any]
Camera = Float32Array
"""float32 [P, 3, 2]: per pair an affine field, flow = (1, x, y) @ field with x and y in [-1, 1]."""


def channels(clip_frames: int) -> int:
    """Return the number of channels of a view for bursts of `clip_frames`."""
    return PAIR_CHANNELS * (clip_frames - 1) + BURST_CHANNELS


def motion_maps(clip: UInt8Array) -> NDArray[np.float16]:
    """Return float16 [2, C, 20, 30] for one burst, uint8 [L >= 2, H, W, 3] RGB; pairs first, then the burst."""
    require(clip.ndim == 4 and len(clip) >= 2 and clip.shape[3] == 3, "clip", "[L >= 2, H, W, 3]", clip.shape)
    top, bottom, left, right = content_box(clip)
    frames = [np.ascontiguousarray(frame[top:bottom, left:right]) for frame in clip]
    whole, cameras = _view(frames, None)
    pairs = len(clip) - 1
    speed = sum(np.hypot(whole[PAIR_CHANNELS * i], whole[PAIR_CHANNELS * i + 1]) for i in range(pairs)) / pairs
    row, column, rows, columns = motion_window(np.maximum(speed - _STILL_PX, 0))
    if (rows, columns) == GRID:
        return np.stack([whole, whole]).astype(np.float16)
    height, width = frames[0].shape[:2]
    first_y, last_y = row * height // GRID[0], (row + rows) * height // GRID[0]
    first_x, last_x = column * width // GRID[1], (column + columns) * width // GRID[1]
    cut = [np.ascontiguousarray(frame[first_y:last_y, first_x:last_x]) for frame in frames]
    middle = ((first_x + last_x) / width - 1, (first_y + last_y) / height - 1)
    seen = _seen_from_window(cameras, middle, (last_y - first_y) / height)
    return np.stack([whole, _view(cut, seen)[0]]).astype(np.float16)


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


def motion_window(energy: Map) -> tuple[int, int, int, int]:
    """Return row, column, rows, columns of the smallest window that holds most of `energy`, float [20, 30], >= 0.

    Without any motion, or with motion everywhere, that is the whole grid.
    """
    floor = energy.astype(np.float64) + 0.004
    total, summed = floor.sum(), cv2.integral(floor)
    for share in _WINDOWS:
        rows, columns = round(GRID[0] * share), round(GRID[1] * share)
        held = summed[rows:, columns:] - summed[:-rows, columns:] - summed[rows:, :-columns] + summed[:-rows, :-columns]
        best = int(held.argmax())
        row, column = divmod(best, held.shape[1])
        if held[row, column] >= _HELD * total:
            return row, column, rows, columns
    return 0, 0, *GRID


def _basis(shape: tuple[int, int]) -> Float32Array:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    x, y = (columns.ravel() + 0.5) / shape[1] * 2 - 1, (rows.ravel() + 0.5) / shape[0] * 2 - 1
    return np.stack([np.ones_like(x), x, y], 1)


_FINE_BASIS, _COARSE_BASIS = _basis(GRID), _basis(_COARSE)
_OUTER = (_COARSE_BASIS[:, :, None] * _COARSE_BASIS[:, None, :]).reshape(-1, 9)
_RIDGE = 1e-3 * np.eye(3, dtype=np.float32)


def camera_motion(flows: list[Map]) -> Camera:
    """Fit an affine field to each flow [20, 30, 2]: float32 [P, 3, 2].

    Robustly: what moves on its own gets little weight.
    """
    coarse = np.stack([cv2.resize(flow, _COARSE[::-1], interpolation=cv2.INTER_AREA) for flow in flows])
    coarse = coarse.reshape(len(flows), -1, 2)
    weight = np.ones(coarse.shape[:2], np.float32)
    fields = np.zeros((len(flows), 3, 2), np.float32)
    middle = coarse.shape[1] // 2
    for _ in range(4):
        normal = (weight @ _OUTER).reshape(-1, 3, 3) + _RIDGE
        fields = np.linalg.solve(normal, _COARSE_BASIS.T @ (coarse * weight[..., None])).astype(np.float32)
        residual = np.abs(coarse - _COARSE_BASIS @ fields).sum(2)
        usual = np.partition(residual, middle, axis=1)[:, middle, None] + 0.05
        weight = (1 / (1 + (residual / (2 * usual)) ** 2)).astype(np.float32)
    return fields


def _seen_from_window(cameras: Camera, middle: tuple[float, float], share: float) -> Camera:
    """Express the whole picture's fields in the coordinates and pixels of a window: most of it moves on its own."""
    at_middle = cameras[:, 0] + cameras[:, 1] * middle[0] + cameras[:, 2] * middle[1]
    return np.stack([at_middle, cameras[:, 1] * share, cameras[:, 2] * share], 1).astype(np.float32) / np.float32(share)


def _view(pictures: list[Map], cameras: Camera | None) -> tuple[Float32Array, Camera]:
    frames = [cv2.resize(picture, _SIZE[::-1], interpolation=cv2.INTER_LINEAR) for picture in pictures]
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = [_dis().calc(first, second, None) for first, second in itertools.pairwise(grays)]
    cells = [_cells(flow) for flow in flows]
    fields = camera_motion(cells) if cameras is None else cameras
    maps: list[Map] = []
    for index, (first, second) in enumerate(itertools.pairwise(grays)):
        maps += _pair(first, second, flows[index], cells[index], fields[index])
    return np.stack([*maps, *_burst(frames, grays)]).astype(np.float32), fields


def _pair(first: Map, second: Map, flow: Map, cells: Map, field: Float32Array) -> list[Map]:
    shift = (_FINE_BASIS @ field).reshape(*GRID, 2)
    own = cells - shift
    fine = flow - cv2.resize(shift, _SIZE[::-1])
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
        _LOCAL.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        _LOCAL.dis.setFinestScale(1)  # the presets stop at a quarter of the size, where hands and feet are gone
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
