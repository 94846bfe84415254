"""The comparison as one self-contained page: no network, no script, pictures and plots inside it."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval import charts
from eval.charts import Axes, Series
from eval.compare import SHOWN, Comparison, Run, as_rows, errors_of
from eval.thumbnails import thumbnail

COLOURS = 6
_ERRORS = 8
_QUALITY = ("macro/f1", "binary/f1")
_BAR_CATEGORIES = 14


def render(comparisons: Sequence[Comparison], *, pictures: bool = True) -> str:
    """Return the page as HTML. The content security policy admits the page's own style and pictures, and no script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("eval"), autoescape=True, undefined=StrictUndefined)
    style = files("eval").joinpath("templates", "compare.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return environment.get_template("compare.html.j2").render(
        sections=[_section(c, pictures) for c in comparisons],
        style=Markup(style),  # noqa: S704 - our own file
        style_hash=f"sha256-{digest}",
        colours=COLOURS,
    )


def _section(comparison: Comparison, pictures: bool) -> dict[str, Any]:
    from markupsafe import Markup

    plots = [
        ("Quality against cost", _plane(comparison.runs)),
        ("Risk against coverage", _risk(comparison.runs)),
        ("Reliability", _reliability(comparison.runs)),
    ]
    first = comparison.runs[0]
    return {
        "benchmark": comparison.benchmark,
        "title": comparison.title,
        "warnings": comparison.warnings,
        "notes": first.metrics["notes"],
        "columns": [(k, v) for k, v in SHOWN.items() if _any_value(comparison, k)],
        "rows": [_row(run, i) for i, run in enumerate(comparison.runs)],
        "baselines": first.metrics["baselines"],
        "counts": first.metrics["columns"],
        "plots": [(name, Markup(svg)) for name, svg in plots if svg],  # noqa: S704 - made here, names escaped
        "bars": Markup(_bars(comparison.runs)),  # noqa: S704 - likewise
        "confusions": [_confusion(run) for run in comparison.runs],
        "tests": comparison.tests,
        "shown": SHOWN,
        "protocols": [
            (r.name, [(n, as_rows(v or {})) for n, v in r.metrics["protocols"].items()]) for r in comparison.runs
        ],
        "routing": [(r.name, r.metrics["routing"]) for r in comparison.runs if r.metrics["routing"]],
        "stems": _stems(comparison.runs),
        "errors": [(run.name, i % COLOURS, _errors(run, pictures)) for i, run in enumerate(comparison.runs)],
        "runs": [(run.name, run.loaded.info) for run in comparison.runs],
    }


def _row(run: Run, index: int) -> dict[str, Any]:
    cover, spent = run.metrics["coverage"], run.metrics["cost"]
    return {
        "name": run.name,
        "colour": index % COLOURS,
        "values": run.metrics["strict"],
        "answered": cover["answered"],
        "expected": cover["expected"],
        "partial": cover["partial"],
        "cpu": spent["cpu_seconds_per_1000"],
        "p50": spent["latency_ms"]["p50"],
        "p95": spent["latency_ms"]["p95"],
        "tokens": spent["prompt_tokens_per_1000"],
        "money": spent["money_per_1000"],
    }


def _any_value(comparison: Comparison, name: str) -> bool:
    return any((run.metrics["strict"].get(name) or [None])[0] is not None for run in comparison.runs)


def _plane(runs: Sequence[Run]) -> str:
    """Return quality against CPU seconds, with the frontier that no run beats on both."""
    key = next((k for k in _QUALITY if all((r.metrics["strict"].get(k) or [None])[0] is not None for r in runs)), None)
    costs = [max(run.metrics["cost"]["cpu_seconds_per_1000"] or 0.0, 0.01) for run in runs]
    if key is None:
        return ""
    values = [run.metrics["strict"][key] for run in runs]
    axes = Axes(
        x_label="CPU seconds per 1,000 samples (logarithmic)",
        y_label=SHOWN[key],
        x_range=charts.log_range(costs),
        log_x=True,
    )
    dots = [
        Series(name=run.name, colour=i % COLOURS, xs=[cost], ys=[v[0]], lows=[v[1]], highs=[v[2]], dots=True)
        for i, (run, cost, v) in enumerate(zip(runs, costs, values, strict=True))
    ]
    points = [(cost, v[0]) for cost, v in zip(costs, values, strict=True)]
    edge = charts.frontier(points)
    line = Series(name="frontier", colour=9, xs=[points[i][0] for i in edge], ys=[points[i][1] for i in edge])
    return charts.plot(f"{SHOWN[key]} against CPU seconds", axes, [line, *dots])


def _risk(runs: Sequence[Run]) -> str:
    series, highest = [], 0.05
    for index, run in enumerate(runs):
        found = run.metrics["selective"]
        if found:
            series.append(Series(name=run.name, colour=index % COLOURS, xs=found["coverage"], ys=found["risk"]))
            highest = max(highest, *found["risk"])
    axes = Axes(
        x_label="share of samples answered, most confident first",
        y_label="share of them wrong",
        y_range=(0.0, math.ceil(highest * 10) / 10),
    )
    return charts.plot("Risk against coverage", axes, series) if series else ""


def _reliability(runs: Sequence[Run]) -> str:
    series = []
    for index, run in enumerate(runs):
        bins = (run.metrics["calibration"] or {}).get("any", {}).get("bins", [])
        if bins:
            xs, ys = [b[0] for b in bins], [b[1] for b in bins]
            series.append(Series(name=run.name, colour=index % COLOURS, xs=xs, ys=ys))
    axes = Axes(x_label="mean score of a bin", y_label="share that violates", diagonal=True)
    return charts.plot("Reliability of the score that a sample is unsafe", axes, series) if series else ""


def _bars(runs: Sequence[Run]) -> str:
    columns = list(runs[0].metrics["columns"])[:_BAR_CATEGORIES]
    series = []
    for index, run in enumerate(runs):
        values = [run.metrics["strict"].get(f"{column}/f1") or [None, None, None] for column in columns]
        series.append(
            Series(
                name=run.name,
                colour=index % COLOURS,
                xs=[],
                ys=[math.nan if v[0] is None else v[0] for v in values],
                lows=[v[1] for v in values],
                highs=[v[2] for v in values],
            )
        )
    return charts.bars("F1 by category", columns, series, "F1, one category against the rest")


def _confusion(run: Run) -> dict[str, Any]:
    """Return the table of counts: by class where the benchmark has one, else unsafe against flagged."""
    found = run.metrics["protocols"].get("single_label")
    if found:
        return {"name": run.name, "classes": found["classes"], "said": found["classes"], "counts": found["counts"]}
    unsafe, flagged = run.table.unsafe, run.table.flagged
    counts = [[int((unsafe & flagged).sum()), int((unsafe & ~flagged).sum())]]
    counts.append([int((~unsafe & flagged).sum()), int((~unsafe & ~flagged).sum())])
    return {
        "name": run.name,
        "classes": ["violating", "harmless"],
        "said": ["flagged", "not flagged"],
        "counts": counts,
    }


def _stems(runs: Sequence[Run]) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Return subcategory, its counts, and what each run flagged and withheld of it."""
    first = runs[0].metrics["stems"]
    if not 1 < len(first) <= 60:
        return []
    return [(stem, row, [run.metrics["stems"].get(stem, {}) for run in runs]) for stem, row in first.items()]


def _errors(run: Run, pictures: bool) -> list[dict[str, Any]]:
    found = errors_of(run, _ERRORS)
    for one in found:
        one["picture"] = thumbnail(Path(one["path"])) if pictures and one["path"] else None
    return found
