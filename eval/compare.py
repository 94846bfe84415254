"""Several runs side by side: what differs beyond chance, on one page and in a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from eval import run_dir
from eval.metrics.confusion import FloatArray
from eval.metrics.intervals import Statistic, mcnemar, paired
from eval.score import Loaded, load, score, strict
from eval.table import Table, build_table
from guard.errors import UsageError

SHOWN = {
    "exact_match": "exact match",
    "macro/f1": "macro F1",
    "macro/average_precision": "macro AP",
    "binary/f1": "binary F1",
    "binary/recall": "recall",
    "binary/false_refusal": "false refusal",
    "binary/auroc": "AUROC",
    "binary/recall_at_fpr_0.05": "recall at 5 % FPR",
    "withheld/leakage": "waved through",
    "withheld/false_refusal": "harmless withheld",
}
"""Columns of the tables."""
TESTED = ("exact_match", "macro/f1", "binary/f1", "binary/auroc", "withheld/leakage", "withheld/false_refusal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, scored."""

    name: str
    loaded: Loaded
    metrics: dict[str, Any]
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The runs over one benchmark."""

    benchmark: str
    title: str
    runs: tuple[Run, ...]
    tests: tuple[dict[str, Any], ...]
    """One for each pair: names, samples in common, differences with intervals, and McNemar's test."""
    warnings: tuple[str, ...]


def compare(paths: Sequence[Path], *, draws: int = 1000) -> list[Comparison]:
    """Return the comparison for each benchmark among finished runs, in the order of their first appearance.

    Raises:
        UsageError: a path is no finished run.
    """
    by_benchmark: dict[str, list[Run]] = {}
    for path in expand(paths):
        run = _run(path)
        by_benchmark.setdefault(run.metrics["benchmark"], []).append(run)
    return [_comparison(name, _named(runs), draws) for name, runs in by_benchmark.items()]


def expand(paths: Sequence[Path]) -> list[Path]:
    """Return the runs meant: a path that holds runs rather than being one stands for all of them."""
    found: list[Path] = []
    for path in paths:
        below = sorted(one.parent for one in path.rglob(run_dir.RUN)) if path.is_dir() else []
        if not below:
            raise UsageError(f"{str(path)!r} is not an evaluation run, and holds none.")
        found += below
    return list(dict.fromkeys(found))


def markdown(comparison: Comparison) -> str:
    """Return the table with intervals, coverage beside every row, and the rows that do not look."""
    names = [n for n in SHOWN if any(_value(r.metrics["strict"].get(n)) is not None for r in comparison.runs)]
    head = ["system", "answered", *(SHOWN[n] for n in names), "CPU s per 1,000", "p50 ms"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for run in comparison.runs:
        cover, spent = run.metrics["coverage"], run.metrics["cost"]
        share = f"{cover['answered']} of {cover['expected']}{' (partial)' if cover['partial'] else ''}"
        cells = [_interval(run.metrics["strict"].get(n)) for n in names]
        cells += [_plain(spent["cpu_seconds_per_1000"], 0), _plain(spent["latency_ms"]["p50"], 0)]
        lines.append(f"| {run.name} | {share} | {' | '.join(cells)} |")
    first = comparison.runs[0].metrics
    for row, values in first["baselines"].items():
        cells = [_plain(values.get(n), 3) for n in names]
        lines.append(f"| *{row.replace('_', ' ')}* | | {' | '.join(cells)} | 0 | 0 |")
    return "\n".join(lines) + "\n"


def errors_of(run: Run, count: int) -> list[dict[str, Any]]:
    """Return the worst errors: what is unsafe and scored lowest, what is harmless and scored highest, what failed."""
    table = run.table
    order = np.argsort(np.where(table.unsafe, table.any_score, 1 - table.any_score), kind="stable")
    wrong = [int(i) for i in order if table.flagged[i] != table.unsafe[i] or not table.valid[i]]
    # both kinds are shown, the graver first: what was waved through
    missed = [i for i in wrong if table.unsafe[i]][: -(-count // 2)]
    alarms = [i for i in wrong if not table.unsafe[i]][: count - len(missed)]
    return [_error(run, index) for index in (*missed, *alarms)]


def _error(run: Run, index: int) -> dict[str, Any]:
    prediction, gold, line = run.loaded.predictions[index], run.loaded.golds[index], run.loaded.lines[index]
    kind = "no answer" if not prediction.valid else "missed" if gold.labels else "false alarm"
    return {
        "kind": kind,
        "name": gold.name,
        "stem": gold.stem,
        "labels": list(gold.labels),
        "flagged": list(prediction.flagged),
        "decision": prediction.decision or prediction.code,
        "score": float(run.table.any_score[index]),
        "why": prediction.why,
        "path": line["path"],
        "text": line["text"],
    }


def _run(path: Path) -> Run:
    metrics = run_dir.read_json(path / run_dir.METRICS) or score(path)
    loaded = load(path)
    invalid = metrics["invalid_policy"]
    # `exclude` leaves rows out, which would part the runs; here such an answer counts as wrong, and is told.
    table = build_table(
        loaded.predictions, loaded.golds, loaded.columns, invalid="wrong" if invalid == "exclude" else invalid
    )
    return Run(name=metrics["system"], loaded=loaded, metrics=metrics, table=table)


def _named(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the runs with names that differ: two of one system are told apart by their folders."""
    names = [run.name for run in runs]
    return tuple(
        run
        if names.count(run.name) == 1
        else Run(name=f"{run.name} ({run.loaded.path.name})", loaded=run.loaded, metrics=run.metrics, table=run.table)
        for run in runs
    )


def _comparison(benchmark: str, runs: tuple[Run, ...], draws: int) -> Comparison:
    tests = tuple(_test(a, b, draws) for a, b in combinations(runs, 2))
    return Comparison(
        benchmark=benchmark,
        title=runs[0].metrics["title"],
        runs=runs,
        tests=tests,
        warnings=tuple(_warnings(runs)),
    )


def _test(first: Run, second: Run, draws: int) -> dict[str, Any]:
    """Compare two runs on the samples that both have."""
    at = {identifier: i for i, identifier in enumerate(second.table.ids)}
    shared = [(i, at[identifier]) for i, identifier in enumerate(first.table.ids) if identifier in at]
    made: dict[str, Any] = {"first": first.name, "second": second.name, "samples": len(shared)}
    if not shared or first.table.columns != second.table.columns:
        return made | {"differences": {}, "mcnemar": None}
    one = rows_of(first.table, [i for i, _ in shared])
    two = rows_of(second.table, [j for _, j in shared])
    found = paired(_tested(one), _tested(two), one.groups, draws=draws)
    return made | {
        "differences": found,
        "mcnemar": mcnemar(one.flagged == one.unsafe, two.flagged == two.unsafe),
    }


def _tested(table: Table) -> Statistic:
    whole = strict(table)

    def tested(weights: FloatArray | None) -> dict[str, float | None]:
        found = whole.headline(weights)
        return {name: found[name] for name in TESTED}

    return tested


def rows_of(table: Table, rows: Sequence[int]) -> Table:
    """Return some rows of a table."""
    return Table(
        ids=tuple(table.ids[i] for i in rows),
        columns=table.columns,
        truth=table.truth[rows],
        known=table.known[rows],
        flags=table.flags[rows],
        scores=table.scores[rows],
        any_score=table.any_score[rows],
        withheld=table.withheld[rows],
        valid=table.valid[rows],
        groups=tuple(table.groups[i] for i in rows),
        not_judged=table.not_judged,
        hard=table.hard,
    )


def _warnings(runs: Sequence[Run]) -> list[str]:
    made = []
    for run in runs:
        cover = run.metrics["coverage"]
        if cover["partial"]:
            made.append(f"{run.name}: partial, {cover['answered']} of {cover['expected']} samples have an answer.")
        elif cover["codes"]:
            codes = ", ".join(f"{code} {count}" for code, count in cover["codes"].items())
            made.append(f"{run.name}: no answer for {codes}; counted as {run.metrics['invalid_policy']}.")
        columns = run.metrics["columns"]
        silent = [name for name, c in columns.items() if c["not_judged"] and c["not_judged"] >= cover["answered"]]
        if silent and not run.table.hard:
            made.append(
                f"{run.name} judged nothing of {', '.join(silent)}: it scores 0 there, and what it may not clear is "
                "withheld."
            )
        if run.table.hard:
            made.append(f"{run.name} gives no scores: its ranking metrics are those of its flags.")
        if cover["asked"] and len(set(run.table.groups)) < 2:
            made.append(f"{run.name}: all samples are of one group, so there are no intervals.")
    hashes = {json.dumps(run.loaded.info["signature"]["data_hash"]) for run in runs}
    if len(hashes) > 1:
        made.append("The runs read different copies or splits of the data; paired tests use the samples in common.")
    return made


def _value(interval: Sequence[float | None] | None) -> float | None:
    return None if interval is None else interval[0]


def _interval(interval: Sequence[float | None] | None) -> str:
    if interval is None or interval[0] is None:
        return "-"
    value, low, high = interval
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def as_rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested numbers as names and texts, for a plain table; lists and longer texts are left out."""
    made: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            made += as_rows(value, f"{prefix}{name} / ")
        elif value is None:
            made.append((prefix + name, "-"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            made.append((prefix + name, f"{value}" if isinstance(value, int) else f"{value:.3f}"))
    return made
