"""Everything a training run looks at, prepared once: the encoder's fixed front over clean and augmented passes.

Decoding and hand-made features cost far more than a training step, so they are done once per video, in worker
processes, and kept on disk; epochs then only draw from them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_path import dataset
from fast_path.augment import augment_clip
from fast_path.features import Arrays, FeatureCache
from fast_path.interfaces import TrainableEncoder
from guard import plugins
from guard.errors import InputError
from guard.types import Float64Array

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankSettings:
    """How videos become examples."""

    encoder: str
    encoder_settings: dict[str, Any]
    passes: int = 9
    """The clean pass that validation uses, and this many less one altered ones of what is trained on."""
    seed: int = 0
    min_bursts: int = 8
    gap_seconds: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row, prepared: per pass the features [T, ...] and the times of the bursts float64 [T]."""

    row: dataset.Row
    features: tuple[NDArray[Any], ...]
    seconds: tuple[Float64Array, ...]


def build_bank(
    rows: Sequence[dataset.Row],
    settings: BankSettings,
    cache: FeatureCache,
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> tuple[list[Example], list[tuple[dataset.Row, InputError]]]:
    """Prepare `rows`; what cannot be decoded is returned beside the examples, so that no loss goes unseen."""
    make = partial(_example, settings=settings, cache=cache)
    examples, failed = [], []
    for done, (row, result) in enumerate(zip(rows, _mapped(make, rows, workers), strict=True), 1):
        if isinstance(result, InputError):
            failed.append((row, result))
        else:
            examples.append(result)
        if progress is not None:
            progress("prepare", done, len(rows))
    return examples, failed


def _mapped(make: Callable[[dataset.Row], Any], rows: Sequence[dataset.Row], workers: int) -> Iterator[Any]:
    if workers < 2:
        yield from map(make, rows)
        return
    # a forked child would inherit the locks of torch's thread pool in whatever state they are
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make, rows, chunksize=4)


def _example(row: dataset.Row, settings: BankSettings, cache: FeatureCache) -> Example | InputError:
    encoder = _encoder(settings)
    count = settings.passes if row.split == "train" else 1  # only what is learned from is altered
    marks = {
        "passes": count,
        "seed": settings.seed,
        "min_bursts": settings.min_bursts,
        "gap": settings.gap_seconds,
        "start": row.start_seconds,
        "end": row.end_seconds,
        "spacing": encoder.clip_spacing_seconds,
        "side": encoder.input_side_px,
        "version": 4,
    }
    try:
        arrays = cache.get(
            cache.key(row.sha256, encoder.front_fingerprint, marks), partial(_arrays, row, settings, encoder, count)
        )
    except InputError as error:
        return error
    return Example(
        row=row,
        features=tuple(arrays[f"features{index}"] for index in range(count)),
        seconds=tuple(arrays[f"seconds{index}"] for index in range(count)),
    )


def _arrays(row: dataset.Row, settings: BankSettings, encoder: TrainableEncoder, passes: int) -> Arrays:
    rng = np.random.default_rng([settings.seed, int(row.sha256[:12], 16)])
    frames, spacing = encoder.clip_frames, encoder.clip_spacing_seconds
    length = dataset.duration_seconds(row)
    least = 1 if row.still else settings.min_bursts  # a still shows one thing, however often it is looked at
    plans = [
        dataset.even_plan(length, frames=frames, spacing=spacing, min_bursts=least, gap=settings.gap_seconds),
        *(
            dataset.random_plan(length, frames=frames, spacing=spacing, rng=rng, min_bursts=least)
            for _ in range(passes - 1)
        ),
    ]
    arrays: Arrays = {}
    for index, clips in enumerate(dataset.read_bursts(row, plans, frames=frames, side_px=encoder.input_side_px)):
        seen = clips if index == 0 else [augment_clip(clip, rng) for clip in clips]
        arrays[f"features{index}"] = np.concatenate([encoder.prepare(clip[None]) for clip in seen])
        arrays[f"seconds{index}"] = plans[index].starts_seconds + plans[index].spacing_seconds * (frames - 1) / 2
    return arrays


_ENCODERS: dict[str, TrainableEncoder] = {}


def _encoder(settings: BankSettings) -> TrainableEncoder:
    """Return the encoder, built once per process."""
    key = repr((settings.encoder, sorted(settings.encoder_settings.items())))
    if key not in _ENCODERS:
        _ENCODERS[key] = plugins.load("encoder", settings.encoder, **settings.encoder_settings)
    return _ENCODERS[key]
