"""Retrain the fast path's head on what each recipe keeps: the comparison that decides the default recipe.

Usage: python benchmarks/influence_retrain.py EMBEDDINGS.npz OUT.json [flip share]

EMBEDDINGS.npz comes from `influence_embed.py`. Burst embeddings of the frozen encoder go through the real
`TemporalHead`, trained from scratch on the kept windows with the same number of steps for every recipe, many models
side by side. Queries for selection are half of the validation groups; the numbers are from the other half, and the
halves then swap. Every trained head is one run; a rule that draws is drawn anew for every run.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import warnings
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
from fast_path.head import HeadConfig, TemporalHead
from guard import plugins, taxonomy

torch.set_num_threads(1)
CATEGORIES = ("violence.fighting", "accidents.road", "illegal.fire")
BUDGETS = (0.024, 0.1, 0.2, 0.5)
SEEDS = int(os.environ.get("SEEDS", "5"))
DRAWS = int(os.environ.get("DRAWS", "10"))
STEPS, BATCH, LENGTH = 120, 32, 6
BOOTSTRAPS = 1000


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
        mine = [i for i in where[clip] if int((data["burst_seconds"][i] - 0.18 + 1e-4) // 4.0) == window]
        mine = (mine or where[clip])[:LENGTH]
        bursts[n, : len(mine)] = data["burst_vectors"][mine]
        seconds[n, : len(mine)] = data["burst_seconds"][mine] - data["burst_seconds"][mine[0]]
        mask[n, : len(mine)] = True
    train = data["splits"] == "train"
    seen = bursts[train][mask[train]]
    data.update(bursts=(bursts - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-6) * mask[..., None])
    return {**data, "seconds": seconds, "mask": mask}


def targets(labels: np.ndarray, categories: tuple[str, ...], *, ancestors: bool) -> np.ndarray:
    """Label sets as 0 and 1, float32 [N, C]; training counts smoke as fire, the filter keeps them apart."""

    def on(category: str, text: str) -> bool:
        names = [] if text == "benign" else text.split("+")
        return any(taxonomy.covers(category, n) if ancestors else n == category for n in names)

    return np.array([[float(on(c, str(label))) for c in categories] for label in labels], np.float32)


def train_many(data: dict[str, Any], jobs: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    """Train one head per (rows, seed), 25 at once, and return probabilities of every row [N, C] for each."""
    out: list[np.ndarray] = []
    x, t, m, y = (torch.from_numpy(np.ascontiguousarray(data[k])) for k in ("bursts", "seconds", "mask", "given"))
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


class Half:
    """The clips of one half of the validation groups, and how runs rank them: AUROC over clips (highest window)."""

    def __init__(self, data: dict[str, Any], rows: np.ndarray, seed: int) -> None:
        self.rows = rows
        clips = data["clips"][rows]
        self.names, self.first = np.unique(clips, return_index=True)
        self.member = [np.flatnonzero(clips == name) for name in self.names]
        self.truth = targets(data["labels"][rows][self.first], CATEGORIES, ancestors=True) > 0
        groups = np.unique(data["groups"][rows][self.first], return_inverse=True)[1]
        # how often each clip counts in each draw of groups; the first draw is the data itself
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(groups.max() + 1, np.full(groups.max() + 1, 1 / (groups.max() + 1)), BOOTSTRAPS)
        self.weight = np.concatenate([np.ones((1, len(groups))), drawn[:, groups]])

    def aurocs(self, probability: np.ndarray) -> np.ndarray:
        """Return [1 + BOOTSTRAPS, categories]; NaN where a draw lacks a kind."""
        score = np.stack([probability[self.rows][mine].max(axis=0) for mine in self.member])
        found = []
        for c in range(len(CATEGORIES)):
            yes, no = (self.weight[:, self.truth[:, c] == kind] for kind in (True, False))
            s, o = score[self.truth[:, c], c], score[~self.truth[:, c], c]
            wins = (s[:, None] > o[None, :]) + 0.5 * (s[:, None] == o[None, :])
            pairs = yes.sum(axis=1) * no.sum(axis=1)
            won = ((yes @ wins) * no).sum(axis=1)
            found.append(np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan))
        return np.stack(found, axis=1)


RECIPES: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    # name: scorer, selector, selector settings, audited
    "random": ("random", "random", {}, False),
    "balanced random": ("random", "random", {"balanced": True}, False),
    "audit + random": ("random", "random", {}, True),
    "audit + balanced random": ("random", "random", {"balanced": True}, True),
    "facility location": ("random", "facility_location", {}, False),
    "audit + facility location": ("random", "facility_location", {}, True),
    "facility location, proportional": ("random", "facility_location", {"share": "proportional"}, False),
    "audit + facility location, proportional": ("random", "facility_location", {"share": "proportional"}, True),
    "facility location + grad_cos bonus": ("grad_cos", "facility_location", {"score_weight": 1.0}, False),
    "top-k grad_cos": ("grad_cos", "top_k", {}, False),
    "quota grad_cos": ("grad_cos", "quota", {}, False),
    "quota fisher": ("fisher", "quota", {}, False),
    "quota trak": ("trak", "quota", {}, False),
    "audit + quota grad_cos": ("grad_cos", "quota", {}, True),
    "round robin grad_cos": ("grad_cos", "round_robin", {}, False),
    "bids grad_cos": ("grad_cos", "bids", {"floor": 1}, False),
    "tarot": ("grad_cos", "tarot", {}, False),
    "k-centre": ("random", "k_centre", {}, False),
    "rds round robin": ("representation", "round_robin", {}, False),
}
if os.environ.get("ONLY"):
    RECIPES = {name: RECIPES[name] for name in os.environ["ONLY"].split(";")}


def flipped(labels: np.ndarray, clips: np.ndarray, pool: np.ndarray, share: float) -> np.ndarray:
    """Give whole clips of the pool another label set."""
    rng = np.random.default_rng(0)
    kinds = sorted(set(labels[pool].tolist()))
    out = labels.copy()
    names = np.unique(clips[pool])
    for name in names[rng.permutation(len(names))[: round(share * len(names))]]:
        mine = pool[clips[pool] == name]
        others = [k for k in kinds if k != labels[mine[0]]]
        out[mine] = others[rng.integers(len(others))]
    return out


def halves(data: dict[str, Any], val: np.ndarray) -> list[np.ndarray]:
    """Split the validation rows by group, so that either half has about as many groups of every label set."""
    rng = np.random.default_rng(0)
    side: dict[str, int] = {}
    labels, groups = data["labels"][val], data["groups"][val]
    for label, _ in sorted(zip(*np.unique(labels, return_counts=True), strict=True), key=lambda item: item[1]):
        own = sorted({str(g) for g in groups[labels == label]} - set(side))
        start = len(side) % 2
        for n, g in enumerate(rng.permutation(own).tolist()):
            side[g] = (start + n) % 2
    at = np.array([side[str(g)] for g in groups])
    return [val[at == 0], val[at == 1]]


def view(data: dict[str, Any], at: np.ndarray, labels: np.ndarray, categories: tuple[str, ...]) -> FeatureView:
    return FeatureView(
        ids=tuple(data["ids"][at].tolist()),
        targets=targets(labels[at], categories, ancestors=False),
        categories=categories,
        groups=tuple(data["groups"][at].tolist()),
        embeddings=data["embeddings"][at].astype(np.float32),
    )


def plan(data: dict[str, Any], pool: np.ndarray, asked: np.ndarray, given: np.ndarray) -> list[tuple[str, str, Any]]:
    """Return (budget, recipe, (rows, seed)) of every run that selects for the queries `asked`."""
    categories = tuple(sorted({c for text in data["labels"] for c in str(text).split("+")} - {"benign"}))
    train, queries = view(data, pool, given, categories), view(data, asked, data["labels"], categories)
    head = warm_up(train, WarmUpConfig(curvature_rows=900))
    train, queries = describe(head, train), describe(head, queries, training=False)
    queries = replace(queries, groups=queries.strata())
    ok = audit.trusted(train, audit.audit(train))
    scores = {n: plugins.load("scorer", n).score(train, queries) for n in sorted({r[0] for r in RECIPES.values()})}
    found: list[tuple[str, str, Any]] = []
    for budget in BUDGETS:
        count = max(6, round(budget * len(pool)))
        for name, (scorer, selector, settings, audited) in RECIPES.items():
            part = plugins.load("selector", selector, **settings)
            draws = DRAWS if selector == "random" else 1
            for draw in range(draws):
                picked = part.select(
                    scores[scorer], min(count, int(ok.sum())) if audited else count, pool=train, queries=queries,
                    allowed=ok if audited else None, seed=draw,
                )  # fmt: skip
                seeds = [100 + draw] if draws > 1 else range(SEEDS)
                found += [(f"{budget:.1%}", name, (pool[picked.indices], seed)) for seed in seeds]
    for seed in range(SEEDS):
        for name, rows in (("100 %", pool), ("100 % minus audit", pool[ok]), ("queries only", asked)):
            found.append(("all", name, (rows, seed)))
    return found


def main(source: Path, out: Path, flips: float) -> None:
    data = load(source)
    clock = time.process_time()
    pool, val = (np.flatnonzero(data["splits"] == s) for s in ("train", "val"))
    given = flipped(data["labels"], data["clips"], pool, flips)
    data["given"] = targets(given, CATEGORIES, ancestors=True)
    sides = halves(data, val)
    runs = [(fold, *run) for fold in (0, 1) for run in plan(data, pool, sides[fold], given)]
    judges = [Half(data, sides[1 - fold], seed=fold) for fold in (0, 1)]
    print(len(runs), "trainings; selected after", round(time.process_time() - clock, 1), "s", flush=True)
    facts = {
        "windows": {"pool": len(pool), "validation": len(val)},
        "clips": {"pool": len(np.unique(data["clips"][pool])), "validation": [len(j.names) for j in judges]},
        "positive_clips_per_half": [dict(zip(CATEGORIES, j.truth.sum(axis=0).tolist(), strict=True)) for j in judges],
        "encoder": str(data["encoder"][0]),
        "encoder_fingerprint": str(data["fingerprint"][0]) if "fingerprint" in data else "",
        "labels_flipped_in_pool": flips,
    }
    found: dict[tuple[str, str], list[list[np.ndarray]]] = {}
    for budget in dict.fromkeys(run[1] for run in runs):
        mine = [run for run in runs if run[1] == budget]
        for (fold, _, name, _), p in zip(mine, train_many(data, [run[3] for run in mine]), strict=True):
            found.setdefault((budget, name), [[], []])[fold].append(judges[fold].aurocs(p))
        # written part by part: a broken run still shows what it had
        save(out, found, facts, time.process_time() - clock)


def means(runs: list[list[np.ndarray]], seed: int) -> np.ndarray:
    """Return [1 + BOOTSTRAPS, categories]: means over both halves; from the second line on, runs are drawn anew."""
    rng = np.random.default_rng(seed)
    sides = []
    for fold in (0, 1):
        values = np.stack(runs[fold])  # [runs, draws, categories]
        share = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), BOOTSTRAPS) / len(values)
        share = np.concatenate([np.full((1, len(values)), 1 / len(values)), share])
        sides.append(np.einsum("br,rbc->bc", share, values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw of groups may hold no fire at all: NaN, left out
        return np.nanmean(np.stack(sides), axis=0)


def summary(values: np.ndarray, against: np.ndarray, runs: list[list[np.ndarray]]) -> dict[str, Any]:
    def interval(x: np.ndarray) -> list[float]:
        return [round(float(q), 3) for q in np.quantile(x[1:][np.isfinite(x[1:])], [0.025, 0.975])]

    whole, other = values.mean(axis=1), against.mean(axis=1)
    return {
        "mean": round(float(whole[0]), 4),
        "interval_95": interval(whole),
        "over_random": round(float(whole[0] - other[0]), 4),
        "over_random_95": interval(whole - other),
        "worst_category": CATEGORIES[int(values[0].argmin())],
        "worst_category_auroc": round(float(values[0].min()), 4),
        "deviation_over_runs": round(
            float(np.mean([np.std([r[0].mean() for r in side], ddof=1) for side in runs])), 4
        ),
        "runs": sum(len(side) for side in runs),
    }  # fmt: skip


def save(out: Path, found: dict[tuple[str, str], Any], facts: dict[str, Any], seconds: float) -> None:
    table: dict[str, dict[str, Any]] = {}
    for (budget, name), runs in found.items():
        # what is not of a budget is compared with random picks of a tenth
        control = found.get((budget if budget != "all" else "10.0%", "random"), runs)
        table.setdefault(budget, {})[name] = summary(means(runs, 1), means(control, 2), runs)
    content = {
        "what": "AUROC on held-out validation clips, head trained on the kept windows; mean of three categories and of "
        "two halves; intervals: bootstrap over groups of clips and over runs, differences on the same draws of groups",
        "machine": "2 cores x86-64, one thread; seconds are processor seconds, the machine was shared",
        "python": platform.python_version(),
        **facts,
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
