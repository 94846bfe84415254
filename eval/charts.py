"""Plots as SVG for the comparison page; colours come from the page's style sheet, by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 24, 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of dots."""

    name: str
    colour: int
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float | None] = ()
    highs: Sequence[float | None] = ()
    """Intervals of `ys`, where there are any."""
    dots: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The frame of a plot."""

    x_label: str
    y_label: str
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    log_x: bool = False
    diagonal: bool = False
    guides: Mapping[str, float] = field(default_factory=dict)
    """Named horizontal lines."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point on the sheet."""
        x0, x1 = self.x_range
        y0, y1 = self.y_range
        across = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0)) if self.log_x else (x - x0) / (x1 - x0)
        up = (y - y0) / (y1 - y0)
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - min(1.0, max(0.0, up)) * (HEIGHT - _TOP - _BOTTOM), 1),
        )


def plot(title: str, axes: Axes, series: Sequence[Series]) -> str:
    """Return a plot of lines and dots."""
    parts = [_open(title), _grid(axes)]
    if axes.diagonal:
        parts.append(_polyline([axes.at(axes.x_range[0], 0), axes.at(axes.x_range[1], 1)], "guide"))
    for name, y in axes.guides.items():
        left, right = axes.at(axes.x_range[0], y), axes.at(axes.x_range[1], y)
        parts.append(_polyline([left, right], "guide"))
        parts.append(f'<text class="tick" x="{right[0]}" y="{right[1] - 4}" text-anchor="end">{escape(name)}</text>')
    for one in series:
        points = [axes.at(x, y) for x, y in zip(one.xs, one.ys, strict=True)]
        if not one.dots:
            parts.append(_polyline(points, f"line c{one.colour}"))
        else:
            parts += [_whisker(axes, one, i) for i in range(len(points))]
            parts += [f'<circle class="dot c{one.colour}" cx="{x}" cy="{y}" r="5"/>' for x, y in points]
            parts += [_label(one.name, x, y) for x, y in points[:1]]
    return "".join([*parts, "</svg>"])


def bars(title: str, groups: Sequence[str], series: Sequence[Series], y_label: str) -> str:
    """Return horizontal bars with intervals: one group for each category, one bar for each system.

    `series[i].ys[g]` is the value of group g; NaN where it is not defined.
    """
    row, gap, left = 14, 12, 170
    height = len(groups) * (len(series) * row + gap) + 46
    scale = WIDTH + 180 - left - 60
    parts = [f'<svg class="wide" viewBox="0 0 {WIDTH + 180} {height}" role="img" aria-label="{escape(title)}">']
    for step in range(6):
        x = left + scale * step / 5
        parts.append(f'<line class="grid" x1="{x}" y1="4" x2="{x}" y2="{height - 36}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 22}" text-anchor="middle">{step / 5:.1f}</text>')
    parts.append(
        f'<text class="tick" x="{left + scale / 2}" y="{height - 5}" text-anchor="middle">{escape(y_label)}</text>'
    )
    for g, name in enumerate(groups):
        top = 6 + g * (len(series) * row + gap)
        middle = top + len(series) * row / 2 + 4
        parts.append(f'<text class="name" x="{left - 8}" y="{middle}" text-anchor="end">{escape(name[:26])}</text>')
        for s, one in enumerate(series):
            parts.append(_bar(one, g, left, top + s * row, scale, row))
    return "".join([*parts, "</svg>"])


def _bar(one: Series, group: int, left: float, top: float, scale: float, row: float) -> str:
    value = one.ys[group]
    if math.isnan(value):
        return f'<text class="tick" x="{left + 4}" y="{top + row - 4}">not defined</text>'
    size = f'width="{value * scale:.1f}" height="{row - 3}"'
    made = f'<rect class="fill c{one.colour}" x="{left}" y="{top + 1}" {size}/>'
    low, high = one.lows[group], one.highs[group]
    if low is not None and high is not None:
        y = top + row / 2 - 0.5
        made += (
            f'<line class="whisker" x1="{left + low * scale:.1f}" y1="{y}" x2="{left + high * scale:.1f}" y2="{y}"/>'
        )
    return made + f'<text class="tick" x="{left + scale + 8}" y="{top + row - 4}">{value:.2f}</text>'


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which (cost, quality) points no other beats on both, by rising cost."""
    best, kept = -math.inf, []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept


def log_range(values: Sequence[float]) -> tuple[float, float]:
    """Return a range on a logarithmic axis with room on both sides; all values are positive."""
    low, high = min(values), max(values)
    return low / 2, max(high * 2, low * 4)


def _open(title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'


def _grid(axes: Axes) -> str:
    parts = []
    for step in range(6):
        y = axes.y_range[0] + (axes.y_range[1] - axes.y_range[0]) * step / 5
        left, right = axes.at(axes.x_range[0], y), axes.at(axes.x_range[1], y)
        parts.append(f'<line class="grid" x1="{left[0]}" y1="{left[1]}" x2="{right[0]}" y2="{right[1]}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{left[1] + 4}" text-anchor="end">{y:.2g}</text>')
    for x in _x_ticks(axes):
        place = axes.at(x, axes.y_range[0])
        parts.append(f'<text class="tick" x="{place[0]}" y="{place[1] + 16}" text-anchor="middle">{_short(x)}</text>')
    middle = _LEFT + (WIDTH - _LEFT - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axes.x_label)}</text>')
    turned = f'transform="rotate(-90 12 {HEIGHT / 2})"'
    parts.append(
        f'<text class="tick" x="12" y="{HEIGHT / 2}" text-anchor="middle" {turned}>{escape(axes.y_label)}</text>'
    )
    return "".join(parts)


def _x_ticks(axes: Axes) -> list[float]:
    low, high = axes.x_range
    if not axes.log_x:
        return [low + (high - low) * step / 5 for step in range(6)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(m * 10.0**p) for p in powers for m in (1, 3) if low <= m * 10.0**p <= high]
    return ticks or [low * 1.2, high / 1.2]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'


def _label(name: str, x: float, y: float) -> str:
    anchor, shift = ("end", -9) if x > WIDTH * 0.7 else ("start", 9)
    return f'<text class="name" x="{x + shift}" y="{y - 6}" text-anchor="{anchor}">{escape(name)}</text>'


def _whisker(axes: Axes, one: Series, index: int) -> str:
    if not one.lows or one.lows[index] is None or one.highs[index] is None:
        return ""
    low, high = axes.at(one.xs[index], one.lows[index] or 0.0), axes.at(one.xs[index], one.highs[index] or 0.0)
    return f'<line class="whisker" x1="{low[0]}" y1="{low[1]}" x2="{high[0]}" y2="{high[1]}"/>'
