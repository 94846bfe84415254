"""Block, unblock and extend on real clips without a VLM: what k examples are worth, and what stays unchanged.

Examples come from the training split, scores from the validation split; no group is in both. Clips are sampled, decoded
and scored as by a scan. Two encoders: the embedded one (which was trained on fights, fires and road accidents, so its
numbers on those flatter) and its hand-made motion maps alone, which never saw a label. Falls and smoke are new to both.
`shrinkage` and the pooling were chosen on these validation clips.

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
from fast_path.embedder import FrameEmbedder, embedder_of
from fast_path.features import Arrays, FeatureCache
from fast_path.router import Config as RouterConfig
from fast_path.router import build as build_router
from guard import taxonomy
from guard.types import Coverage, Frames, Policy, Scores
from guard.video.sandbox import SandboxedDecoder
from guard.video.source import open_video
from policies import few_shot, personalize
from policies.edits import History
from policies.load import load_policy
from policies.personalize import By
from policies.rule_scorer import example_vector

DRAWS = 20
MEASURES = ("auroc", "recall_at_5_fpr", "cleared", "missed_by_clearing", "blocked", "wrongly_blocked")
SHOTS = (1, 2, 4, 8)
CATEGORIES = ("accidents.road", "violence.fighting", "illegal.fire", "accidents.fall", "illegal.fire.smoke")


class Both:
    """A frame sink that keeps what the encoder learned, its hand-made maps pooled, and the times."""

    def __init__(self, embedder: FrameEmbedder) -> None:
        self.embedder = embedder
        self.restart()

    def restart(self) -> None:
        self.trained, self.maps, self.seconds = [], [], []

    def take(self, frames: Frames) -> None:
        learned, seconds = self.embedder.embed(frames)
        clips, _ = tiny_detector.clips_of(frames, self.embedder.encoder.clip_frames)
        maps = self.embedder.encoder.prepare(clips).astype(np.float32)
        flat = maps.reshape(*maps.shape[:2], -1)
        pooled = np.concatenate([flat.mean(2), flat.std(2), flat.max(2)], axis=1)
        self.trained.append(learned)
        self.maps.append((np.sign(pooled) * np.log1p(np.abs(pooled))).astype(np.float32))
        self.seconds.append(seconds)


def embeddings(row: dataset.Row, cache: FeatureCache, embedder: FrameEmbedder, decoder: SandboxedDecoder) -> Arrays:
    """Return the arrays of one clip, sampled and decoded as a scan does."""

    def make() -> Arrays:
        sink = Both(embedder)
        decoder.feed(open_video(row.path), embedder.needs, sink)
        return {name: np.concatenate(getattr(sink, name)) for name in ("trained", "maps", "seconds")}

    return cache.get(cache.key(row.sha256, embedder.fingerprint, {"benchmark": "policy_few_shot", "way": "scan"}), make)


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


def by_shots(
    clips: Sequence[NDArray[Any]], rows: Sequence[dataset.Row], splits: NDArray[Any], category: str
) -> dict[str, Any]:
    """AUROC, recall and what the intervals settle, by number of examples."""
    own = labelled(rows, category)
    pool = np.flatnonzero(own & (splits == "train"))
    benign = np.array([not row.labels for row in rows])
    background = few_shot.fit_background(windows_of([clips[i] for i in np.flatnonzero(benign & (splits == "train"))]))
    seen = [few_shot.pool_windows(clips[i]) for i in np.flatnonzero(splits == "val")]
    positive = own[splits == "val"]
    result = {"train_examples": len(pool), "val_positive": int(positive.sum()), "val_negative": int((~positive).sum())}
    rng = np.random.default_rng(0)
    for count in [k for k in SHOTS if k <= len(pool)]:
        runs = {name: [] for name in MEASURES}
        for _ in range(DRAWS):
            chosen = np.stack([example_vector(clips[i]) for i in rng.choice(pool, count, replace=False)])
            model = few_shot.fit(chosen, background)
            scored = [model.score_windows(windows)[0] for windows in seen]
            probability, low, high = (
                np.array([float(getattr(s, name)[0]) for s in scored]) for name in ("probability", "low", "high")
            )
            clear, violating = high < 0.1, low >= 0.9
            runs["auroc"].append(roc_auc_score(positive, probability))
            runs["recall_at_5_fpr"].append(recall_at(probability, positive))
            runs["cleared"].append(clear.mean())
            runs["missed_by_clearing"].append((clear & positive).sum() / positive.sum())
            runs["blocked"].append((violating & positive).sum() / positive.sum())
            runs["wrongly_blocked"].append((violating & ~positive).sum() / (~positive).sum())
        result[f"k={count}"] = {name: spread(values) for name, values in runs.items()}
    return result


def windows_of(clips: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([few_shot.pool_windows(clip) for clip in clips])


def unchanged(arrays: Sequence[Arrays], detector: tiny_detector.Detector, scored: Sequence[float]) -> dict[str, Any]:
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
    embedder = embedder_of(detector)
    rows = [row for row in dataset.read_manifest(arguments.data / "manifest.jsonl") if row.split in {"train", "val"}]
    cache = FeatureCache(folder=arguments.cache)
    with SandboxedDecoder(workers=1) as decoder:
        arrays = [embeddings(row, cache, embedder, decoder) for row in rows]
    splits = np.array([row.split for row in rows])
    result = {
        "machine": f"{len(os.sched_getaffinity(0))} cores {platform.machine()}", "draws": DRAWS,
        "encoder": embedder.fingerprint, "weights": detector.fingerprint, "by_encoder": {},
    }  # fmt: skip
    for encoder in ("trained", "maps"):
        clips = [item[encoder] for item in arrays]
        result["by_encoder"][encoder] = {c: by_shots(clips, rows, splits, c) for c in CATEGORIES}
    clips = [item["trained"] for item in arrays]
    benign = np.array([not row.labels for row in rows])
    background = few_shot.fit_background(windows_of([clips[i] for i in np.flatnonzero(benign & (splits == "train"))]))
    chosen = np.flatnonzero(labelled(rows, "accidents.road") & (splits == "train"))[:4]
    model = few_shot.fit(np.stack([example_vector(clips[i]) for i in chosen]), background)
    scored = [float(model.score_windows(few_shot.pool_windows(clips[i]))[0].cautious[0])
              for i in np.flatnonzero(splits == "val")]  # fmt: skip
    in_val = [item for item, split in zip(arrays, splits, strict=True) if split == "val"]
    result["edits"] = unchanged(in_val, detector, scored)
    text = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
