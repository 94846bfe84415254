"""How well the fast path ranks and how far its probabilities can be taken at their word, per category.

    python benchmarks/quality.py --data DIR --blind-weights DIR [--stills MANIFEST] [--no-training]

Validation split. Beside the detector: always-safe, flag-all, random, a logistic regression on colour histograms and the
magnitude of motion (train split), and the same network trained by `fast_path.train`, but shown one picture per burst:
what it loses is what motion gives (`blind_recipe_is_the_same` says whether all other settings agree). Both networks
stopped on the loss of this very split. Intervals: 95 %, bootstrap over whole groups. Calibration error is that of
scores mapped by a scaling that was fitted without the clip's group.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np
from common import Scored, scored, tell
from numpy.typing import NDArray

from fast_path import dataset, metrics
from fast_path.features import FeatureCache
from fast_path.reliability import expected_calibration_error
from guard.errors import InputError

OWN_NEGATIVES = {"violence.fighting": ("nofight",), "accidents.road": ("no_accident",), "illegal.fire": ("nofire",)}
"""Raw labels of the clips that look most like a category without being of it."""
HAND_SIDE_PX, HAND_BURST, HAND_SPACING = 96, 2, 0.12


def table(found: Scored, draws: int) -> dict[str, Any]:
    """Return the metrics of every category."""
    return {
        category: {
            name: metrics.estimate(
                metric, found.truth[:, c], found.scores[:, c].astype(np.float64), found.groups, draws=draws
            ).as_dict()
            for name, metric in metrics.METRICS.items()
        }
        for c, category in enumerate(found.categories)
    }


def calibration(found: Scored, draws: int) -> dict[str, Any]:
    """Return the calibration error of raw and of cross-fitted scores, and decisions at one half."""
    mapped = common.cross_calibrated(found)
    result: dict[str, Any] = {}
    for c, category in enumerate(found.categories):
        truth = found.truth[:, c]
        entry: dict[str, Any] = {}
        for name, scores in (("before", found.scores[:, c]), ("after", mapped[:, c])):
            entry[name] = metrics.estimate(
                lambda t, s: expected_calibration_error(s, t),
                truth,
                scores.astype(np.float64),
                found.groups,
                draws=draws,
            ).as_dict()
        entry["at_one_half"] = decisions(truth, mapped[:, c] >= 0.5)
        result[category] = entry
    return result


def decisions(truth: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> dict[str, float]:
    """Return what deciding this way gives."""
    return {
        "recall": float(np.mean(flagged[truth])) if truth.any() else float("nan"),
        "false_positive_rate": float(np.mean(flagged[~truth])) if (~truth).any() else float("nan"),
        "accuracy": float(np.mean(flagged == truth)),
    }


def against_own_negatives(found: Scored, draws: int) -> dict[str, Any]:
    """Return the AUROC of a category against its look-alikes only."""
    raw = np.asarray([str(row.extra.get("raw_label", "")) for row in found.rows])
    result = {}
    for c, category in enumerate(found.categories):
        use = found.truth[:, c] | np.isin(raw, OWN_NEGATIVES.get(category, ()))
        if use.any() and not found.truth[use, c].all():
            groups = [g for g, u in zip(found.groups, use, strict=True) if u]
            scores = found.scores[use, c].astype(np.float64)
            result[category] = metrics.estimate(
                metrics.auroc, found.truth[use, c], scores, groups, draws=draws
            ).as_dict()
    return result


# Colour histograms and magnitude of motion


def hand_features(row: dataset.Row) -> NDArray[np.float32]:
    """Return float32 [32]: three histograms of 8 bins, and mean, spread and peak of difference and flow."""
    length = dataset.duration_seconds(row)
    plan = dataset.even_plan(length, frames=HAND_BURST, spacing=HAND_SPACING, min_bursts=8)
    bursts = dataset.read_bursts(row, [plan], frames=HAND_BURST, side_px=HAND_SIDE_PX)[0]
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    colours, motion = [], []
    for burst in bursts:
        first, second = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in burst)
        flow = flow_of.calc(first, second, None)
        speed = np.hypot(flow[..., 0], flow[..., 1])
        motion.append([cv2.absdiff(first, second).mean(), speed.mean(), speed.std(), np.percentile(speed, 95)])
        pixels = burst[0].reshape(-1, 3)
        colours.append(np.concatenate([np.bincount(pixels[:, c] // 32, minlength=8) for c in range(3)]) / len(pixels))
    moved = np.log1p(np.asarray(motion))
    return np.concatenate([np.mean(colours, 0), moved.mean(0), moved.max(0)]).astype(np.float32)


def hand_regression(
    train: Sequence[dataset.Row], val: Sequence[dataset.Row], categories: Sequence[str], cache: Path
) -> Scored:
    """Fit one logistic regression per category on the train split; its strength is chosen there, across groups."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kept = FeatureCache(folder=cache / "hand")

    def features(rows: Sequence[dataset.Row]) -> tuple[list[dataset.Row], NDArray[np.float32]]:
        used, found = [], []
        for row in rows:
            try:
                arrays = kept.get(kept.key(row.sha256, "hand-1"), lambda row=row: {"x": hand_features(row)})
            except InputError:
                continue
            used.append(row)
            found.append(arrays["x"])
            tell(f"hand features {len(used)}/{len(rows)}")
        return used, np.stack(found)

    def model(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))

    (rows, x), (rows_val, x_val) = features(train), features(val)
    groups = [row.group for row in rows]
    columns = []
    for category in categories:
        y = dataset.targets(rows, [category])[:, 0] > 0
        fold = common.group_folds(y, groups)

        def held_out(strength: float, y: NDArray[np.bool_] = y, fold: NDArray[np.int64] = fold) -> float:
            score = np.zeros(len(y))
            for index in np.unique(fold):
                rest = fold != index
                if y[rest].any() and not y[rest].all():
                    score[~rest] = model(strength).fit(x[rest], y[rest]).predict_proba(x[~rest])[:, 1]
            return metrics.average_precision(y, score)

        best = max((0.003, 0.03, 0.3, 3.0), key=held_out)
        columns.append(model(best).fit(x, y).predict_proba(x_val)[:, 1])
    return scored(rows_val, categories, np.stack(columns, 1))


# The same network, blind to motion


def blind_weights(options: argparse.Namespace) -> Path:
    """Return the checkpoint of the same network trained on one picture per burst; trained if it is not there."""
    from fast_path import checkpoint
    from fast_path.fit import FitSettings
    from fast_path.train import TrainSettings, train_fast

    folder: Path = options.blind_weights
    if not (folder / checkpoint.WEIGHTS).exists():
        manifests = [options.data / "manifest.jsonl", *options.stills]
        fit = FitSettings() if options.epochs is None else FitSettings(epochs=options.epochs)
        train_fast(
            manifests, "tiny", folder, settings=TrainSettings(passes=options.passes, workers=1, fit=fit),
            encoder_settings={"blind_to_motion": True},
            progress=lambda stage, done, total: tell(f"{stage} {done}/{total}"),
        )  # fmt: skip
    return folder


def recipe(weights: Path | None) -> object:
    """Return how a checkpoint was trained; None where it does not say."""
    from fast_path import checkpoint

    return checkpoint.load(weights).config.get("trained", {}).get("fit")


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.parser(__doc__, "quality")
    parser.add_argument("--no-training", action="store_true", help="leave out the regression")
    parser.add_argument(
        "--blind-weights", type=Path, help="checkpoint of the network without motion; trained if absent"
    )
    parser.add_argument("--stills", type=Path, nargs="*", default=[], help="manifests of stills to train it on as well")
    parser.add_argument("--passes", type=int, default=9, help="passes over each training clip, one of them clean")
    parser.add_argument("--epochs", type=int, help="by default as the shipped weights")
    options = parser.parse_args(argv)
    detector = common.build_detector(options)
    rows = common.rows_of(options)
    with common.Scorer(detector, options.cache) as scorer:
        found = scorer.table(rows)
    constant = np.ones_like(found.scores)
    chance = np.random.default_rng(0).random(found.scores.shape)
    models: dict[str, Scored] = {
        detector.name: found,
        "always_safe": scored(found.rows, found.categories, 0 * constant),
        "flag_all": scored(found.rows, found.categories, constant),
        "random": scored(found.rows, found.categories, chance),
    }
    if not options.no_training:
        train = common.rows_of(options, "train")
        models["colour_and_motion_regression"] = hand_regression(train, found.rows, found.categories, options.cache)
    same_recipe = None
    if options.blind_weights is not None:
        blind = common.build_detector(argparse.Namespace(**{**vars(options), "weights": blind_weights(options)}))
        with common.Scorer(blind, options.cache) as scorer:
            models["same_network_without_motion"] = scorer.table(found.rows)
        same_recipe = recipe(options.weights) == recipe(options.blind_weights)
    result = {
        **common.about(detector, found),
        "split": options.split,
        "blind_recipe_is_the_same": same_recipe,
        "models": {name: table(made, options.draws) for name, made in models.items()},
        "calibration_error": calibration(found, options.draws),
        "auroc_against_own_negatives": against_own_negatives(found, options.draws),
        "constant_decisions": {
            name: {c: decisions(found.truth[:, i], made.scores[:, i] >= 0.5) for i, c in enumerate(found.categories)}
            for name, made in models.items()
            if name in ("always_safe", "flag_all")
        },
        "aims_auroc": {
            c: {
                "aim": common.AIMS[c],
                "met": bool(metrics.auroc(found.truth[:, i], found.scores[:, i]) >= common.AIMS[c]),
            }
            for i, c in enumerate(found.categories)
            if c in common.AIMS
        },
    }
    common.save(options.out, result)


if __name__ == "__main__":
    main()
