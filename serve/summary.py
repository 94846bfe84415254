"""The numbers of a scan: counts by decision, category and error, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve.failures import Exit, failure_of_code
from serve.terminal import safe

if TYPE_CHECKING:
    from rich.console import Console

DECISIONS = ("block", "review", "undecided", "allow")
_COLOURS = {"block": "red", "review": "yellow", "undecided": "magenta", "allow": "green"}
_NAMED = 5
_FAIL_ON: Mapping[str, tuple[str, ...]] = {"block": ("block",), "review": ("block", "review")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the part of the scan done by this process cost."""

    scored: int
    """Videos judged by this process; not those taken over from an earlier run, nor duplicates."""
    video_seconds: float
    wall_seconds: float
    cpu_seconds: float
    """Of the whole process tree."""
    peak_bytes: int
    """Memory of the whole process tree, shared pages counted once."""

    def to_json(self) -> dict[str, float | int | None]:
        """Return the cost with the rates that follow from it."""
        return {
            "videos_scored": self.scored,
            "video_seconds": round(self.video_seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "videos_per_second": round(self.scored / self.wall_seconds, 3) if self.wall_seconds else None,
            "video_seconds_per_cpu_second": (
                round(self.video_seconds / self.cpu_seconds, 3) if self.cpu_seconds else None
            ),
            "peak_memory_mib": round(self.peak_bytes / 2**20, 1),
        }


@dataclass(slots=True)
class Tally:
    """Counts over the records of a scan."""

    total: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    """Inputs by flagged category."""
    errors: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    degraded: int = 0
    video_seconds: float = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        self.total += 1
        self.decisions[record["decision"]] += 1
        self.flagged.update(name for name, score in record["categories"].items() if score["flagged"])
        if record["error"]:
            self.errors[record["error"]["code"]] += 1
        if record["route"]:
            self.routes[record["route"]["path"]] += 1
        self.duplicates += record["duplicate_of"] is not None
        self.degraded += bool(record["degraded"])
        self.video_seconds += 0.0 if record["duplicate_of"] is not None else duration_of(record)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, every decision named even where it is 0."""
        return {
            "inputs": self.total,
            "decisions": {name: self.decisions[name] for name in DECISIONS},
            "flagged": dict(self.flagged.most_common()),
            "errors": dict(self.errors.most_common()),
            "routes": dict(self.routes.most_common()),
            "duplicates": self.duplicates,
            "degraded": self.degraded,
            "video_seconds": round(self.video_seconds, 3),
        }


def tally(records: Iterable[Mapping[str, Any]]) -> Tally:
    """Return the counts over `records`."""
    result = Tally()
    for record in records:
        result.add(record)
    return result


def duration_of(record: Mapping[str, Any]) -> float:
    """Return the seconds of video that were decoded for a record; 0 where none was."""
    return float((record["coverage"] or {}).get("decoded_seconds") or 0.0)


def exit_code(counts: Tally, fail_on: str | None) -> Exit:
    """Return the exit code of a finished scan.

    The first that holds: 4 where a backend was down (its answers are missing, so the rest may change), 1 where
    --fail-on matched, 3 where some input stayed undecided, 0.
    """
    if any(failure_of_code(code).exit_code is Exit.BACKEND_DOWN for code in counts.errors):
        return Exit.BACKEND_DOWN
    if fail_on is not None and any(counts.decisions[name] for name in _FAIL_ON[fail_on]):
        return Exit.FAIL_ON_MATCHED
    return Exit.SOME_UNDECIDED if counts.decisions["undecided"] else Exit.OK


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the summary as tables."""
    from rich.table import Table

    table = Table(title=f"{summary['inputs']} inputs", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("decision")
    table.add_column("inputs", justify="right")
    table.add_column("share", justify="right")
    for name in DECISIONS:
        count = summary["decisions"][name]
        share = f"{count / summary['inputs']:.1%}" if summary["inputs"] else ""
        table.add_row(f"[{_COLOURS[name]}]{name}[/]", str(count), share)
    console.print(table)
    for title, key in (("flagged category", "flagged"), ("error", "errors"), ("left out", "left_out")):
        if summary[key]:
            counts = Table(show_edge=False, pad_edge=False)
            counts.add_column(title)
            counts.add_column("inputs", justify="right")
            for name, count in summary[key].items():
                counts.add_row(name, str(count))
            console.print()
            console.print(counts)
    if summary.get("sidecars"):
        console.print()
        console.print(_sidecar_line(summary), highlight=False, markup=False)
    console.print()
    console.print(_cost_line(summary), highlight=False)


def _sidecar_line(summary: Mapping[str, Any]) -> str:
    names, total = summary["sidecars"], summary["left_out"]["sidecar"]
    shown = ", ".join(safe(name) for name in names[:_NAMED])
    more = f" and {total - _NAMED} more" if total > _NAMED else ""
    return f"Text beside media, left out: {shown}{more}. Give such a file itself to judge it."


def _cost_line(summary: Mapping[str, Any]) -> str:
    cost = summary["cost"]
    parts = [f"{cost['videos_scored']} videos ({cost['video_seconds']:.0f} s) scored in {cost['wall_seconds']:.1f} s"]
    if cost["videos_per_second"]:
        parts.append(f"{cost['videos_per_second']:.2f} videos/s")
    if cost["video_seconds_per_cpu_second"]:
        parts.append(f"{cost['video_seconds_per_cpu_second']:.1f} s of video per CPU-second")
    parts.append(f"peak memory {cost['peak_memory_mib']:.0f} MiB")
    if summary["duplicates"]:
        parts.append(f"{summary['duplicates']} duplicates scored once")
    return "; ".join(parts)
