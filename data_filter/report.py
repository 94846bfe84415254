"""The report page of a run: what was kept and dropped, the extremes with pictures, histograms, doubts and
duplicates. No scripts."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from data_filter import guards
from data_filter.audit import Finding
from data_filter.clips import Failure, Pictures
from data_filter.dedup import NearPair
from data_filter.guards import SignCheck
from data_filter.shards import atomic_write
from data_filter.types import FeatureView, ScoreMatrix, Selection
from guard.types import Float32Array

SHOWN = 12
SOURCES = 40  # rows of the table of sources
BINS = 30


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """Everything that the page shows."""

    pool: FeatureView
    sources: tuple[str, ...]
    """Where each row is from."""
    scores: ScoreMatrix
    selection: Selection
    dropped: dict[str, str]
    findings: tuple[Finding, ...]
    pairs: tuple[NearPair, ...]
    pictures: Pictures
    failures: tuple[Failure, ...]
    sign: SignCheck | None
    emptied: dict[str, int]
    """Label sets of which nothing was kept, with the rows that they had."""
    decoded: bool
    """Whether clips were looked at: without, look-alikes could not be found."""
    settings: dict[str, Any]


def write_report(path: Path, report: Report) -> None:
    """Write the page; ids and labels are escaped, pictures are inside."""
    pages = Environment(loader=PackageLoader("data_filter", "."), autoescape=select_autoescape(default=True))
    means = report.scores.mean()
    order = np.argsort(-means, kind="stable")
    strata = report.pool.strata()
    kept = report.selection.indices
    doubted = [f for f in report.findings if f.doubted]
    content = pages.get_template("report.html.j2").render(
        report=report,
        total=len(report.pool),
        kept=len(kept),
        diversity=round(guards.effective_diversity(report.pool.need_embeddings("report")[kept]), 2),
        table=_counts(report, strata),
        sources=sorted(_counts(report, report.sources), key=lambda row: (-row["pool"], row["name"])),
        most_sources=SOURCES,
        helpful=_cards(report, order[:SHOWN], means),
        harmful=_cards(report, order[::-1][:SHOWN], means),
        histograms=[(name, _bars(report.scores.values[:, j])) for j, name in enumerate(report.scores.columns)],
        doubts=[(f, _picture(report, f.id)) for f in doubted][:SHOWN],
        doubted=len(doubted),
        flagged=sum(f.flagged for f in doubted),
        pairs=[(p, *(_shown(report, strata, i) for i in (p.first, p.second))) for p in report.pairs[:SHOWN]],
    )
    atomic_write(path, content.encode())


def _shown(report: Report, strata: Sequence[str], i: int) -> tuple[str, str, str]:
    name = report.pool.ids[i]
    return name, strata[i], _picture(report, name)


def _counts(report: Report, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each name that rows go by, how many there are, were left out and kept, and from how many groups."""
    chosen = report.selection.indices
    kept = Counter(names[i] for i in chosen)
    out = Counter(s for s, name in zip(names, report.pool.ids, strict=True) if name in report.dropped)
    groups: dict[str, set[str]] = {}
    for i in chosen:
        groups.setdefault(names[i], set()).add(report.pool.groups[i] if report.pool.groups else report.pool.ids[i])
    return [
        {
            "name": name,
            "pool": count,
            "left_out": out[name],
            "kept": kept[name],
            "share": kept[name] / count,
            "groups": len(groups.get(name, set())),
        }
        for name, count in sorted(Counter(names).items())
    ]


def _cards(report: Report, rows: Sequence[int] | np.ndarray, means: Float32Array) -> list[dict[str, Any]]:
    kept = set(report.selection.indices.tolist())
    return [
        {
            "id": report.pool.ids[i],
            "label": report.pool.stratum(report.pool.targets[i]),
            "score": float(means[i]),
            "picture": _picture(report, report.pool.ids[i]),
            "fate": "kept" if int(i) in kept else report.dropped.get(report.pool.ids[i], "not selected"),
        }
        for i in rows
    ]


def _picture(report: Report, name: str) -> str:
    data = report.pictures.get(name)
    return "" if data is None else "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _bars(values: Float32Array) -> dict[str, Any]:
    """Return bar heights in percent of the highest, over the middle 99 % of the values."""
    low, high = np.quantile(values, [0.005, 0.995])
    counts, _ = np.histogram(np.clip(values, low, high), bins=BINS, range=(float(low), float(high) + 1e-12))
    heights = (100 * counts / max(counts.max(), 1)).round(1).tolist()
    return {"low": float(low), "high": float(high), "heights": heights}
