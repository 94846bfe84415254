"""What a cascade costs and how often it is right, against the fast path alone and the VLM alone, in one run.

Rendered clips (`slow_path.rendered`), so that the truth is known. The fast path is the shipped encoder with a logistic
head per rule, fitted here on other clips; the slow path is the small trained VLM behind vLLM. A rule whose fast
probability is sure enough is answered by the fast path, the others by the VLM; cost is CPU time of all processes.

    python benchmarks/cascade.py --model slow_path/weights/shapes
    python benchmarks/cascade.py --model slow_path/weights/shapes --empty-share 0.8
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray

from fast_path.embedder import FrameEmbedder, embedder_of
from guard import plugins
from guard.types import Judgement
from serve.meter import tree_cpu_seconds
from slow_path import rendered, rendered_examples, server
from slow_path.judge import from_url
from slow_path.rendered_examples import HELD_OUT, Item
from slow_path.server import ServerSettings

Array = NDArray[np.float64]
SURE = (0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Probabilities of the fast path's answer at which it answers alone."""
SIDE_PX = 112
AIM = 2.85
JUDGE = replace(
    rendered_examples.SETTINGS, mode="reason", samples=1, answer_attempts=1, floor=0.0, deadline_seconds=600.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one stage says of one rule of one clip."""

    violated: bool | None
    """None: no usable answer, which counts as wrong."""
    sure: float


def draw(seed: int, empty_share: float) -> Item:
    """Return the item of `seed`; an `empty_share` of them show nothing, as most of a real stream breaks no rule."""
    made = rendered_examples.item(seed)
    rng = np.random.default_rng((seed, 7))
    if rng.random() >= empty_share:
        return made
    rules = tuple(str(rule) for rule in rng.choice(rendered.RULES, size=len(made.rules), replace=False))
    return Item(clip=replace(made.clip, events=()), rules=rules)


def embed(items: Sequence[Item], embedder: FrameEmbedder) -> tuple[Array, float]:
    """Return one row of features per clip, and the CPU seconds per clip."""
    clips = [rendered.render(item.clip, side=SIDE_PX) for item in items]
    started = time.process_time()
    rows = []
    for frames in clips:
        made, _ = embedder.embed(frames)
        rows.append(np.concatenate([made.max(axis=0), made.mean(axis=0)]))
    return np.asarray(rows, dtype=np.float64), (time.process_time() - started) / len(items)


def fit_heads(features: Array, items: Sequence[Item]) -> Any:
    """Return a function from features [N, D] to the probability [N, R] that each of `rendered.RULES` is violated."""
    labels = torch.tensor([[bool(rendered.evidence(i.clip, r)) for r in rendered.RULES] for i in items]).float()
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    inputs = torch.tensor((features - mean) / spread).float()
    torch.manual_seed(0)
    head = torch.nn.Linear(inputs.shape[1], len(rendered.RULES))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(inputs), labels)
        loss = loss + 3e-3 * head.weight.pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)

    def predict(rows: Array) -> Array:
        with torch.no_grad():
            made = torch.sigmoid(head(torch.tensor((rows - mean) / spread).float()))
        return np.asarray(made.numpy(), dtype=np.float64)

    return predict


def fast_answers(items: Sequence[Item], probability: Array) -> list[dict[str, Answer]]:
    """Return the answers of the fast path, by rule."""
    place = {rule: column for column, rule in enumerate(rendered.RULES)}
    return [
        {
            rule: Answer(
                violated=bool(row[place[rule]] >= 0.5), sure=float(max(row[place[rule]], 1 - row[place[rule]]))
            )
            for rule in item.rules
        }
        for item, row in zip(items, probability, strict=True)
    ]


def slow_answers(items: Sequence[Item], url: str) -> tuple[list[dict[str, Answer]], float]:
    """Return the answers of the VLM, by rule, and the CPU seconds per clip of the server and of this client."""

    async def ask() -> list[Judgement]:
        judge = from_url(url, settings=JUDGE, concurrency=32, request_timeout_seconds=600)
        try:
            return await judge.judge([rendered_examples.case(item) for item in items])
        finally:
            await judge.close()

    before = tree_cpu_seconds()
    judgements = asyncio.run(ask())
    seconds = (tree_cpu_seconds() - before) / len(items)
    found = []
    for item, judgement in zip(items, judgements, strict=True):
        said = {check.rule: check for check in judgement.checks if judgement.status == "ok"}
        found.append({rule: _answer(said.get(rule)) for rule in item.rules})
    return found, seconds


def _answer(check: Any) -> Answer:
    if check is None or check.violated == "unsure":
        return Answer(violated=None, sure=0.0)
    return Answer(violated=check.violated == "yes", sure=check.confidence or 0.0)


def row(
    name: str, items: Sequence[Item], given: Sequence[dict[str, Answer]], escalated: int, fast: float, slow: float
) -> dict[str, Any]:
    """Return one line of the table."""
    right = [
        answer.violated == (rule in i.violated) for i, a in zip(items, given, strict=True) for rule, answer in a.items()
    ]
    misses = [
        given_answer.violated is False
        for item, answers in zip(items, given, strict=True)
        for rule, given_answer in answers.items()
        if rule in item.violated
    ]
    cost = fast + slow * escalated / len(items)
    low, high = interval(sum(right), len(right))
    return {
        "system": name,
        "rule_accuracy": round(sum(right) / len(right), 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "missed_violations": round(sum(misses) / len(misses), 4),
        "escalated_share": round(escalated / len(items), 4),
        "cpu_ms_per_clip": round(1e3 * cost, 2),
    }


def interval(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share."""
    z, p = 1.96, hits / total
    middle, half = p + z * z / (2 * total), z * np.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return float((middle - half) / (1 + z * z / total)), float((middle + half) / (1 + z * z / total))


def table(
    items: Sequence[Item],
    fast: Sequence[dict[str, Answer]],
    slow: Sequence[dict[str, Answer]],
    costs: tuple[float, float],
) -> list[dict[str, Any]]:
    """Return fast alone, slow alone, and the cascade at each threshold with its cost against slow alone."""
    rows = [
        row("fast only", items, fast, 0, costs[0], costs[1]),
        row("slow only", items, slow, len(items), 0.0, costs[1]),
    ]
    for sure in SURE:
        mixed = [
            {rule: quick if quick.sure >= sure else s[rule] for rule, quick in f.items()}
            for f, s in zip(fast, slow, strict=True)
        ]
        escalated = sum(any(quick.sure < sure for quick in f.values()) for f in fast)
        rows.append(row(f"cascade at {sure:g}", items, mixed, escalated, *costs))
    for made in rows:
        made["times_cheaper_than_slow_only"] = round(rows[1]["cpu_ms_per_clip"] / made["cpu_ms_per_clip"], 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained small VLM")
    parser.add_argument("--fit-clips", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--empty-share", type=float, default=0.0, help="share of clips that show nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    embedder = embedder_of(plugins.load("detector", "tiny"))
    if embedder is None:
        raise SystemExit("The shipped detector has no encoder.")
    fitted = [draw(5_000_000 + i, given.empty_share) for i in range(given.fit_clips)]
    items = [draw(HELD_OUT + 4_000_000 + i, given.empty_share) for i in range(given.clips)]
    predict = fit_heads(embed(fitted, embedder)[0], fitted)
    features, fast_seconds = embed(items, embedder)
    fast = fast_answers(items, predict(features))
    settings = ServerSettings(port=server.free_port(), images=8, max_model_len=2048, kv_cache_gib=1, threads=1)
    with (
        tempfile.TemporaryDirectory() as folder,
        server.running(str(given.model), settings, log=Path(folder) / "server.log") as running,
    ):
        slow_answers(items[:8], running.url)  # the first answers compile the grammar; no clip pays for that
        slow, slow_seconds = slow_answers(items, running.url)
    rows = table(items, fast, slow, (fast_seconds, slow_seconds))
    enough = [r for r in rows[2:] if r["rule_accuracy"] >= rows[1]["rule_accuracy"]]
    best = max(enough, key=lambda r: r["times_cheaper_than_slow_only"], default=None)
    part = {
        "clips": given.clips,
        "rules_asked": sum(len(item.rules) for item in items),
        "rows": rows,
        "cheapest_cascade_no_worse_than_slow_only": best,
    }
    report = json.loads(given.out.read_text()) if given.out.exists() else {"populations": {}}
    report["machine"] = f"{len(os.sched_getaffinity(0))} cores {platform.machine()}, shared with other work, no GPU"
    report["aim_times_cheaper"] = AIM
    report["populations"][f"{given.empty_share:.0%} of clips show nothing"] = part
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(part, indent=1))


if __name__ == "__main__":
    main()
