"""From a finished run directory to `metrics.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval import run_dir
from eval.metrics import calibration, selective
from eval.metrics.baselines import baselines
from eval.metrics.cost import Prices, Spent, cost
from eval.metrics.intervals import bootstrap
from eval.metrics.strict import Strict
from eval.protocols import PROTOCOLS, Scored
from eval.table import InvalidPolicy, Table, build_table
from eval.types import Column, Gold, Prediction
from guard.errors import UsageError

PARTIAL_BELOW = 0.8
"""A run with answers for a smaller share of its samples is marked partial, whatever its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How a run is scored."""

    invalid: InvalidPolicy = "wrong"
    draws: int = 1000
    seed: int = 0
    metrics: str = "both"
    """`official`, `strict` or `both`, where a benchmark has official ones."""
    prices: Prices | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A finished run."""

    path: Path
    info: dict[str, Any]
    predictions: tuple[Prediction, ...]
    golds: tuple[Gold, ...]
    lines: tuple[dict[str, Any], ...]
    columns: tuple[Column, ...]


def load(path: Path) -> Loaded:
    """Read a finished run. Raises `UsageError` where it is none, or where answers and key do not fit one to one."""
    info = run_dir.read_json(path / run_dir.RUN)
    if info is None:
        raise UsageError(f"{str(path)!r} is not an evaluation run: it has no {run_dir.RUN}.")
    keyed = run_dir.read_key(path)
    predictions = run_dir.read_predictions(path)
    if [p.id for p in predictions] != [line["id"] for _, line in keyed]:
        raise UsageError(f"{str(path)!r}: predictions and key do not fit; the run was not finished, or was edited.")
    return Loaded(
        path=path,
        info=info,
        predictions=tuple(predictions),
        golds=tuple(gold for gold, _ in keyed),
        lines=tuple(line for _, line in keyed),
        columns=tuple(Column(id=c["id"], name=c["name"], accepts=tuple(c["accepts"])) for c in info["columns"]),
    )


def score(path: Path, scoring: Scoring | None = None) -> dict[str, Any]:
    """Compute every metric of a finished run, write `metrics.json`, and return it."""
    scoring = scoring or Scoring()
    loaded = load(path)
    table = build_table(loaded.predictions, loaded.golds, loaded.columns, invalid=scoring.invalid)
    found = {
        "benchmark": loaded.info["signature"]["benchmark"],
        "title": loaded.info["title"],
        "system": loaded.info["signature"]["system"],
        "invalid_policy": scoring.invalid,
        "coverage": coverage(loaded, table),
        "columns": _columns(table),
        "strict": strict_of(table, scoring) if scoring.metrics != "official" else {},
        "baselines": baselines(table.truth, table.known, table.columns, seed=scoring.seed),
        "calibration": _calibration(table),
        "selective": selective.selective(np.abs(table.any_score - 0.5), _wrong(table)) if not table.hard else None,
        "routing": _routing(loaded),
        "subsets": _subsets(loaded, scoring),
        "stems": _stems(loaded, scoring),
        "protocols": _protocols(loaded, table, scoring),
        "cost": _cost(loaded, scoring),
        "notes": loaded.info["notes"],
    }
    run_dir.write_json(path / run_dir.METRICS, found)
    return found


def coverage(loaded: Loaded, table: Table) -> dict[str, Any]:
    """Return how many of the benchmark's items stand behind the numbers, and whether the run is partial."""
    asked, answered = len(loaded.predictions), sum(p.valid for p in loaded.predictions)
    info = loaded.info
    codes = Counter(str(p.code) for p in loaded.predictions if not p.valid)
    share = answered / info["expected"] if info["expected"] else 0.0
    return {
        "expected": info["expected"],
        "found": info["found"],
        "asked": asked,
        "answered": answered,
        "scored": len(table.ids),
        "share": share,
        "partial": asked < info["expected"] or answered < PARTIAL_BELOW * asked,
        "status": dict(Counter(p.status for p in loaded.predictions)),
        "codes": dict(codes.most_common()),
    }


def strict_of(table: Table, scoring: Scoring) -> dict[str, list[float | None]]:
    """Return every strict metric as value, low and high of its 95 % interval over groups."""
    made = bootstrap(strict(table), table.groups, draws=scoring.draws, seed=scoring.seed)
    return {name: interval.as_list() for name, interval in made.items()}


def strict(table: Table) -> Strict:
    """Return the strict metrics of a table as a function of weights."""
    return Strict(
        table.truth,
        table.flags,
        table.scores,
        known=table.known,
        any_score=table.any_score,
        withheld=table.withheld,
        columns=table.columns,
    )


def _wrong(table: Table) -> Any:
    return table.flagged != table.unsafe


def _columns(table: Table) -> dict[str, dict[str, Any]]:
    made = {}
    for index, name in enumerate(table.columns):
        known = table.known[:, index]
        positives = int(table.truth[known, index].sum())
        made[name] = {
            "positives": positives,
            "negatives": int(known.sum()) - positives,
            "unknown": int((~known).sum()),
            "not_judged": table.not_judged[index],
            "prevalence": positives / int(known.sum()) if known.any() else None,
        }
    return made


def _calibration(table: Table) -> dict[str, Any] | None:
    if table.hard:
        return None
    made = {"any": calibration.calibration(table.unsafe, table.any_score)}
    for index, name in enumerate(table.columns):
        known = table.known[:, index]
        made[name] = calibration.calibration(table.truth[known, index], table.scores[known, index])
    return made


def _routing(loaded: Loaded) -> dict[str, Any] | None:
    """Return what escalation did, where the system routes.

    What is kept is answered by the fast path itself; on what is escalated it counts as flagging from one half on. Where
    no slow path answered, only the rate and the part that is kept mean anything.
    """
    rows = [i for i, p in enumerate(loaded.predictions) if p.route is not None]
    if not rows:
        return None
    kept = [loaded.predictions[i] for i in rows]
    table = build_table(kept, [loaded.golds[i] for i in rows], loaded.columns, invalid="wrong")
    escalated = np.array([p.route == "slow" for p in kept], bool)
    high = np.array([max((p.fast_scores or {}).values(), default=0.0) >= 0.5 for p in kept], bool)
    fast = np.where(escalated, high, table.flagged)
    asked = any(p.route == "slow" and p.prompt_tokens is not None for p in kept)
    return selective.routing(escalated, fast == table.unsafe, table.flagged == table.unsafe, answered=asked)


def _subsets(loaded: Loaded, scoring: Scoring) -> dict[str, Any]:
    made = {}
    for name, left_out in loaded.info["subsets"].items():
        rows = [i for i, gold in enumerate(loaded.golds) if gold.stem not in left_out]
        if 0 < len(rows) < len(loaded.golds):
            made[name] = {"samples": len(rows), **_plain_strict(loaded, rows, scoring)}
    for attribute in ("domain", "split"):
        values = sorted({getattr(gold, attribute) for gold in loaded.golds})
        for value in values if 1 < len(values) <= 20 else ():
            rows = [i for i, gold in enumerate(loaded.golds) if getattr(gold, attribute) == value]
            made[f"{attribute} {value}"] = {"samples": len(rows), **_plain_strict(loaded, rows, scoring)}
    return made


def _plain_strict(loaded: Loaded, rows: Sequence[int], scoring: Scoring) -> dict[str, float | None]:
    table = build_table(
        [loaded.predictions[i] for i in rows], [loaded.golds[i] for i in rows], loaded.columns, invalid=scoring.invalid
    )
    return strict(table)()


def _stems(loaded: Loaded, scoring: Scoring) -> dict[str, dict[str, Any]]:
    """Return by subcategory how many samples there are, how many were flagged, and how many withheld."""
    table = build_table(loaded.predictions, loaded.golds, loaded.columns, invalid=scoring.invalid)
    at = {identifier: index for index, identifier in enumerate(table.ids)}
    made: dict[str, dict[str, Any]] = {}
    for prediction, gold in zip(loaded.predictions, loaded.golds, strict=True):
        index = at.get(prediction.id)
        if index is None:
            continue  # left out, as from every other number
        row = made.setdefault(gold.stem or "-", {"samples": 0, "violating": 0, "flagged": 0, "withheld": 0})
        row["samples"] += 1
        row["violating"] += bool(gold.labels)
        row["flagged"] += bool(table.flagged[index])
        row["withheld"] += bool(table.withheld[index])
    return made


def _protocols(loaded: Loaded, table: Table, scoring: Scoring) -> dict[str, Any]:
    kept = set(table.ids)
    rows = [i for i, p in enumerate(loaded.predictions) if p.id in kept]
    scored = Scored(
        predictions=[loaded.predictions[i] for i in rows],
        golds=[loaded.golds[i] for i in rows],
        paths=[Path(path) if (path := loaded.lines[i]["path"]) else None for i in rows],
        policies=[loaded.lines[i]["policy"] for i in rows],
        table=table,
        columns=loaded.columns,
    )
    names = [n for n in loaded.info["protocols"] if scoring.metrics != "strict" or n != "safewatch"]
    return {name: PROTOCOLS[name](scored) for name in names}


def _cost(loaded: Loaded, scoring: Scoring) -> dict[str, Any]:
    """Return the cost; CPU seconds are those of the whole run, process tree included."""
    spent = [
        Spent(
            latency_ms=p.latency_ms,
            cpu_seconds=p.cpu_seconds,
            gpu_seconds=p.gpu_seconds,
            prompt_tokens=p.prompt_tokens,
            completion_tokens=p.completion_tokens,
        )
        for p in loaded.predictions
    ]
    whole = loaded.info.get("cost", {})
    if spent and all(one.cpu_seconds is None for one in spent) and whole.get("cpu_seconds") is not None:
        share = whole["cpu_seconds"] / len(spent)
        spent = [
            Spent(
                latency_ms=one.latency_ms,
                cpu_seconds=share,
                gpu_seconds=one.gpu_seconds,
                prompt_tokens=one.prompt_tokens,
                completion_tokens=one.completion_tokens,
            )
            for one in spent
        ]
    return {**cost(spent, scoring.prices), "wall_seconds": whole.get("wall_seconds"), "machine": loaded.info["machine"]}
