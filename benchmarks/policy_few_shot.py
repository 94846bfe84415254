"""Block, unblock and extend on real clips without a VLM: what k examples are worth, and what stays unchanged.

Examples come from the training split, scores from the validation split; no group is in both. Two encoders: the
embedded one (which was trained on fights, fires and road accidents, so its numbers on those flatter) and its
hand-made motion maps alone, which never saw a label. Falls and smoke are new to both. `shrinkage` and the pooling
were chosen on these validation clips.

    python benchmarks/policy_few_shot.py --data DATA/videos --out benchmarks/policy_few_shot.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fast_path import dataset
from fast_path.detectors import tiny as tiny_detector
from fast_path.features import Arrays, FeatureCache
from fast_path.router import Config as RouterConfig
from fast_path.router import build as build_router
from guard import taxonomy
from guard.types import Coverage, Policy, Scores
from policies import few_shot, personalize
from policies.edits import History
from policies.load import load_policy
from policies.personalize import By

DRAWS = 20
MEASURES = ("auroc", "recall_at_5_fpr", "cleared", "missed_by_clearing", "blocked", "wrongly_blocked")
SHOTS = (1, 2, 4, 8)
CATEGORIES = ("accidents.road", "violence.fighting", "illegal.fire", "accidents.fall", "illegal.fire.smoke")


def embeddings(row: dataset.Row, cache: FeatureCache, detector: tiny_detector.Detector) -> Arrays:
    """Return the arrays of one clip: learned embeddings, pooled motion maps, and burst times."""

    def make() -> Arrays:
        encoder = detector.encoder
        frames, spacing = encoder.clip_frames, encoder.clip_spacing_seconds
        plan = dataset.even_plan(dataset.duration_seconds(row), frames=frames, spacing=spacing)
        clips = dataset.read_bursts(row, [plan], frames=frames, side_px=encoder.input_side_px)[0]
        maps = encoder.prepare(clips).astype(np.float32)
        flat = maps.reshape(*maps.shape[:2], -1)
        pooled = np.concatenate([flat.mean(2), flat.std(2), flat.max(2)], axis=1)
        with torch.inference_mode():
            learned = encoder.network(torch.from_numpy(maps)).numpy()
        seconds = plan.starts_seconds + spacing * (frames - 1) / 2
        return {"trained": learned, "maps": np.sign(pooled) * np.log1p(np.abs(pooled)), "seconds": seconds}

    return cache.get(cache.key(row.sha256, detector.encoder.fingerprint, {"benchmark": "policy_few_shot"}), make)


def labelled(rows: Sequence[dataset.Row], category: str) -> NDArray[np.bool_]:
    return np.array([any(taxonomy.covers(category, label) for label in row.labels) for row in rows])


def recall_at(scores: NDArray[Any], positive: NDArray[np.bool_], false_positive_rate: float = 0.05) -> float:
    """Recall at the lowest threshold that at most this share of negatives reaches."""
    negatives = np.sort(scores[~positive])[::-1]
    allowed = int(np.floor(false_positive_rate * len(negatives)))
    return float((scores[positive] > negatives[allowed]).mean())


def spread(values: Sequence[float]) -> dict[str, float]:
    low, high = np.percentile(values, [10, 90])
    return {"mean": round(float(np.mean(values)), 3), "p10": round(float(low), 3), "p90": round(float(high), 3)}


def by_shots(vectors: NDArray[Any], rows: Sequence[dataset.Row], splits: NDArray[Any], category: str) -> dict[str, Any]:
    """AUROC, recall and what the cautious score settles, by number of examples."""
    own = labelled(rows, category)
    pool = np.flatnonzero(own & (splits == "train"))
    benign = np.array([not row.labels for row in rows])
    background = few_shot.fit_background(vectors[benign & (splits == "train")])
    seen, positive = vectors[splits == "val"], own[splits == "val"]
    result = {"train_examples": len(pool), "val_positive": int(positive.sum()), "val_negative": int((~positive).sum())}
    rng = np.random.default_rng(0)
    for count in [k for k in SHOTS if k <= len(pool)]:
        runs = {name: [] for name in MEASURES}
        for _ in range(DRAWS):
            model = few_shot.fit(vectors[rng.choice(pool, count, replace=False)], background)
            scored = model.score(seen)
            clear, violating = scored.cautious < 0.1, scored.cautious >= 0.9
            runs["auroc"].append(roc_auc_score(positive, scored.probability))
            runs["recall_at_5_fpr"].append(recall_at(scored.probability, positive))
            runs["cleared"].append(clear.mean())
            runs["missed_by_clearing"].append((clear & positive).sum() / positive.sum())
            runs["blocked"].append(violating.mean())
            runs["wrongly_blocked"].append((violating & ~positive).sum() / (~positive).sum())
        result[f"k={count}"] = {name: spread(values) for name, values in runs.items()}
    return result


def unchanged(arrays: Sequence[Arrays], detector: tiny_detector.Detector, scored: NDArray[Any]) -> dict[str, Any]:
    """How many decisions of the other rules change when one is blocked, unblocked or extended."""
    below = load_policy("screen")
    by, history = By(author="benchmark"), History(name="user")
    base = personalize.unblock(history, "accidents.road", below=below, by=by)  # road accidents are not in the policy
    edits = {
        "block accidents.road": personalize.block(base.history, "accidents.road", below=below, by=by),
        "unblock violence.fighting": personalize.unblock(base.history, "violence.fighting", below=below, by=by),
        "extend illegal.fire to illegal.fire.smoke": personalize.extend(
            base.history, "illegal.fire", below=below, by=by, variants=["illegal.fire.smoke"]
        ),
    }
    found = {}
    for name, outcome in edits.items():
        edited = set(outcome.changed) | {"illegal.fire.smoke", "violence.fighting" if "unblock" in name else ""}
        before = [_findings(item, base.policy, detector, None) for item in arrays]
        after = [_findings(item, outcome.policy, detector, score) for item, score in zip(arrays, scored, strict=True)]
        others = set(before[0]) & set(after[0]) - edited
        changed = sum(b[rule] != a[rule] for b, a in zip(before, after, strict=True) for rule in others)
        gone = sorted(set(before[0]) - set(after[0]))
        new = sorted(set(after[0]) - set(before[0]))
        found[name] = {
            "clips": len(arrays), "other_rules": sorted(others), "changed_decisions_of_other_rules": changed,
            "rules_gone": gone, "rules_new": new,
        }  # fmt: skip
    return found


def _findings(item: Arrays, policy: Policy, detector: tiny_detector.Detector, accident: float | None) -> dict[str, Any]:
    """Return what the router finds of each active rule, with its score."""
    video, moments = detector.head.score(item["trained"], item["seconds"])
    columns = [i for i, c in enumerate(detector.categories) if c != "accidents.road"]  # that head is not configured
    scores = [
        Scores(
            categories=tuple(detector.categories[i] for i in columns), probability=video[columns],
            moment_seconds=item["seconds"], per_moment=moments[:, columns], detector="tiny", fingerprint="x",
        )
    ]  # fmt: skip
    if accident is not None:
        scores.append(
            Scores(
                categories=("accidents.road",), probability=np.array([accident], np.float32),
                moment_seconds=np.zeros(0), per_moment=np.zeros((0, 1), np.float32), detector="few_shot",
                fingerprint="x",
            )
        )  # fmt: skip
    coverage = Coverage(
        frames_scored=8, frames_decoded=8, largest_gap_seconds=1.0, full_decode=False, decoded_seconds=8.0,
        declared_seconds=8.0, complete=True, sampler="even", seed=0,
    )  # fmt: skip
    route = build_router(RouterConfig()).route(scores, policy, coverage)
    return {found.category: (found.finding, found.score) for found in route.findings}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.jsonl and the clips")
    parser.add_argument("--cache", type=Path, default=Path("runs/policy_few_shot"), help="where embeddings are kept")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    detector = tiny_detector.build(tiny_detector.Config())
    rows = [row for row in dataset.read_manifest(arguments.data / "manifest.jsonl") if row.split in {"train", "val"}]
    cache = FeatureCache(folder=arguments.cache)
    arrays = [embeddings(row, cache, detector) for row in rows]
    splits = np.array([row.split for row in rows])
    result = {
        "machine": f"{len(os.sched_getaffinity(0))} cores {platform.machine()}", "draws": DRAWS,
        "encoder": detector.encoder.fingerprint, "by_encoder": {},
    }  # fmt: skip
    for encoder in ("trained", "maps"):
        vectors = np.stack([few_shot.pool(item[encoder].astype(np.float32)) for item in arrays])
        result["by_encoder"][encoder] = {c: by_shots(vectors, rows, splits, c) for c in CATEGORIES}
    vectors = np.stack([few_shot.pool(item["trained"]) for item in arrays])
    benign = np.array([not row.labels for row in rows])
    background = few_shot.fit_background(vectors[benign & (splits == "train")])
    examples = vectors[np.flatnonzero(labelled(rows, "accidents.road") & (splits == "train"))[:4]]
    scored = few_shot.fit(examples, background).score(vectors[splits == "val"]).cautious
    in_val = [item for item, split in zip(arrays, splits, strict=True) if split == "val"]
    result["edits"] = unchanged(in_val, detector, scored)
    text = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
