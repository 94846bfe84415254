"""What `guard eval` does, without the command line: list, run, score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval import score as scoring_module
from eval import settings
from eval.runner import Progress, RunRequest, run
from eval.score import Scoring
from eval.table import INVALID_POLICIES
from eval.types import About, Benchmark
from guard import plugins
from guard.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """One or several systems over one benchmark."""

    benchmark: str
    out: Path
    data: Path | None = None
    systems: tuple[str, ...] = ("cascade",)
    benchmark_settings: Mapping[str, str] = field(default_factory=dict)
    system_settings: Mapping[str, str] = field(default_factory=dict)
    benign_labels: str | None = None
    run: RunRequest
    scoring: Scoring = field(default_factory=Scoring)


def key_of(name: str) -> str:
    """Return the registry key of a name as people write it: `xd-violence` is `xd_violence`."""
    return name.replace("-", "_")


def benchmarks() -> dict[str, About]:
    """Return every benchmark and what it is."""
    return {name: plugins.module("benchmark", name).ABOUT for name in plugins.names("benchmark")}


def systems() -> dict[str, str]:
    """Return every system and the first line of its description."""
    made = {}
    for name in plugins.names("system"):
        made[name] = (plugins.module("system", name).__doc__ or "").strip().splitlines()[0]
    return made


def load_benchmark(name: str, data: Path | None, given: Mapping[str, str], benign_labels: str | None) -> Benchmark:
    """Return a loaded benchmark. Raises `UsageError` for a name, setting or file that there is not."""
    key = key_of(name)
    config = plugins.module("benchmark", key).Config
    if benign_labels is not None and "benign_labels" not in config.__dataclass_fields__:
        raise UsageError(f"--benign-labels means nothing to {key}: its harmless items lie in no category's folder.")
    made: Benchmark = settings.build("benchmark", key, given, data=data, benign_labels=benign_labels)
    return made


def evaluate(request: EvalRequest, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Run each system and score it; returns the content of each `metrics.json`.

    With several systems each has a folder of its own below `out`.
    """
    if request.scoring.invalid not in INVALID_POLICIES:
        raise UsageError(f"--invalid-policy takes {', '.join(INVALID_POLICIES)}; got {request.scoring.invalid!r}.")
    if request.system_settings and len(request.systems) > 1:
        raise UsageError(
            f"--system-set goes with one --system; got {len(request.systems)}.",
            hint="Run them one after the other, each with its own --out, and compare the runs.",
        )
    benchmark = load_benchmark(request.benchmark, request.data, request.benchmark_settings, request.benign_labels)
    found = []
    for name in request.systems:
        out = request.out / _folder(name) if len(request.systems) > 1 else request.out
        system = settings.build("system", key_of(name), request.system_settings)
        run(benchmark, system, replace(request.run, out=out), progress)
        found.append(scoring_module.score(out, request.scoring))
    return found


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a person reads first, coverage beside every number."""
    cover, strict, rows = metrics["coverage"], metrics["strict"], metrics["baselines"]
    share = f"{cover['answered']} of {cover['expected']}"
    lines = [
        f"{metrics['system']} on {metrics['benchmark']}: {share} answered ({cover['share']:.1%})"
        + (", PARTIAL" if cover["partial"] else "")
    ]
    for code, count in cover["codes"].items():
        lines.append(f"  no answer: {code} {count}")
    for name in HEADLINE:
        if name in strict and strict[name][0] is not None:
            beside = ", ".join(f"{row.replace('_', ' ')} {shown(values.get(name))}" for row, values in rows.items())
            lines.append(f"  {name} {interval_text(strict[name])} (n = {share}; {beside})")
    for protocol, values in metrics["protocols"].items():
        lines += [f"  {protocol} {line} (n = {share})" for line in _flat(values)]
    return lines


HEADLINE = (
    "exact_match", "macro/f1", "macro/average_precision", "binary/f1", "binary/recall", "binary/false_refusal",
    "binary/auroc", "binary/average_precision", "binary/recall_at_fpr_0.01", "binary/recall_at_fpr_0.05",
    "withheld/leakage", "withheld/false_refusal",
)  # fmt: skip


def shown(value: float | None) -> str:
    """Return a number at three digits, and a dash for one that is not defined."""
    return "-" if value is None else f"{value:.3f}"


def interval_text(values: Sequence[float | None]) -> str:
    """Return `0.812 [0.700, 0.900]`."""
    value, low, high = values
    return shown(value) if low is None else f"{shown(value)} [{shown(low)}, {shown(high)}]"


def _flat(values: Mapping[str, Any] | None, prefix: str = "") -> list[str]:
    if values is None:
        return [f"{prefix}-"]
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping) and name in ("average", "binary"):
            lines += _flat(value, f"{name} ")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            lines.append(f"{prefix}{name} {shown(value) if not isinstance(value, int) else value}")
    return lines


def _folder(system: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", system)
