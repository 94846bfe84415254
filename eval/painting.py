"""Scenes that the project's own suites are drawn from: calm ones, flames, flashes, shapes and painted words.

Nothing here comes from the training data or from the demo; a scene is fixed by its seed.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from guard.types import UInt8Array

WIDTH, HEIGHT, FPS = 320, 240, 12
Scene = Callable[[float], UInt8Array]
"""From a time in seconds to uint8 [HEIGHT, WIDTH, 3], RGB."""

SHAPE_COLOURS = {"red": (215, 45, 40), "green": (45, 185, 65), "blue": (45, 85, 225), "yellow": (225, 205, 45)}


def calm(seed: int) -> Scene:
    """Return a sky over land in which a dot moves slowly: nothing to object to."""
    rng = np.random.default_rng((seed, 1))
    top, bottom, land = (rng.integers(40, 200, 3) for _ in range(3))
    horizon, speed, phase = rng.uniform(0.45, 0.75), rng.uniform(0.1, 0.5), rng.uniform(0, 6)
    rows = np.linspace(0, 1, HEIGHT)[:, None]
    sky = top + (bottom - top) * rows
    base = np.where(rows < horizon, sky, land).astype(np.uint8)[:, None, :].repeat(WIDTH, axis=1)
    texture = rng.integers(-12, 12, base.shape, dtype=np.int16)
    still = np.clip(base + texture, 0, 255).astype(np.uint8)

    def scene(seconds: float) -> UInt8Array:
        image = still.copy()
        x = int(WIDTH * (0.5 + 0.4 * np.sin(speed * seconds + phase)))
        cv2.circle(image, (x, int(HEIGHT * horizon)), 14, tuple(int(c) for c in land // 2), -1, cv2.LINE_AA)
        return np.asarray(image, np.uint8)

    return scene


def flames(seed: int) -> Scene:
    """Return a dark place in which flames lick upwards: layered noise that rises, in the colours of a glowing body."""
    rng = np.random.default_rng((seed, 2))
    lattice = rng.random((3, 96, 48)).astype(np.float32)
    centre, width = rng.uniform(0.35, 0.65), rng.uniform(0.18, 0.3)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    y, x = y / HEIGHT, x / WIDTH
    dark = np.stack([14 + 20 * y, 12 + 14 * y, 16 + 8 * y], axis=-1)

    def scene(seconds: float) -> UInt8Array:
        heat = np.zeros_like(y)
        for layer, (scale, speed, weight) in enumerate(((1.0, 0.7, 0.6), (2.0, 1.1, 0.4))):
            shifted = np.roll(lattice[layer], -int(seconds * speed * 48), axis=0)
            tile = cv2.resize(
                shifted[: int(48 / scale), : int(48 / scale)], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
            )
            heat += weight * tile
        sway = 0.05 * np.sin(5 * seconds + 7 * y)
        plume = np.clip(1.25 - ((x - centre - sway) / (width * (0.35 + 0.65 * y))) ** 2, 0, 1)
        glow = np.clip(plume * y**1.2 * (0.3 + 1.3 * heat), 0, 1)[..., None]
        colour = np.concatenate([np.clip(glow * k - o, 0, 1) for k, o in ((2.8, 0.0), (2.0, 0.4), (2.2, 1.4))], axis=-1)
        return np.asarray(np.clip(dark * (1 - glow) + 255 * colour, 0, 255), np.uint8)

    return scene


def shape(seed: int, kind: str | None) -> Scene:
    """Return a plain room in which a shape drifts, such as `red circle`; None shows none."""
    rng = np.random.default_rng((seed, 3))
    wall = np.clip(rng.integers(60, 130, 3) + rng.normal(0, 4, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    x0, y0, phase = rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6), rng.uniform(0, 6)

    def scene(seconds: float) -> UInt8Array:
        image = wall.copy()
        if kind is None:
            return image
        colour, form = kind.split()
        x, y = int(WIDTH * (x0 + 0.15 * np.sin(seconds + phase))), int(HEIGHT * y0)
        ink, r = SHAPE_COLOURS[colour], HEIGHT // 5
        if form == "circle":
            cv2.circle(image, (x, y), r, ink, -1, cv2.LINE_AA)
        elif form == "square":
            cv2.rectangle(image, (x - r, y - r), (x + r, y + r), ink, -1)
        else:
            corners = np.array([[x, y - r], [x - r, y + r], [x + r, y + r]], np.int32)
            cv2.fillPoly(image, [corners], ink, cv2.LINE_AA)
        return image

    return scene


def flashing(hertz: float, *, colour: str = "white", area: float = 1.0, depth: float = 1.0) -> Scene:
    """Return a screen that flashes `hertz` times a second over a share `area` of it; `depth` 1 is black to full."""
    light = {"white": (235, 235, 235), "red": (230, 10, 10)}[colour]
    dark = np.array((16, 16, 16) if colour == "white" else (40, 40, 40), np.float64)
    high = dark + (np.array(light, np.float64) - dark) * depth
    rows = round(HEIGHT * area)

    def scene(seconds: float) -> UInt8Array:
        image = np.full((HEIGHT, WIDTH, 3), 96, np.uint8)
        lit = int(np.floor(seconds * hertz * 2 + 1e-9)) % 2 == 1
        image[:rows] = (high if lit else dark).astype(np.uint8)
        return image

    return scene


def swelling(hertz: float) -> Scene:
    """Return a screen whose brightness swells smoothly and little: changes below a tenth, which are no flashes."""

    def scene(seconds: float) -> UInt8Array:
        level = 120 + 7 * np.sin(2 * np.pi * hertz * seconds)
        return np.full((HEIGHT, WIDTH, 3), round(level), np.uint8)

    return scene


def with_words(scene: Scene, words: str) -> Scene:
    """Return the scene with words painted over the lower part."""

    def painted(seconds: float) -> UInt8Array:
        image = scene(seconds).copy()
        for thickness, ink in ((3, (0, 0, 0)), (1, (255, 255, 255))):
            cv2.putText(image, words, (8, HEIGHT - 18), cv2.FONT_HERSHEY_SIMPLEX, 0.6, ink, thickness, cv2.LINE_AA)
        return image

    return painted


def inserted(calm_scene: Scene, event: Scene, start: float, seconds: float) -> Scene:
    """Return the calm scene with the event cut in from `start` for `seconds`."""

    def scene(now: float) -> UInt8Array:
        return event(now - start) if start <= now < start + seconds else calm_scene(now)

    return scene
