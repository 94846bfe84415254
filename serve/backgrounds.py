"""Fit what ordinary clips look like to the configured encoder: the ruler for rules that are given by examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guard.config import Settings
from guard.errors import InputError, InvalidConfig, InvalidManifest
from policies.background import BackgroundFile
from policies.example_detector import Embedder, Moments
from policies.few_shot import LEAST_BACKGROUND, pool_windows
from serve.inputs import list_inputs
from serve.stages import Stages

MANIFESTS = frozenset({".jsonl", ".csv"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A background, and the clips that it could not be made of."""

    background: BackgroundFile
    failed: tuple[str, ...]
    """One sentence for each."""


def ordinary_clips(paths: Iterable[str]) -> list[Path]:
    """Return the clips to learn from: all below `paths`, and of a manifest the train rows without labels.

    Raises:
        InvalidManifest: a manifest is not readable, or holds no such row.
    """
    found: list[Path] = []
    for path in paths:
        if Path(path).suffix.lower() in MANIFESTS and Path(path).is_file():
            found += _ordinary_rows(Path(path))
        else:
            found += [Path(entry.path) for entry in list_inputs([path]).inputs]
    return found


def _ordinary_rows(manifest: Path) -> list[Path]:
    from fast_path.dataset import read_manifest

    rows = [row for row in read_manifest(manifest) if row.split == "train" and not row.labels and not row.still]
    if not rows:
        raise InvalidManifest(f"{manifest} has no train row without labels; a background is made of those.")
    return [row.path for row in rows]


def fit(clips: Sequence[Path], settings: Settings, progress: Stages) -> Fitted:
    """Embed `clips` as a scan would, and return their windows.

    Raises:
        InvalidConfig: no encoder is configured, or too few clips could be read.
    """
    from guard.api import limits_of
    from guard.video.sampling import SamplingConfig
    from guard.video.sandbox import SandboxedDecoder
    from guard.video.source import open_video

    embedder = embedder_in(settings)
    limits = limits_of(settings)
    sampling = SamplingConfig(max_gap_seconds=settings.max_gap_seconds, seed=settings.seed)
    windows, failed, seen = [], [], set()
    with SandboxedDecoder(workers=1, limits=limits, sampling=sampling, reader=settings.reader) as decoder:
        for number, clip in enumerate(clips, start=1):
            try:
                video = open_video(clip, limits=limits)
                moments = Moments(embedder)
                if video.sha256 not in seen:
                    decoder.feed(video, embedder.needs, moments)
                    windows.append(pool_windows(moments.embeddings))
                seen.add(video.sha256)
            except InputError as error:
                failed.append(f"{clip}: {error.message}")
            progress("embed", number, len(clips))
    if len(windows) < LEAST_BACKGROUND:
        raise InvalidConfig(
            f"A background needs at least {LEAST_BACKGROUND} different clips; {len(windows)} of {len(clips)} could be "
            "read.",
            hint="Give more ordinary clips: nothing that any rule is about.",
        )
    vectors = np.concatenate(windows).astype(np.float32)
    return Fitted(
        background=BackgroundFile(vectors=vectors, encoder=embedder.fingerprint, clips=len(windows)),
        failed=tuple(failed),
    )


def embedder_in(settings: Settings) -> Embedder:
    """Return the first encoder of the configured detectors. Raises `InvalidConfig` where there is none."""
    from fast_path.embedder import embedder_of
    from fast_path.loading import load_detectors

    for detector in load_detectors(settings.detectors, settings.fast_checkpoint):
        embedder = embedder_of(detector)
        if embedder is not None:
            return embedder
    raise InvalidConfig(
        f"None of the detectors {', '.join(settings.detectors) or '(none)'} has an encoder.",
        hint="Add 'tiny' to `detectors`.",
    )
