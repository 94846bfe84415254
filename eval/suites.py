"""Suites that the project renders: clips with a known answer, kept below one folder and made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector
from eval.painting import FPS, Scene
from eval.rendering import encode
from eval.types import About, Benchmark, Column, Gold
from guard.types import Policy

VERSION = 1
"""Raise when a scene changes: it is part of the data hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One clip before it is drawn."""

    scene: Scene
    seconds: float
    gold: Gold
    policies: tuple[str, ...] = ("",)
    fps: int = FPS


def render(path: Path, clip: Rendered) -> Path:
    """Write the clip unless it is there; returns its path."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = encode(lambda n: clip.scene(n / clip.fps), round(clip.seconds * clip.fps), fps=clip.fps)
        partial = path.with_suffix(".part")
        partial.write_bytes(data)
        partial.replace(path)
    return path


def finish_suite(
    name: str,
    about: About,
    columns: Sequence[Column],
    clips: Iterable[Rendered],
    folder: Path,
    *,
    settings: str,
    policies: Mapping[str, Policy] | None = None,
    protocols: tuple[str, ...] = (),
) -> Benchmark:
    """Return the benchmark of rendered clips; `settings` and `VERSION` make up its data hash."""
    marks = hashlib.sha256(f"{name} {VERSION} {settings}".encode()).hexdigest()[:16]
    found = Collector(benchmark=name, get=about.get)
    for clip in clips:
        file = hashlib.sha256(f"{marks} {clip.gold.clip or clip.gold.name}".encode()).hexdigest()[:16]
        path = render(folder / f"{file}.mp4", clip)
        for policy in clip.policies:
            found.video(path, clip.gold, wanted=clip.gold.name, policy=policy)
    return finish(found, about, columns, data_hash=marks, policies=policies, protocols=protocols)


def about_suite(title: str, *notes: str) -> About:
    """Return what a rendered suite is."""
    return About(
        title=title,
        kind="video",
        source="rendered by this project",
        licence="Apache-2.0",
        get="Nothing to get: the clips are rendered on the spot (--data DIR keeps them there).",
        layout=(),
        notes=notes,
    )
