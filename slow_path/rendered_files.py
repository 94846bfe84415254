"""The rendered task as files on disk: clips to scan, a policy, a manifest, for tests and benchmarks of `guard`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from slow_path import rendered
from slow_path.rendered import Clip

FPS = 10
"""Times of the task are tenths of a second, so each falls on a frame."""


def write_clip(path: Path, clip: Clip, *, side: int = 112) -> None:
    """Write `clip` as H.264: each of its pictures stays on screen until the next one's time."""
    import av

    rng = np.random.default_rng((clip.seed, 1))
    starts = [round(t * FPS) for t in clip.times_seconds]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in range(round(clip.duration_seconds * FPS)):
            shown = max((i for i, start in enumerate(starts) if start <= frame), default=0)
            image = rendered.picture(clip, shown, side, rng)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def seen_between(clip: Clip, rule: str) -> tuple[tuple[float, float], ...]:
    """Return the stretches of the file, in seconds, that show `rule` violated; empty where it is not."""
    ends = [*clip.times_seconds[1:], clip.duration_seconds]
    firsts = {clip.times(event)[0]: ends[event.last] for event in clip.events}
    return tuple((start, firsts[start]) for start in rendered.evidence(clip, rule))


def write_policy(path: Path, rules: Sequence[str]) -> None:
    """Write a policy of some of `rendered.RULES` as YAML."""
    lines = ["schema: 1", "name: shapes", 'version: "1"', "description: Coloured shapes.", "rules:"]
    for rule in rules:
        lines += [f"  {rule}:", "    state: block", "    name: shape", f"    definition: {rendered.rule_text(rule)}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_manifest(path: Path, clips: Iterable[tuple[str, Clip, str]], rules: Sequence[str]) -> None:
    """Write a manifest of (file, clip, split), labelled with those of `rules` that each clip violates."""
    lines = [
        {
            "path": file,
            "labels": [rule for rule in rules if rendered.evidence(clip, rule)],
            "split": split,
            "group": file,
        }
        for file, clip, split in clips
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
