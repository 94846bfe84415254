"""One self-contained page about a scan: no network, nothing to install, usable with ten thousand inputs.

The rows travel as JSON in a data block and are drawn page by page. A strict content security policy admits only the
page's own script and style, by hash, so that no text from a file name or a model can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guard import taxonomy
from guard.types import Policy
from serve.run_dir import write_lines
from serve.summary import DECISIONS

if TYPE_CHECKING:
    from markupsafe import Markup

LABELS = {"block": "Blocked", "review": "To review", "undecided": "Undecided", "allow": "Allowed"}
_MOMENTS = 160
"""Moments kept of a timeline: one per 5 pixels of a wide plot, each the highest of its stretch, so no peak is lost."""
_SERIES = 6
_SEGMENTS = 40
_ALLOW_TIMELINES_UP_TO = 2_000
"""In larger scans, allowed inputs carry no timeline: ten thousand of them would weigh 20 MB."""


@dataclass(slots=True)
class Budget:
    """How many bytes of the page may still go to what it could do without, and what was left out."""

    timeline_bytes: int = 12 << 20
    timeline_reserve: int = 4 << 20
    picture_bytes: int = 12 << 20
    timelines_left_out: int = 0
    pictures_left_out: int = 0
    segments_left_out: int = 0
    allowed_without_timeline: int = 0

    def notes(self) -> list[str]:
        """Return what the page leaves out, in words."""
        lines = [
            (self.allowed_without_timeline, "allowed inputs are shown without their score over time"),
            (self.timelines_left_out, "further inputs are shown without their score over time"),
            (self.pictures_left_out, "pictures are in the folder `evidence` only"),
            (self.segments_left_out, "segments beyond the first 40 of a video are not listed"),
        ]
        kept = [f"{count:,} {text}, to keep this page small." for count, text in lines if count]
        return [*kept, "Everything is in results.jsonl."] if kept else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the template fills in."""

    rows: list[dict[str, Any]]
    names: Mapping[str, str]
    notes: list[str] = field(default_factory=list)


def write_report(
    path: Path,
    records: Callable[[], Iterable[Mapping[str, Any]]],
    summary: Mapping[str, Any],
    run: Mapping[str, Any],
    policy: Policy,
) -> None:
    """Write the page.

    Args:
        path: where to; pictures are taken from beside it.
        records: gives the lines of the scan, in input order.
        summary: content of `summary.json`.
        run: content of `run.json`.
        policy: the policy that decided.
    """
    page = _page(records(), summary["inputs"], path.parent, policy)
    write_lines(path, [render(page, summary, run, policy)])


def render(page: Page, summary: Mapping[str, Any], run: Mapping[str, Any], policy: Policy) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("serve"), autoescape=True, undefined=StrictUndefined)
    style, script = _asset("report.css"), _asset("report.js")
    return environment.get_template("report.html.j2").render(
        data=Markup(embed({"rows": page.rows, "names": page.names})),  # noqa: S704 - `embed` escapes it
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        summary=summary,
        run=run,
        policy=policy,
        names=page.names,
        notes=page.notes,
        decisions=DECISIONS,
        labels=LABELS,
        bar=_bar(summary["decisions"]),
        prose=prose,
        rules=[{"category": r.category, "state": r.state, "name": page.names[r.category]} for r in policy.active()],
    )


def prose(text: str) -> Markup:
    """Return text as HTML in which what stands between backticks is code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return escape(text)
    done = [Markup("<code>{}</code>").format(part) if k % 2 else escape(part) for k, part in enumerate(parts)]
    return Markup("").join(done)


def embed(value: object) -> str:
    r"""Return `value` as JSON that may stand inside a script element: `</script>` becomes `\u003c/script\u003e`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def compact(record: Mapping[str, Any], budget: Budget, pictures: Path, *, timeline: bool = True) -> dict[str, Any]:
    """Return what the page shows of one line, under the short keys that `report.js` reads."""
    route, error = record["route"] or {}, record["error"]
    segments = record["segments"]
    budget.segments_left_out += max(0, len(segments) - _SEGMENTS)
    row: dict[str, Any] = {
        "i": record["index"],
        "s": record["source"],
        "d": record["decision"],
        "r": record["rationale"],
        "h": record["sha256"],
        "e": [error["code"], error["message"], error["hint"]] if error else None,
        "dup": record["duplicate_of"],
        "l": _length(record),
        "c": [[name, c["score"], c["flagged"], c["threshold"], c["stage"]] for name, c in record["categories"].items()],
        "g": [_segment(segment) for segment in segments[:_SEGMENTS]],
        "b": {name: [t["clear_below"], t["block_at"]] for name, t in (route.get("thresholds") or {}).items()},
        "o": _route(record),
        "m": _media(record["media"]),
        "v": _coverage(record),
        "j": _judgement(record["judgement"]),
        "p": _pictures(record, pictures, budget),
        "t": None,
        "u": [],
    }
    if timeline and record["timeline"] and record["timeline"]["moment_seconds"]:
        _add_timeline(row, record, budget)
    return row


def thin(times: list[float], series: list[float], moments: int = _MOMENTS) -> tuple[list[float], list[int]]:
    """Return at most `moments` times and scores in thousandths, each the highest of its stretch, at its own time."""
    total = len(times)
    if total <= moments:
        return [round(t, 2) for t in times], [round(v * 1000) for v in series]
    edges = [total * k // moments for k in range(moments + 1)]
    peaks = [max(range(a, b), key=series.__getitem__) for a, b in pairwise(edges)]
    return [round(times[n], 2) for n in peaks], [round(series[n] * 1000) for n in peaks]


def _page(records: Iterable[Mapping[str, Any]], total: int, folder: Path, policy: Policy) -> Page:
    budget, rows = Budget(), []
    for record in records:
        wanted = record["decision"] != "allow" or total <= _ALLOW_TIMELINES_UP_TO
        budget.allowed_without_timeline += not wanted and record["timeline"] is not None
        rows.append(compact(record, budget, folder, timeline=wanted))
    ids = {c[0] for row in rows for c in row["c"]} | {u[0] for row in rows for u in row["u"]}
    ids |= {g[2] for row in rows for g in row["g"]} | {rule.category for rule in policy.active()}
    known = taxonomy.categories()
    named = {name: rule.name for name, rule in policy.rules.items() if rule.name}
    names = {name: named.get(name) or (known[name].name if name in known else name) for name in sorted(ids)}
    return Page(rows=rows, names=names, notes=budget.notes())


def _add_timeline(row: dict[str, Any], record: Mapping[str, Any], budget: Budget) -> None:
    timeline = record["timeline"]
    times = timeline["moment_seconds"]
    by_peak = sorted(timeline["scores"].items(), key=lambda item: -max(item[1]))[:_SERIES]
    if not by_peak:
        return
    # One time axis serves all series: stretches are cut alike, and the times are those of the highest series.
    axis, _ = thin(times, by_peak[0][1])
    series = [[name, thin(times, values)[1]] for name, values in by_peak]
    cost = 8 * len(axis) + sum(5 * len(values) for _, values in series)
    # A third is kept for inputs that are not allowed, wherever they stand in the list.
    floor = budget.timeline_reserve if record["decision"] == "allow" else 0
    if cost > budget.timeline_bytes - floor:
        budget.timelines_left_out += 1
        return
    budget.timeline_bytes -= cost
    row["t"], row["u"] = axis, series
    thresholds = (record["route"] or {}).get("thresholds") or {}
    for name, _ in series:
        ruling = next((rule for rule in thresholds if taxonomy.covers(rule, name)), None)
        if ruling is not None:
            row["b"].setdefault(name, [thresholds[ruling]["clear_below"], thresholds[ruling]["block_at"]])


def _pictures(record: Mapping[str, Any], folder: Path, budget: Budget) -> list[list[Any]]:
    kept = []
    for picture in record["evidence"]:
        try:
            content = (folder / picture["path"]).read_bytes()
        except OSError:
            continue
        if len(content) * 4 // 3 > budget.picture_bytes or record["duplicate_of"] is not None:
            budget.pictures_left_out += record["duplicate_of"] is None
            continue
        budget.picture_bytes -= len(content) * 4 // 3
        uri = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
        kept.append([picture["seconds"], picture["category"], uri])
    return kept


def _segment(segment: Mapping[str, Any]) -> list[Any]:
    keys = ("start_seconds", "end_seconds", "category", "peak_seconds", "peak_score")
    return [round(v, 3) if isinstance(v := segment[key], float) else v for key in keys]


def _length(record: Mapping[str, Any]) -> float | None:
    media, coverage = record["media"] or {}, record["coverage"] or {}
    seconds = media.get("decoded_duration_seconds") or coverage.get("decoded_seconds")
    seconds = seconds or media.get("declared_duration_seconds")
    return None if seconds is None else round(float(seconds), 2)


def _media(media: Mapping[str, Any] | None) -> str | None:
    if media is None:
        return None
    fps = f", {media['fps']:.3g} frames/s" if media["fps"] else ""
    return f"{media['codec']} in {media['container'].split(',')[0]}, {media['width']}×{media['height']}{fps}"


_WAYS: Mapping[str, str] = {
    "not_needed": "fast path",
    "answered": "slow path",
    "failed": "slow path, which failed",
    "not_configured": "left open by the screen, and no slow path is configured",
}


def _route(record: Mapping[str, Any]) -> str | None:
    """Return which way the video went and why; where it should have gone on and could not, that."""
    route = record["route"]
    if not route:
        return None
    return f"{_WAYS[record.get('slow_path', 'not_needed')]}: {route['reason'].replace('_', ' ')}"


def _coverage(record: Mapping[str, Any]) -> list[str]:
    """Return a line for each decode, with the detectors that it fed."""
    passes = record.get("passes") or [{"detectors": [], "coverage": record["coverage"]}]
    return [_seen(one["coverage"], one["detectors"]) for one in passes if one["coverage"]]


def _seen(coverage: Mapping[str, Any], detectors: list[str]) -> str:
    whose = f"{', '.join(detectors)}: " if detectors else ""
    whole = "" if coverage["complete"] else "; incomplete"
    scored, decoded = coverage["frames_scored"], coverage["frames_decoded"]
    if coverage["full_decode"] and coverage["complete"] and scored == decoded:
        return f"{whose}every frame scored ({scored:,})"
    gap = f"largest gap {coverage['largest_gap_seconds']:.2f} s"
    return f"{whose}{scored:,} of {decoded:,} decoded frames scored, {gap}{whole}"


def _judgement(judgement: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    checks = [[c["rule"], c["violated"], c["evidence_seconds"], c["why"]] for c in judgement["checks"]]
    seen = [[o["start_seconds"], o["end_seconds"], o["text"]] for o in judgement["observations"]]
    return {
        "engine": judgement["engine"],
        "status": judgement["status"],
        "reason": judgement["reason"],
        "checks": checks,
        "seen": seen,
    }


def _bar(decisions: Mapping[str, int]) -> list[dict[str, Any]]:
    parts, start = [], 0
    for name in DECISIONS:
        parts.append({"name": name, "start": start, "count": decisions[name]})
        start += decisions[name]
    return parts


def _asset(name: str) -> str:
    return (files("serve") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
