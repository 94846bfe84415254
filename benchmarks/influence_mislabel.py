"""Finding wrong labels on the shared clips: our detectors beside cleanlab, on the same embeddings and out-of-fold
probabilities.

Usage: python benchmarks/influence_mislabel.py OUT.json EMBEDDINGS.npz ...   (needs cleanlab)
EMBEDDINGS.npz: ids [N], embeddings [N, D], labels [N] (one class name each), groups [N], clips [N], splits [N],
encoder [1]; see `influence_embed.py`. With several files there is one table for each encoder.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from data_filter import audit
from data_filter.types import FeatureView
from data_filter.warmup import WarmUpConfig, describe, warm_up
from guard import plugins

torch.set_num_threads(1)
SEEDS = int(os.environ.get("SEEDS", "5"))
DETECTORS = ("mean_loss", "knn_disagreement", "confident_learning", "outlier_gradients", "variance_of_gradients")
SIBLINGS = {  # what a hurried annotator mixes up
    "violence.fighting": "benign",
    "accidents.road": "benign",
    "illegal.fire": "benign",
    "accidents.fall": "benign",
    "benign": "violence.fighting",
}


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    _, which, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[which]
    n = int(truth.sum())
    return float((rank[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


def flip(
    data: dict[str, np.ndarray], classes: list[str], share: float, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mislabel whole clips, as people do: flipping single windows would leave their siblings to give them away."""
    labels, clips = data["labels"], data["clips"]
    names = np.unique(clips)
    given = labels.copy()
    for name in names[rng.permutation(len(names))[: round(share * len(names))]]:
        mine = clips == name
        own = labels[mine][0]
        others = [c for c in classes if c != own]
        given[mine] = SIBLINGS[own] if kind == "confusable" else others[rng.integers(len(others))]
    return given, np.flatnonzero(given != labels)


def one(data: dict[str, np.ndarray], share: float, kind: str, seed: int) -> dict[str, dict[str, float]]:
    from cleanlab.rank import get_label_quality_scores

    classes = sorted(set(data["labels"].tolist()))
    rng = np.random.default_rng([seed, round(share * 100), len(kind)])
    given, wrong = flip(data, classes, share, kind, rng)
    number = np.array([classes.index(c) for c in given])
    view = FeatureView(
        ids=tuple(data["ids"].tolist()),
        targets=np.eye(len(classes), dtype=np.float32)[number],
        categories=tuple(classes),
        loss="softmax",
        groups=tuple(data["groups"].tolist()),
        embeddings=data["embeddings"].astype(np.float32),
    )
    config = WarmUpConfig(curvature_rows=len(classes), folds=5)
    view = describe(warm_up(view, config), view)
    suspicion = {name: -plugins.load("scorer", name).score(view).values[:, 0] for name in DETECTORS}
    suspicion["outlier_gradients, forest"] = (
        -plugins.load("scorer", "outlier_gradients", method="forest").score(view).values[:, 0]
    )
    suspicion["audit: three joined by rank"] = audit.suspicion(view)[0]
    flagged = {f.id for f in audit.audit(view) if f.flagged}
    probability = view.aux["probability"] / view.aux["probability"].sum(axis=1, keepdims=True)
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        suspicion[f"cleanlab {method}"] = -get_label_quality_scores(number, probability, method=method)
    suspicion["cleanlab normalized_margin, adjusted"] = -get_label_quality_scores(
        number, probability, method="normalized_margin", adjust_pred_probs=True
    )
    truth = np.zeros(len(view), dtype=np.bool_)
    truth[wrong] = True
    out = {}
    for name, score in suspicion.items():
        top = np.argsort(-score, kind="stable")[: len(wrong)]
        out[name] = {"auc": auc(truth, np.asarray(score)), "recall": float(truth[top].mean())}
    hits = len(flagged & {view.ids[i] for i in wrong})
    out["audit flags"] = {"auc": hits / max(len(flagged), 1), "recall": hits / len(wrong)}
    return out


def table_of(data: dict[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for kind in ("symmetric", "confusable"):
        for share in (0.05, 0.1, 0.2):
            runs = [one(data, share, kind, seed) for seed in range(SEEDS)]
            table[f"{kind} {share:.0%}"] = {
                name: {
                    "auc": round(float(np.mean([r[name]["auc"] for r in runs])), 4),
                    "auc_sd": round(float(np.std([r[name]["auc"] for r in runs], ddof=1)), 4),
                    "recall_at_true_count": round(float(np.mean([r[name]["recall"] for r in runs])), 4),
                }
                for name in runs[0]
            }
            flags = table[f"{kind} {share:.0%}"]["audit flags"]
            flags["precision"] = flags.pop("auc")
            flags["recall"] = flags.pop("recall_at_true_count")
            flags.pop("auc_sd")
            print(kind, share, json.dumps(table[f"{kind} {share:.0%}"], indent=None), flush=True)
    return table


def main(out: Path, sources: list[Path]) -> None:
    start = time.process_time()
    tables: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for source in sources:
        with np.load(source) as file:
            data: dict[str, Any] = {name: file[name] for name in file.files}
        encoder = str(data["encoder"][0])
        keep = np.isin(data["labels"], list(SIBLINGS)) & (data["splits"] == "train")
        data = {name: data[name][keep] for name in ("ids", "embeddings", "labels", "groups", "clips")}
        tables[encoder] = table_of(data)
        names, counts = np.unique(data["labels"], return_counts=True)
        facts = {"rows": int(keep.sum()), "classes": dict(zip(names.tolist(), counts.tolist(), strict=True))}
    content = {
        "what": "mislabel detection on windows of the training clips, whole clips mislabelled; a table per encoder",
        "machine": "2 cores x86-64, one thread; seconds are processor seconds, the machine was shared",
        "python": platform.python_version(),
        "cleanlab": version("cleanlab"),
        **facts,
        "seeds": SEEDS,
        "seconds": round(time.process_time() - start, 1),
        "table": tables,
    }
    out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
