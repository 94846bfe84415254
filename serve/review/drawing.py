"""Geometry of the small charts on the pages: score over time, shares, histograms. Pure; templates draw the numbers.

Everything is in the units of an SVG view box, so that the page's policy against inline style holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guard import taxonomy

WIDTH = 1000.0
HEIGHT = 60.0
_STRIPS = 8
_MARKS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Score over time of one category."""

    category: str
    name: str
    peak: float
    peak_seconds: float
    area: str
    """Points of the filled shape."""
    line: str
    """Points of its upper edge."""
    bounds: tuple[tuple[str, float, float], ...]
    """Kind (`clear-below`, `block-at`), its y and its value."""
    segments: tuple[tuple[float, float, float, float], ...]
    """x, width, start and end in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment worth jumping to."""

    seconds: float
    kind: str
    """`peak`, `segment`, `cited` or `seen`."""
    label: str
    x: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All strips of a clip, on one axis."""

    duration_seconds: float
    strips: tuple[Strip, ...] = ()
    marks: tuple[Mark, ...] = ()
    ticks: tuple[tuple[float, float], ...] = field(default=())
    """x and seconds."""


def timeline(verdict: Mapping[str, Any], names: Mapping[str, str]) -> Timeline:
    """Return what the page draws of a verdict's scores over time, and the moments it offers to jump to."""
    duration = duration_of(verdict)
    if duration <= 0:
        return Timeline(duration_seconds=0.0)
    scored = (verdict["timeline"] or {}).get("scores", {})
    order = sorted(scored, key=lambda c: -max(scored[c], default=0.0))[:_STRIPS]
    times = (verdict["timeline"] or {}).get("moment_seconds", [])
    return Timeline(
        duration_seconds=duration,
        strips=tuple(_strip(c, times, scored[c], duration, verdict, names) for c in order if scored[c]),
        marks=marks(verdict, names, duration),
        ticks=tuple((WIDTH * t / duration, t) for t in _ticks(duration)),
    )


def marks(verdict: Mapping[str, Any], names: Mapping[str, str], duration: float) -> tuple[Mark, ...]:
    """Return the peaks and starts of segments and the times that the slow path cites, in order, near ones once."""
    found: list[tuple[float, str, str]] = []
    for segment in verdict["segments"]:
        name = names.get(segment["category"], segment["category"])
        found.append((segment["peak_seconds"], "peak", f"{name} peaks at {segment['peak_score']:.2f}"))
        found.append((segment["start_seconds"], "segment", f"{name} begins"))
    for check in (verdict["judgement"] or {}).get("checks", []):
        name = names.get(check["rule"], check["rule"])
        found += [(s, "cited", f"cited for {name} ({check['violated']})") for s in check["evidence_seconds"]]
    for seen in (verdict["judgement"] or {}).get("observations", []):
        found.append((seen["start_seconds"], "seen", f"model: {seen['text'][:80]}"))
    kept: dict[tuple[float, str], tuple[float, list[str]]] = {}
    for seconds, kind, label in sorted(found):
        at = min(max(0.0, float(seconds)), duration)
        labels = kept.setdefault((round(at, 1), kind), (at, []))[1]
        if label not in labels:
            labels.append(label)
    made = [
        Mark(seconds=at, kind=kind, label="; ".join(labels), x=WIDTH * at / duration)
        for (_, kind), (at, labels) in kept.items()
    ]
    return tuple(sorted(made, key=lambda mark: mark.seconds)[:_MARKS])


def duration_of(verdict: Mapping[str, Any]) -> float:
    """Return the length of the clip as decoded, else as declared; at least the last time that the verdict names."""
    media, coverage = verdict["media"] or {}, verdict["coverage"] or {}
    known = media.get("decoded_duration_seconds") or coverage.get("decoded_seconds")
    known = known or media.get("declared_duration_seconds") or 0.0
    times = (verdict["timeline"] or {}).get("moment_seconds") or [0.0]
    ends = [s["end_seconds"] for s in verdict["segments"]] or [0.0]
    return float(max(known, times[-1], *ends))


def clock(seconds: float | None) -> str:
    """Return a time as people write it: 7.4 s, 1:05, 1:02:03."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def stacked(
    rows: Sequence[Mapping[str, int]], kinds: Sequence[str]
) -> list[list[tuple[str, float, float, float, float]]]:
    """Return for each row of counts its bars, stacked from below.

    Three bars in a box of 1000 by 60: the highest row reaches to the top.
    """
    top = max((sum(row.get(kind, 0) for kind in kinds) for row in rows), default=0) or 1
    step = WIDTH / max(1, len(rows))
    bars = []
    for index, row in enumerate(rows):
        at, shown = HEIGHT, []
        for kind in kinds:
            height = HEIGHT * row.get(kind, 0) / top
            at -= height
            shown.append((kind, index * step + step * 0.1, at, step * 0.8, height))
        bars.append(shown)
    return bars


def _strip(
    category: str, times: Sequence[float], scores: Sequence[float], duration: float, verdict: Mapping[str, Any],
    names: Mapping[str, str],
) -> Strip:  # fmt: skip
    points = [(WIDTH * t / duration, HEIGHT * (1 - s)) for t, s in zip(times, scores, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(0.0, points[0][1]), *points, (WIDTH, points[-1][1])])
    best = max(range(len(scores)), key=scores.__getitem__)
    own = [s for s in verdict["segments"] if s["category"] == category]
    return Strip(
        category=category,
        name=names.get(category, category),
        peak=scores[best],
        peak_seconds=times[best],
        area=f"0,{HEIGHT:g} {line} {WIDTH:g},{HEIGHT:g}",
        line=line,
        bounds=_bounds(category, verdict),
        segments=tuple(
            (
                WIDTH * s["start_seconds"] / duration,
                max(4.0, WIDTH * (s["end_seconds"] - s["start_seconds"]) / duration),
                s["start_seconds"],
                s["end_seconds"],
            )
            for s in own
        ),
    )


def _bounds(category: str, verdict: Mapping[str, Any]) -> tuple[tuple[str, float, float], ...]:
    """Return the thresholds of the rule that rules on `category`: its own, or that of the nearest one above."""
    thresholds = (verdict["route"] or {}).get("thresholds") or {}
    ruling = [rule for rule in thresholds if taxonomy.covers(rule, category)]
    if not ruling:
        return ()
    pair = thresholds[max(ruling, key=len)]
    found = (("clear-below", pair["clear_below"]), ("block-at", pair["block_at"]))
    return tuple((kind, HEIGHT * (1 - value), value) for kind, value in found if 0 <= value <= 1)


def _ticks(duration: float) -> list[float]:
    steps = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    step = next((s for s in steps if duration / s <= 8), 7200)
    return [n * step for n in range(int(duration / step) + 1)]
