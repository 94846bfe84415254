"""The demonstration: render clips, scan them, and check that what must be flagged was flagged."""

from __future__ import annotations

import json
import os
import shutil
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guard.api import Guard
from guard.errors import UsageError
from guard.types import Policy
from serve.demo_clips import Expected, render_clips
from serve.failures import Exit
from serve.progress import make_progress
from serve.run_dir import RESULTS
from serve.scan import REPORT, ScanRequest, run_scan
from serve.summary import print_summary
from serve.terminal import console, print_rows

_MARK = ".video-guard-demo"
"""Lies in a folder that the demo made, and may therefore replace."""


def run_demo(out: Path, *, open_report: bool = False) -> Exit:
    """Render, scan, check and show. Returns `BACKEND_DOWN` if a clip was not judged as it must be."""
    clips, run = _fresh(out)
    print(f"Rendering clips into {clips}", file=sys.stderr)
    expected = render_clips(clips)
    with Guard.load(policy=demo_policy()) as guard, make_progress("bar") as progress:
        request = ScanRequest(paths=(str(clips),), out=run, evidence=True)
        outcome = run_scan(guard, request, progress)
    print_summary(outcome.summary, console(stderr=True))
    wrong = check(run, expected)
    report = (run / REPORT).absolute()
    print(f"\nReport: {report}")
    if open_report and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin"):
        webbrowser.open(report.as_uri())
    for line in wrong:
        print(f"guard demo: {line}", file=sys.stderr)
    return Exit.BACKEND_DOWN if wrong else Exit.OK


def demo_policy() -> Policy:
    """Return the rules that need no VLM: those of the embedded classifier, and flashing."""
    from policies.canonical import make_policy
    from policies.load import load_policy

    rules = {**load_policy("screen").rules, **load_policy("flashing").rules}
    return make_policy(
        name="demo", version="1", rules=rules, description="What the embedded detectors can judge alone."
    )


def check(run: Path, expected: Sequence[Expected]) -> list[str]:
    """Print what was expected beside what was found, and return what is wrong, in words."""
    records = {Path(r["source"]).name: r for r in map(json.loads, (run / RESULTS).read_text().splitlines())}
    wrong, rows = [], []
    for clip in expected:
        record = records.get(clip.file)
        fault = "has no line in the results" if record is None else fault_of(record, clip)
        if fault:
            wrong.append(f"{clip.file} {fault}.")
        found = "-" if record is None else record["decision"]
        rows.append((clip.file, clip.why, " or ".join(clip.decisions), found, "wrong" if fault else "as expected"))
    print_rows(("clip", "what it is", "expected", "found", ""), rows)
    return wrong


def fault_of(record: Mapping[str, Any], clip: Expected) -> str | None:
    """Return how a line differs from what must be, or None."""
    if record["decision"] not in clip.decisions:
        return f"must be {' or '.join(clip.decisions)}, and was {record['decision']}: {record['rationale']}"
    if clip.flagged and not (record["categories"].get(clip.flagged) or {}).get("flagged"):
        return f"must be flagged as {clip.flagged}, and was not"
    code = (record["error"] or {}).get("code")
    if clip.error and code not in clip.error:
        return f"must give one of the errors {', '.join(clip.error)}, and gave {code}"
    return None


def _fresh(out: Path) -> tuple[Path, Path]:
    """Return empty places for clips and run below `out`; only what an earlier demo left there is removed."""
    if out.exists() and any(out.iterdir()) and not (out / _MARK).exists():
        raise UsageError(f"{str(out)!r} is not empty and no earlier demo made it.", hint="Give another --out folder.")
    clips, run = out / "clips", out / "run"
    for folder in (clips, run):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    return clips, run
