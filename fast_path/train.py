"""Train the fast path from a manifest: features, weights, metrics, model card.

A run may be killed at any point: prepared features are kept per video, the optimiser's state per epoch, and the same
call goes on where it stopped, ending with the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fast_path import card, checkpoint, dataset, metrics, provenance
from fast_path.bank import BankSettings, Example, Progress, build_bank
from fast_path.features import FeatureCache
from fast_path.fit import FitSettings, fit, predict
from fast_path.head import HeadConfig, TemporalHead
from fast_path.interfaces import TrainableEncoder
from guard import plugins, taxonomy
from guard.errors import InvalidManifest

CATEGORIES = ("violence.fighting", "illegal.fire", "accidents.road")
METRICS = "metrics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What a run may change; the defaults are those of the shipped checkpoint."""

    categories: tuple[str, ...] = CATEGORIES
    passes: int = 9
    """Times that each video is decoded into clips: one clean, the others augmented."""
    workers: int = 2
    bootstrap_draws: int = 1000
    cache: Path | None = None
    """Folder of prepared features; None keeps them inside `out`."""
    fit: FitSettings = field(default_factory=FitSettings)
    notes: str = ""
    """Markdown for the end of the model card: known failures, rights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run produced."""

    folder: Path
    epoch: int
    """The epoch whose averaged weights were kept."""
    table: dict[str, dict[str, metrics.Estimate]]
    """Metrics of the videos of the validation split, by category."""
    failed: tuple[str, ...]
    """Inputs that were left out, with the reason: they cannot be read, or their labels leave a category open."""


def train_fast(
    manifest: Path | Sequence[Path],
    encoder: str,
    out: Path,
    *,
    seed: int = 0,
    settings: TrainSettings | None = None,
    encoder_settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train `encoder` and a temporal head on the `train` rows, and write a checkpoint to `out`.

    The `val` rows decide when to stop. Several manifests are joined. Deterministic under `seed` for a given number of
    threads.

    Raises:
        InvalidManifest: a manifest is wrong, or lacks training rows or a positive for a category.
        ResumeMismatch: `out` holds an unfinished run with other data or settings.
    """
    chosen = settings or TrainSettings()
    own = {"untrained_seed": seed, **(encoder_settings or {})}
    rows, ambiguous = _rows([manifest] if isinstance(manifest, Path) else manifest, chosen.categories)
    part: TrainableEncoder = plugins.load("encoder", encoder, **own)
    bank = BankSettings(encoder=encoder, encoder_settings=own, passes=chosen.passes, seed=seed)
    cache = FeatureCache(folder=chosen.cache or out / "cache")
    examples, failed = build_bank(rows, bank, cache, workers=chosen.workers, progress=progress)
    train, val = ([e for e in examples if e.row.split == split] for split in ("train", "val"))
    _check_positives([e.row for e in train], chosen.categories, "could be read and")
    torch.manual_seed(seed)
    pieces = tuple(getattr(part, "parts", ()))  # an encoder may say that its embeddings are of several makings
    head = TemporalHead(HeadConfig(dimension=part.dimension, categories=chosen.categories, parts=pieces))
    truth = [dataset.targets([e.row for e in some], chosen.categories) for some in (train, val)]
    fitting = FitSettings(**{**asdict(chosen.fit), "seed": seed})
    epoch = fit(part, head, train, truth[0], val, truth[1], fitting, state_path=out / "state.pt", progress=progress)
    results = {"this model": _table(part, head, val, chosen), **_baselines(val, chosen)}
    config = {
        "encoder": {"name": encoder, "settings": part.settings, "front": part.front_fingerprint},
        "head": asdict(head.config),
        "trained": {"seed": seed, "epoch": epoch, "passes": chosen.passes, "fit": asdict(fitting)},
    }
    learned = [sum(p.numel() for p in module.parameters()) for module in (part.network, head)]
    text = card.write(
        name=f"{encoder} fast path", rows=[e.row for e in examples], categories=chosen.categories, results=results,
        recipe=_recipe(config), parameters=sum(learned), frozen=not learned[0], notes=chosen.notes,
    )  # fmt: skip
    checkpoint.save(out, config=config, modules={"encoder": part.network, "head": head}, card=text)
    provenance.save(out, [e.row for e in examples])
    reasons = (*ambiguous, *(f"{row.path}: {error.code}: {error.message}" for row, error in failed))
    report = {name: metrics.table_json(table) for name, table in results.items()}
    summary = {"validation": report, "epoch": epoch, "failed": reasons, "parameters": sum(learned)}
    checkpoint.write_atomically(out / METRICS, (json.dumps(summary, indent=2) + "\n").encode())
    return TrainResult(folder=out, epoch=epoch, table=results["this model"], failed=reasons)


def _rows(manifests: Sequence[Path], categories: Sequence[str]) -> tuple[list[dataset.Row], list[str]]:
    """Return the rows to learn from and to stop by, and what was left out of them."""
    everything = [row for path in manifests for row in dataset.read_manifest(path)]
    dataset.check_splits(everything)
    found = [row for row in everything if row.split in ("train", "val")]
    opened = [dataset.left_open(row, categories) for row in found]
    rows = [row for row, category in zip(found, opened, strict=True) if category is None]
    _check_positives([row for row in rows if row.split == "train"], categories, "")
    left = [
        f"{row.path}: its labels ({', '.join(row.labels)}) leave open whether it shows {category}"
        for row, category in zip(found, opened, strict=True)
        if category is not None
    ]
    return rows, left


def _check_positives(training: Sequence[dataset.Row], categories: Sequence[str], how: str) -> None:
    positives = dataset.targets(training, categories).sum(0) if training else np.zeros(len(categories))
    missing = [category for category, count in zip(categories, positives, strict=True) if count == 0]
    if missing:
        there = sorted({label for row in training for label in row.labels if taxonomy.is_known(label)})
        named = " ".join(f"--category {label}" for label in there)
        raise InvalidManifest(
            f"No row of the split 'train' {how} is labelled {', '.join(missing)}.".replace("  ", " "),
            hint=f"Add such rows, or learn what is there: {named}"
            if there
            else "Add labelled rows of the split train.",
        )


def _videos(examples: Sequence[Example]) -> list[Example]:
    """Return the examples that are videos; stills train, but are not what the product is measured on."""
    videos = [example for example in examples if not example.row.still]
    return videos or list(examples)


def _table(
    encoder: TrainableEncoder, head: TemporalHead, val: Sequence[Example], settings: TrainSettings
) -> dict[str, dict[str, metrics.Estimate]]:
    videos = _videos(val)
    scores = predict(encoder, head, videos) if videos else np.zeros((0, len(settings.categories)), np.float32)
    return _measure(scores, videos, settings)


def _baselines(val: Sequence[Example], settings: TrainSettings) -> dict[str, dict[str, dict[str, metrics.Estimate]]]:
    videos = _videos(val)
    return {"always safe": _measure(np.zeros((len(videos), len(settings.categories)), np.float32), videos, settings)}


def _measure(
    scores: NDArray[np.float32], videos: Sequence[Example], settings: TrainSettings
) -> dict[str, dict[str, metrics.Estimate]]:
    truth = dataset.targets([e.row for e in videos], settings.categories) > 0
    groups = [e.row.group for e in videos]
    return metrics.table(
        settings.categories, truth, scores.astype(np.float64), groups, draws=settings.bootstrap_draws, seed=0
    )


def _recipe(config: dict[str, Any]) -> str:
    trained = config["trained"]
    lines = [
        f"- encoder `{config['encoder']['name']}` {json.dumps(config['encoder']['settings'], sort_keys=True)}",
        f"- one clean and {trained['passes'] - 1} augmented passes per video, seed {trained['seed']}",
        f"- weights averaged, epoch {trained['epoch']} kept; {json.dumps(trained['fit'], sort_keys=True)}",
    ]
    return "\n".join(lines)
