"""Clips that the demo renders: some harmless, some that must be flagged, some broken. No footage, no rights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guard.types import Float32Array, UInt8Array

WIDTH, HEIGHT, FPS = 320, 240, 24
Picture = Callable[[float], UInt8Array]
"""From a time in seconds to a uint8 [HEIGHT, WIDTH, 3] RGB picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the scan must say of a clip."""

    file: str
    decisions: tuple[str, ...]
    """The decisions that are right."""
    flagged: str | None = None
    """A category that must be flagged."""
    error: tuple[str, ...] = ()
    """The error codes of which one must be given."""
    why: str = ""


def render_clips(folder: Path) -> list[Expected]:
    """Write the clips into `folder` and return what is expected of each, in the order of a scan."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: Mapping[str, tuple[Picture, float]] = {
        "ball.mp4": (ball, 5.0),
        "fire.mp4": (fire, 8.0),
        "flashing-6hz.mp4": (flashing, 4.0),
        "sunset.mp4": (sunset, 5.0),
    }
    for name, (picture, seconds) in pictures.items():
        write_clip(folder / name, picture, seconds)
    shutil.copyfile(folder / "flashing-6hz.mp4", folder / "reupload.mp4")
    whole = (folder / "ball.mp4").read_bytes()
    (folder / "cut-off.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    (folder / "notes.mp4").write_text("This is not a video, and says so in its results.\n", encoding="utf-8")
    return [
        Expected(file="ball.mp4", decisions=("allow", "review"), why="a ball, bouncing"),
        Expected(
            file="cut-off.mp4",
            decisions=("undecided",),
            error=("truncated", "undecodable"),
            why="the bouncing ball, its file cut off after 60 % of its bytes",
        ),
        Expected(file="fire.mp4", decisions=("block", "review"), why="rendered flames, from 3 s on"),
        Expected(
            file="flashing-6hz.mp4",
            decisions=("block",),
            flagged="flashing.general",
            why="black and white, 6 times a second",
        ),
        Expected(
            file="notes.mp4",
            decisions=("undecided",),
            error=("unsupported_media_type",),
            why="text under the name of a video",
        ),
        Expected(
            file="reupload.mp4",
            decisions=("block",),
            flagged="flashing.general",
            why="the flashing clip again, byte for byte",
        ),
        Expected(file="sunset.mp4", decisions=("allow", "review"), why="slow warm colours"),
    ]


def write_clip(path: Path, picture: Picture, seconds: float) -> None:
    """Render `picture` as H.264 in fragmented MP4: a file cut off in the middle still opens."""
    import av

    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "veryfast", "g": str(FPS)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for image in _images(picture, seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def ball(seconds: float) -> UInt8Array:
    """Return a ball that bounces over a still background."""
    x, y = _grid()
    centre_x = 0.5 + 0.35 * np.sin(seconds * 1.3)
    centre_y = 0.75 - 0.5 * abs(np.sin(seconds * 2.2))
    inside = ((x - centre_x) * WIDTH / HEIGHT) ** 2 + (y - centre_y) ** 2 < 0.01
    background = np.stack([0.55 + 0.1 * y, 0.65 + 0.1 * y, 0.75 - 0.15 * y], axis=-1)
    return _pixels(np.where(inside[..., None], np.array([0.2, 0.35, 0.6]), background))


def flashing(seconds: float) -> UInt8Array:
    """Return black or white, changing 12 times a second: 6 flashes, twice what WCAG 2.3.1 allows."""
    return np.full((HEIGHT, WIDTH, 3), 235 if int(seconds * 12) % 2 else 15, np.uint8)


def sunset(seconds: float) -> UInt8Array:
    """Return a sky that slowly turns from blue to orange."""
    _, y = _grid()
    warm = min(1.0, seconds / 5.0)
    sky = np.stack([0.35 + 0.45 * warm * (1 - y), 0.45 - 0.1 * warm + 0.1 * y, 0.7 - 0.4 * warm * y], axis=-1)
    return _pixels(sky)


def _images(picture: Picture, seconds: float) -> Iterator[UInt8Array]:
    for index in range(round(seconds * FPS)):
        yield picture(index / FPS)


def _grid() -> tuple[Float32Array, Float32Array]:
    """Return x and y of each pixel in [0, 1], float32 [HEIGHT, WIDTH]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return x / WIDTH, y / HEIGHT


def _pixels(image: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> UInt8Array:
    pixels: UInt8Array = np.clip(image * 255, 0, 255).astype(np.uint8)
    return pixels


def fire(seconds: float) -> UInt8Array:
    """Return a night in which flames break out after three seconds: rising noise in the colours of a glowing body."""
    x, y = _grid()
    rise = _noise(x * 7, y * 5 + seconds * 3.2, 11) * 0.6 + _noise(x * 15, y * 11 + seconds * 5.1, 23) * 0.4
    width = 0.42 - 0.28 * (1 - y)
    plume = np.clip(1.4 - ((x - 0.5 - 0.06 * np.sin(seconds * 5 + y * 6)) / width) ** 2, 0, 1)
    grown = min(1.0, max(0.0, seconds - 3.0))
    heat = np.clip(grown * plume * (y**1.5) * (0.25 + 1.5 * rise), 0, 1)
    glow = np.stack(
        [np.clip(heat * 2.6, 0, 1), np.clip(heat * 1.9 - 0.35, 0, 1), np.clip(heat * 2.2 - 1.35, 0, 1)], axis=-1
    )
    night = np.stack([0.07 + 0.12 * y, 0.06 + 0.07 * y, 0.08 + 0.03 * y], axis=-1)
    return _pixels(night * (1 - heat[..., None]) + glow)


def _noise(x: Float32Array, y: Float32Array, seed: int) -> Float32Array:
    """Return smooth value noise in [0, 1] at the given places (cubic blend of a random lattice)."""
    lattice = np.random.default_rng(seed).random((64, 64), dtype=np.float32)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)

    def at(dx: int, dy: int) -> Float32Array:
        corner: Float32Array = lattice[(row + dy) % 64, (column + dx) % 64]
        return corner

    blended: Float32Array = (at(0, 0) * (1 - u) + at(1, 0) * u) * (1 - v) + (at(0, 1) * (1 - u) + at(1, 1) * u) * v
    return blended
