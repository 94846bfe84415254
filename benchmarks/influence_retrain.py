"""Retrain the fast path's head on what each recipe keeps: the comparison that decides the default recipe.

Usage: python benchmarks/influence_retrain.py EMBEDDINGS.npz OUT.json [flip share]

EMBEDDINGS.npz comes from `influence_embed.py`. The frozen shipped encoder's burst embeddings go through the real
`TemporalHead`, trained from scratch on the kept windows with the same number of steps for every recipe, many models
side by side. Queries for selection are half of the validation groups; the numbers are from the other half, and the
halves then swap.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from data_filter import audit
from data_filter.types import FeatureView
from data_filter.warmup import WarmUpConfig, describe, warm_up
from fast_path import metrics
from fast_path.head import HeadConfig, TemporalHead
from guard import plugins

torch.set_num_threads(1)
CATEGORIES = ("violence.fighting", "accidents.road", "illegal.fire")
BUDGETS = (0.024, 0.1, 0.2, 0.5)
SEEDS = int(os.environ.get("SEEDS", "5"))
DRAWS = int(os.environ.get("DRAWS", "10"))
STEPS, BATCH, LENGTH = 120, 32, 6


def load(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    where: dict[str, list[int]] = {}
    for i, clip in enumerate(data["burst_clip"].tolist()):
        where.setdefault(clip, []).append(i)
    total, width = len(data["ids"]), data["burst_vectors"].shape[1]
    bursts = np.zeros((total, LENGTH, width), np.float32)
    seconds, mask = np.zeros((total, LENGTH), np.float32), np.zeros((total, LENGTH), np.bool_)
    for n, (name, clip) in enumerate(zip(data["ids"].tolist(), data["clips"].tolist(), strict=True)):
        window = int(name.rpartition("#")[2])
        mine = [i for i in where[clip] if int((data["burst_seconds"][i] - 0.18 + 1e-4) // 4.0) == window][
            :LENGTH
        ] or where[clip][:1]
        bursts[n, : len(mine)] = data["burst_vectors"][mine]
        seconds[n, : len(mine)] = data["burst_seconds"][mine] - data["burst_seconds"][mine[0]]
        mask[n, : len(mine)] = True
    targets = np.array(
        [[float(c in str(label).split("+")) for c in CATEGORIES] for label in data["labels"]], np.float32
    )
    scale = bursts[mask].std(axis=0) + 1e-6
    data.update(
        bursts=(bursts - bursts[mask].mean(axis=0)) / scale * mask[..., None],
        seconds=seconds,
        mask=mask,
        targets=targets,
    )
    return data


def train_many(data: dict[str, Any], jobs: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    """Train one head per (rows, seed), all at once, and return probabilities of every row [N, C] for each."""
    out: list[np.ndarray] = []
    x, t, m, y = (torch.from_numpy(np.ascontiguousarray(data[k])) for k in ("bursts", "seconds", "mask", "targets"))
    for start in range(0, len(jobs), 25):
        out.extend(_train(x, t, m, y, jobs[start : start + 25]))
    return out


def _train(x: Tensor, t: Tensor, m: Tensor, y: Tensor, jobs: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    config = HeadConfig(dimension=x.shape[2], categories=CATEGORIES, hidden=16, heads=4)
    heads = []
    for _, seed in jobs:
        torch.manual_seed(seed)
        heads.append(TemporalHead(config))
    parameters, buffers = torch.func.stack_module_state(heads)
    shape = TemporalHead(config)

    def logits(p: Any, b: Any, xs: Tensor, ts: Tensor, ms: Tensor) -> Tensor:
        return torch.func.functional_call(shape, (p, b), (xs, ts, ms))[0]

    train_call = torch.func.vmap(logits, randomness="different")
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=3e-3, weight_decay=0.02)
    order = np.stack([_schedule(rows, seed) for rows, seed in jobs])
    torch.manual_seed(jobs[0][1])
    for step in range(STEPS):
        at = torch.from_numpy(order[:, step * BATCH : (step + 1) * BATCH])
        values = train_call(parameters, buffers, x[at], t[at], m[at])
        loss = nn.functional.binary_cross_entropy_with_logits(values, y[at], reduction="none").mean(dim=(1, 2)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    shape.eval()
    score = torch.func.vmap(logits, in_dims=(0, 0, None, None, None))
    with torch.no_grad():
        return list(score(parameters, buffers, x, t, m).sigmoid().numpy())


def _schedule(rows: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows) for _ in range(-(-STEPS * BATCH // len(rows)))])[: STEPS * BATCH]


def view(data: dict[str, Any], at: np.ndarray, targets: np.ndarray) -> FeatureView:
    return FeatureView(
        ids=tuple(data["ids"][at].tolist()),
        targets=targets[at],
        categories=CATEGORIES,
        groups=tuple(data["groups"][at].tolist()),
        embeddings=data["embeddings"][at].astype(np.float32),
    )


def measure(data: dict[str, Any], at: np.ndarray, probability: np.ndarray) -> list[float]:
    """AUROC per category over clips (the highest window counts)."""
    clips = data["clips"][at]
    found = []
    for c in range(len(CATEGORIES)):
        names = np.unique(clips)
        truth = np.array([data["targets"][at][clips == n, c].max() > 0 for n in names])
        score = np.array([probability[at][clips == n, c].max() for n in names], dtype=np.float64)
        found.append(metrics.auroc(truth, score))
    return found


RECIPES: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    # name: scorer, selector, selector settings, audited
    "random": ("random", "random", {}, False),
    "balanced random": ("random", "random", {"balanced": True}, False),
    "audit + balanced random": ("random", "random", {"balanced": True}, True),
    "audit + facility location": ("random", "facility_location", {}, True),
    "facility location, no audit": ("random", "facility_location", {}, False),
    "top-k grad_cos": ("grad_cos", "top_k", {}, False),
    "quota grad_cos": ("grad_cos", "quota", {}, False),
    "audit + quota grad_cos": ("grad_cos", "quota", {}, True),
    "audit + quota fisher": ("fisher", "quota", {}, True),
    "audit + round robin grad_cos": ("grad_cos", "round_robin", {}, True),
    "audit + bids grad_cos": ("grad_cos", "bids", {"floor": 1}, True),
    "audit + tarot": ("grad_cos", "tarot", {}, True),
    "audit + facility location + grad_cos bonus": ("grad_cos", "facility_location", {"score_weight": 1.0}, True),
    "audit + facility location, proportional": ("random", "facility_location", {"share": "proportional"}, True),
    "audit + rds round robin": ("representation", "round_robin", {}, True),
}


ONLY = os.environ.get("ONLY", "")
if ONLY:
    RECIPES = {name: RECIPES[name] for name in ONLY.split(";")}


def main(source: Path, out: Path, flips: float) -> None:
    data = load(source)
    clock = time.process_time()
    usable = np.array([set(str(label).split("+")) <= {"benign", *CATEGORIES} for label in data["labels"]])
    pool = np.flatnonzero(usable & (data["splits"] == "train"))
    val = np.flatnonzero(usable & (data["splits"] == "val"))
    groups = np.unique(data["groups"][val])
    rng = np.random.default_rng(0)
    half = dict(zip(groups.tolist(), (rng.permutation(len(groups)) % 2).tolist(), strict=True))
    side = np.array([half[g] for g in data["groups"][val].tolist()])
    given = data["targets"].copy()
    wrong = rng.permutation(pool)[: round(flips * len(pool))]
    for i in wrong:
        own = int(given[i].argmax()) + 1 if given[i].any() else 0
        new = (own + rng.integers(1, 4)) % 4
        given[i] = np.eye(4, dtype=np.float32)[new][1:]
    clean = data["targets"].copy()
    rows: dict[str, dict[str, list[list[float]]]] = {}
    jobs: list[tuple[np.ndarray, int]] = []
    tags: list[tuple[str, str, int]] = []
    for fold in (0, 1):
        query_rows = val[side == fold]
        train, queries = view(data, pool, given), view(data, query_rows, clean)
        head = warm_up(train, WarmUpConfig(curvature_rows=900))
        train, queries = describe(head, train), describe(head, queries, training=False)
        queries = replace(queries, groups=queries.strata())
        print("described", round(time.process_time() - clock, 1), flush=True)
        ok = audit.trusted(train, audit.audit(train))
        scores = {n: plugins.load("scorer", n).score(train, queries) for n in sorted({r[0] for r in RECIPES.values()})}
        print("scored", round(time.process_time() - clock, 1), flush=True)
        for budget in BUDGETS:
            count = max(4, round(budget * len(pool)))
            for name, (scorer, selector, settings, audited) in RECIPES.items():
                draws = DRAWS if selector == "random" else 1
                part = plugins.load("selector", selector, **settings)
                for draw in range(draws):
                    picked = part.select(
                        scores[scorer], min(count, int(ok.sum()) if audited else count), pool=train, queries=queries,
                        allowed=ok if audited else None, seed=draw,
                    )  # fmt: skip
                    for seed in range(SEEDS if draws == 1 else 1):
                        jobs.append((pool[picked.indices], 100 * draw + seed))
                        tags.append((f"{budget:.1%}", name, fold))
        for seed in range(SEEDS):
            for name, rows_ in (("100 %", pool), ("100 % minus audit", pool[ok]), ("queries only", query_rows)):
                jobs.append((rows_, seed))
                tags.append(("all", name, fold))
    data["targets"] = given
    print(len(jobs), "trainings", round(time.process_time() - clock, 1), flush=True)
    windows = {"pool": len(pool), "validation": len(val), "validation_clips": len(np.unique(data["clips"][val]))}
    for part in dict.fromkeys(tag[0] for tag in tags):
        mine = [n for n, tag in enumerate(tags) if tag[0] == part]
        data["targets"] = given
        probability = train_many(data, [jobs[n] for n in mine])
        data["targets"] = clean
        for n, p in zip(mine, probability, strict=True):
            budget, name, fold = tags[n]
            rows.setdefault(budget, {}).setdefault(name, []).append(measure(data, val[side != fold], p))
        # written part by part: a broken run still shows what it had
        save(out, rows, windows, flips, time.process_time() - clock)


def save(out: Path, rows: dict[str, Any], windows: dict[str, int], flips: float, seconds: float) -> None:
    table = {b: {n: summary(np.array(v)) for n, v in group.items()} for b, group in rows.items()}
    content = {
        "what": "AUROC on held-out validation clips, head trained on the kept windows; mean over three categories",
        "machine": "2 cores x86-64, one thread; seconds are processor seconds, the machine was shared",
        "python": platform.python_version(),
        "windows": windows,
        "labels_flipped_in_pool": flips,
        "seeds": SEEDS,
        "random_draws": DRAWS,
        "steps": STEPS,
        "seconds": round(seconds, 1),
        "table": {b: dict(sorted(g.items(), key=lambda item: -item[1]["mean"])) for b, g in table.items()},
    }
    out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    last = list(content["table"])[-1]
    for n, v in content["table"][last].items():
        print(last, n, v, flush=True)


def summary(found: np.ndarray) -> dict[str, Any]:
    means = found.mean(axis=1)
    rng = np.random.default_rng(0)
    boots = [rng.choice(means, len(means)).mean() for _ in range(2000)]
    return {
        "mean": round(float(means.mean()), 4),
        "interval_95_over_runs": [round(float(q), 4) for q in np.quantile(boots, [0.025, 0.975])],
        "worst_category": round(float(found.mean(axis=0).min()), 4),
        "runs": len(means),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
