"""The numbers of a scan: counts by decision, category and error, and what it cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guard import taxonomy
from guard.errors import VlmUnusable, error_for_code
from serve.failures import Exit, failure_of_code
from serve.terminal import safe

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from guard.types import Policy

DECISIONS = ("block", "review", "undecided", "allow")
_COLOURS = {"block": "red", "review": "yellow", "undecided": "magenta", "allow": "green"}
_NAMED = 5
_RULES_NAMED = 8
_EXAMPLES = 3
_FAIL_ON: Mapping[str, tuple[str, ...]] = {"block": ("block",), "review": ("block", "review")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a scan cost. A process that was killed has left no figures."""

    scored: int
    """Videos of which frames were scored; not those taken over from an earlier run, nor duplicates, nor files that
    could not be decoded at all."""
    video_seconds: float
    wall_seconds: float
    cpu_seconds: float
    """Of the whole process tree."""
    peak_bytes: int
    """Memory of the whole process tree, shared pages counted once."""
    sessions: int = 1
    """Scans that this is the sum of: a run that was resumed has several."""

    def plus(self, later: Cost) -> Cost:
        """Return the cost of this and then `later`."""
        return Cost(
            scored=self.scored + later.scored,
            video_seconds=self.video_seconds + later.video_seconds,
            wall_seconds=self.wall_seconds + later.wall_seconds,
            cpu_seconds=self.cpu_seconds + later.cpu_seconds,
            peak_bytes=max(self.peak_bytes, later.peak_bytes),
            sessions=self.sessions + later.sessions,
        )

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Cost:
        """Return the cost that `to_json` wrote. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(
            scored=int(plain["videos_scored"]),
            video_seconds=float(plain["video_seconds"]),
            wall_seconds=float(plain["wall_seconds"]),
            cpu_seconds=float(plain["cpu_seconds"]),
            peak_bytes=int(plain["peak_memory_mib"] * 2**20),
            sessions=int(plain["sessions"]),
        )

    def to_json(self) -> dict[str, float | int | None]:
        """Return the cost with the rates that follow from it."""
        wall, cpu, video = (round(value, 3) for value in (self.wall_seconds, self.cpu_seconds, self.video_seconds))
        return {
            "videos_scored": self.scored,
            "video_seconds": video,
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "videos_per_second": round(self.scored / wall, 3) if wall else None,
            "video_seconds_per_cpu_second": round(video / cpu, 3) if cpu else None,
            "peak_memory_mib": round(self.peak_bytes / 2**20, 1),
            "sessions": self.sessions,
        }


def earlier_cost(summary: Path) -> Cost | None:
    """Return what a run cost so far, from its `summary.json`; None where it never got there."""
    try:
        return Cost.from_json(json.loads(summary.read_bytes())["cost"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(slots=True)
class Tally:
    """Counts over the records of a scan."""

    total: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    """Inputs by flagged category."""
    errors: Counter[str] = field(default_factory=Counter)
    error_examples: dict[str, list[str]] = field(default_factory=dict)
    """The first sources by error code."""
    routes: Counter[str] = field(default_factory=Counter)
    """`fast`, `slow`, or `no_slow_path` where one was needed and none is configured."""
    duplicates: int = 0
    degraded: int = 0
    video_seconds: float = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        self.total += 1
        self.decisions[record["decision"]] += 1
        self.flagged.update(name for name, score in record["categories"].items() if score["flagged"])
        if record["error"]:
            code = record["error"]["code"]
            self.errors[code] += 1
            if self.errors[code] <= _EXAMPLES:
                self.error_examples.setdefault(code, []).append(record["source"])
        if record["route"]:
            missing = record.get("slow_path") == "not_configured"
            self.routes["no_slow_path" if missing else record["route"]["path"]] += 1
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
            "error_examples": self.error_examples,
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
    --fail-on matched, 3 where some input stayed undecided or the slow path's answer could not be used, 0.
    """
    if any(failure_of_code(code).exit_code is Exit.BACKEND_DOWN for code in counts.errors):
        return Exit.BACKEND_DOWN
    if fail_on is not None and any(counts.decisions[name] for name in _FAIL_ON[fail_on]):
        return Exit.FAIL_ON_MATCHED
    unusable = any(error_for_code(code) is VlmUnusable for code in counts.errors)
    return Exit.SOME_UNDECIDED if counts.decisions["undecided"] or unusable else Exit.OK


def counted(count: int, thing: str) -> str:
    """Return a number with its noun: `1 input`, `2 inputs`, `10,000 inputs`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def nothing_found(summary: Mapping[str, Any]) -> str:
    """Return the warning for a scan without inputs, with what was met and left out."""
    left = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary["left_out"].items())
    return f"No input was found, so nothing was judged (left out: {left or 'nothing'})."


def policy_line(policy: Policy) -> str:
    """Return which policy was judged and by which rules: an `allow` says nothing of anything else."""
    known = taxonomy.categories()
    names = [r.name or (known[r.category].name if r.category in known else r.category) for r in policy.active()]
    shown = ", ".join(safe(name) for name in names[:_RULES_NAMED])
    more = f" and {len(names) - _RULES_NAMED} more" if len(names) > _RULES_NAMED else ""
    return f"Policy {safe(policy.name)} {safe(policy.version)}: {shown or 'no rule'}{more}; nothing else was judged."


def print_summary(summary: Mapping[str, Any], console: Console, policy: Policy | None = None) -> None:
    """Print the summary as tables, and what `policy` covers."""
    from rich.table import Table

    title = counted(summary["inputs"], "input")
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("decision")
    table.add_column("inputs", justify="right")
    table.add_column("share", justify="right")
    for name in DECISIONS:
        count = summary["decisions"][name]
        share = f"{count / summary['inputs']:.1%}" if summary["inputs"] else ""
        table.add_row(f"[{_COLOURS[name]}]{name}[/]", str(count), share)
    console.print(table)
    for heading, key in (("flagged category", "flagged"), ("error", "errors"), ("left out", "left_out")):
        if summary[key]:
            console.print()
            console.print(_counts_table(heading, summary[key], summary["error_examples"] if key == "errors" else {}))
    if summary.get("sidecars"):
        console.print()
        console.print(_sidecar_line(summary), highlight=False, markup=False)
    console.print()
    if policy is not None:
        console.print(policy_line(policy), highlight=False, markup=False)
    console.print(_cost_line(summary), highlight=False)


def _counts_table(heading: str, counts: Mapping[str, int], examples: Mapping[str, list[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    table.add_column(heading)
    table.add_column("inputs", justify="right")
    if examples:
        table.add_column("such as", overflow="fold")
    for name, count in counts.items():
        named = [safe(source) for source in examples.get(name, [])]
        if count > len(named):
            named = [*named[:1], f"and {counted(count - 1, 'other')}"]
        table.add_row(name, str(count), *([Text("\n".join(named))] if examples else []))
    return table


def _sidecar_line(summary: Mapping[str, Any]) -> str:
    names, total = summary["sidecars"], summary["left_out"]["sidecar"]
    shown = ", ".join(safe(name) for name in names[:_NAMED])
    more = f" and {total - _NAMED} more" if total > _NAMED else ""
    return f"Text beside media, left out: {shown}{more}. Give such a file itself to judge it."


def _cost_line(summary: Mapping[str, Any]) -> str:
    cost = summary["cost"]
    scored = f"{counted(cost['videos_scored'], 'video')} ({cost['video_seconds']:.0f} s) scored"
    runs = f", {cost['sessions']} scans together" if cost["sessions"] > 1 else ""
    parts = [f"{scored} in {cost['wall_seconds']:.1f} s{runs}"]
    if cost["videos_per_second"]:
        parts.append(f"{cost['videos_per_second']:.2f} videos/s")
    if cost["video_seconds_per_cpu_second"]:
        parts.append(f"{cost['video_seconds_per_cpu_second']:.1f} s of video per CPU-second")
    parts.append(f"peak memory {cost['peak_memory_mib']:.0f} MiB")
    if summary["duplicates"]:
        parts.append(f"{counted(summary['duplicates'], 'duplicate')} not scored again")
    return "; ".join(parts)
