"""Train the text classifier that the package ships: `python -m fast_path.text.train DATA OUT`.

The same data and settings give the same bytes on the same versions of numpy, scipy and scikit-learn.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fast_path import calibrate as risk
from fast_path.calibration_file import CalibrationFile
from fast_path.text import model as stored
from fast_path.text.card import render_card
from fast_path.text.classifier import TextClassifier
from fast_path.text.datasets import TRAINING_SOURCES, training_rows
from fast_path.text.fit import Corpus, FitConfig, calibrate, corpus, cross_fit, fit, one_thread
from fast_path.text.model import LinearModel
from guard.errors import InvalidManifest

MISS_RATE, FALSE_BLOCK_RATE = 0.05, 0.02
"""Of each category: the share of violating texts that may be cleared, and of other texts that may be blocked."""


def train_text(
    data_dir: Path,
    out: Path,
    seed: int = 0,
    *,
    config: FitConfig | None = None,
    sources: Sequence[str] = TRAINING_SOURCES,
) -> LinearModel:
    """Train on the train rows under `data_dir` and write a checkpoint folder to `out`.

    Calibration and thresholds come from out-of-fold scores of the training rows, so no row is needed for them alone.
    `seed` moves those folds; the weights are the optimum of a convex problem and do not depend on it.

    Raises:
        InvalidManifest: a file is absent or damaged, or a source is for measuring only.
        MissingExtra: scikit-learn is not installed.
    """
    settings = config or FitConfig()
    rows = training_rows(data_dir, sources)
    if not rows:
        raise InvalidManifest(f"No labelled train rows under {data_dir} in: {', '.join(sources)}.")
    data = corpus(rows, settings)
    with one_thread():
        return _train(data, out, replace(settings, fold_seed=seed), digest(data_dir, sources))


def digest(data_dir: Path, sources: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of each source's file, first 16 hex digits."""
    return {s: hashlib.sha256((data_dir / f"{s}.jsonl").read_bytes()).hexdigest()[:16] for s in sources}


def _train(data: Corpus, out: Path, config: FitConfig, files: dict[str, str]) -> LinearModel:
    held_out = cross_fit(data, config)
    slope, offset = calibrate(held_out, data.labels)
    model = replace(fit(data, np.arange(len(data)), config), slope=slope, offset=offset)
    counts = {
        category: {
            "positive": int(np.sum(data.labels[:, column] == 1)),
            "negative": int(np.sum(data.labels[:, column] == 0)),
        }
        for column, category in enumerate(config.categories)
    }
    extra: dict[str, Any] = {
        "training": {
            "settings": {k: v for k, v in asdict(config).items() if k not in ("categories", "features")},
            "rows": dict(sorted(Counter(row.source for row in data.rows).items())),
            "labels": counts,
            "files_sha256": files,
        }
    }
    fingerprint = stored.save(out, model, extra=extra, card=render_card(counts, extra["training"]["rows"]))
    calibration_set = risk.CalibrationSet(
        categories=config.categories,
        scores=model.probability(held_out),
        labels=data.labels,
        groups=tuple(row.group for row in data.rows),
        detector=TextClassifier.name,
        fingerprint=fingerprint,
    )
    fitted = risk.calibrate(calibration_set, fnr=MISS_RATE, fpr=FALSE_BLOCK_RATE, escalate_unproven=True)
    slim(fitted).save(out / stored.CALIBRATION)
    return model


def slim(fitted: CalibrationFile) -> CalibrationFile:
    """Return the same calibration without the inner knots of flat stretches: 50,000 of them come down to hundreds."""
    slimmed = {}
    for category, entry in fitted.categories.items():
        kept = [
            i
            for i, value in enumerate(entry.knots_probability)
            if i in (0, len(entry.knots_probability) - 1)
            or not entry.knots_probability[i - 1] == value == entry.knots_probability[i + 1]
        ]
        knots = {name: tuple(getattr(entry, name)[i] for i in kept) for name in ("knots_raw", "knots_probability")}
        slimmed[category] = entry.model_copy(update=knots)
    return fitted.model_copy(update={"categories": slimmed})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    import argparse

    parser = argparse.ArgumentParser(description="Train the embedded text classifier.")
    parser.add_argument("data", type=Path, help="folder of labelled texts, one JSONL file for each source")
    parser.add_argument("out", type=Path, help="checkpoint folder to write")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    train_text(chosen.data, chosen.out, chosen.seed)


if __name__ == "__main__":
    main()
