"""`guard eval self`: this project's own numbers on what can run here, and blanks, with the reason, on what cannot.

A cell is one benchmark with the systems that are measured on it. Its run directory lies below the output folder and is
taken up again by a second call, so that the report can be made again without measuring again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval import command, compare, overlap, run_dir
from eval.command import EvalRequest
from eval.runner import Progress, RunRequest
from eval.score import Scoring
from eval.types import About

GATED = "needs data that is handed out on request"
LINKS = "needs videos that the user must download by link or id"
UNSEEN = "needs a list that the user must bring"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of the acceptance."""

    benchmark: str
    needs: str = ""
    """Which folder it reads: `videos`, `text`, or nothing for a rendered suite."""
    given: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    """Told apart from another cell of the same benchmark by this."""

    @property
    def key(self) -> str:
        """Name of its run directory."""
        return self.name or self.benchmark


CELLS = (
    Cell(benchmark="surveillance_fight", needs="videos"),
    Cell(benchmark="manifest", needs="videos", given={"columns": "violence.fighting,illegal.fire,accidents.road"}),
    Cell(benchmark="hatecheck", needs="text"),
    Cell(benchmark="openai_moderation", needs="text"),
    Cell(benchmark="textdetox", needs="text"),
    Cell(benchmark="sms_spam", needs="text"),
    Cell(benchmark="sst2", needs="text"),
    Cell(benchmark="needle"),
    Cell(benchmark="injection"),
    Cell(benchmark="flash"),
    Cell(benchmark="personal_policy"),
)
SYSTEMS = ("fast_path", "random")
OVERLAP = "overlap"

BLANK: tuple[tuple[str, str, str], ...] = (
    ("safewatch_real", GATED, "Avg ACC 0.726, F1 0.867 at 3.9 s (SafeWatch-8B, its paper)"),
    ("safewatch_genai", GATED, "Avg ACC 0.720 (SafeWatch-8B, second hand); 7 classes 0.767 (SafeLens, second hand)"),
    ("safewatch_policy", GATED, "permuted 0.647 (SafeWatch-8B, second hand)"),
    ("xd_violence", LINKS, "accuracy 0.938 (SafeWatch-8B, second hand)"),
    ("ucf_crime", LINKS, "accuracy 0.964 (SafeWatch-8B, second hand)"),
    ("fakesv", GATED, "accuracy 0.719 (SafeWatch-8B, second hand)"),
    ("fvc", LINKS, "accuracy 0.798 (SafeWatch-8B, second hand)"),
    ("hatemm", LINKS, "accuracy 0.798, macro F1 0.790 (its paper)"),
    ("multihateclip", LINKS, "English, binary: 0.81, macro F1 0.79 (its paper, GPT-4V)"),
    ("implihatevid", GATED, ""),
    ("lspd", GATED, "accuracy 0.938 (SafeWatch-8B, second hand)"),
    ("kuaimod", UNSEEN, "accuracy 0.924 (KuaiMod-7B, its page)"),
    ("mastodon", UNSEEN, "binary F1 0.875 (arXiv 2511.05532)"),
)
"""Benchmarks that cannot run here: name, reason, and what others published. None of these is claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where the data is, as far as it is there."""

    videos: Path | None = None
    text: Path | None = None
    suites: Path | None = None
    """Where rendered clips are kept."""
    slow_url: str | None = None

    def of(self, cell: Cell) -> Path | None:
        """Return the folder that a cell reads."""
        return {"videos": self.videos, "text": self.text, "": self.suites}[cell.needs]


def measure(
    out: Path, folders: Folders, *, only: Sequence[str] = (), draws: int = 1000, progress: Progress | None = None
) -> dict[str, str]:
    """Run every cell whose data is there; returns key to `done`, or why it stays blank."""
    told: dict[str, str] = {}
    for cell in CELLS:
        if only and cell.key not in only:
            continue
        data = folders.of(cell)
        if cell.needs and data is None:
            told[cell.key] = f"no --{cell.needs} folder was given"
            continue
        for system in _systems(folders):
            _run(cell, system, data, out / cell.key / system, folders, draws, progress)
        told[cell.key] = "done"
    if folders.videos is not None and (not only or OVERLAP in only):
        told[OVERLAP] = _overlap(out, folders.videos, progress)
    return told


def _overlap(out: Path, videos: Path, progress: Progress | None) -> str:
    """Compare the validation clips with the training rows of the same manifest, once."""
    path = out / f"{OVERLAP}.json"
    if run_dir.read_json(path) is None:
        benchmark = command.load_benchmark("manifest", videos, {}, None)
        out.mkdir(parents=True, exist_ok=True)
        run_dir.write_json(path, overlap.check(benchmark, videos / "manifest.jsonl", progress=progress).to_json())
    return "done"


def _systems(folders: Folders) -> tuple[str, ...]:
    return (*SYSTEMS, "cascade", "slow_path") if folders.slow_url else SYSTEMS


def _run(
    cell: Cell, system: str, data: Path | None, out: Path, folders: Folders, draws: int, progress: Progress | None
) -> None:
    if run_dir.read_json(out / run_dir.METRICS) is not None:
        return
    own = {"slow_url": folders.slow_url} if folders.slow_url and system in ("cascade", "slow_path") else {}
    request = EvalRequest(
        benchmark=cell.benchmark,
        out=out,
        data=data,
        systems=(system,),
        benchmark_settings=cell.given,
        system_settings=own,
        run=RunRequest(out=out, resume=run_dir.read_json(out / run_dir.RUN) is not None),
        scoring=Scoring(draws=draws),
    )
    command.evaluate(request, progress)


def report(out: Path, *, draws: int = 1000) -> str:
    """Return the Markdown of what lies below `out`, with the command for each table, and the blank cells."""
    done = [cell for cell in CELLS if (out / cell.key).is_dir()]
    parts = [_HEAD.format(date=datetime.now(UTC).strftime("%Y-%m-%d"), **_made_by(out, done))]
    about = command.benchmarks()
    parts += [_section(cell, about[cell.benchmark], out / cell.key, draws) for cell in done]
    missing = [cell.key for cell in CELLS if cell not in done]
    if missing:
        parts.append(f"Not run here, for want of their folder: {', '.join(missing)}.\n")
    return "\n".join([*parts, *_leaks(out), _blank_table(about)])


def _leaks(out: Path) -> list[str]:
    found = run_dir.read_json(out / f"{OVERLAP}.json")
    if found is None:
        return []
    by = ", ".join(f"{count} by {kind}" for kind, count in found["by"].items() if kind != "group")
    return [
        "## Has training seen the validation clips?",
        "",
        f"{found['overlapping']} of {found['items']} clips overlap with {found['training']} training rows ({by}); "
        f"{len(found['unread'])} could not be looked at.",
        "",
        "```",
        "guard eval overlap VIDEOS/manifest.jsonl --benchmark manifest --data VIDEOS",
        "```",
        "",
    ]


_HEAD = """# Results

Written by `guard eval self` on {date} ({machine}). Each table is followed by the command that makes it again.
Values have 95 % intervals of a bootstrap over whole groups; a dash is a number that is not defined on the data. The
rows in italics do not look at the sample. "Waved through" is the share of violating samples that were allowed,
"harmless withheld" the share of harmless ones that were not. No VLM is part of these runs unless a row says so: what
the fast path cannot settle is `review`, so it is withheld but not flagged. The shipped weights were those with the
hash `{weights}`.

VIDEOS is a folder with a manifest of clips, TEXT one with labelled lines (see `guard eval list`); all of it at once:

```
guard eval self --out RUNS --videos VIDEOS --text TEXT --report results.md
```
"""


def _section(cell: Cell, about: About, folder: Path, draws: int) -> str:
    (found,) = compare.compare([folder], draws=draws)
    metrics = found.runs[0].metrics
    counts = ", ".join(
        f"{name}: {c['positives']} of {c['positives'] + c['negatives']}" for name, c in metrics["columns"].items()
    )
    lines = [f"## {found.title}", "", f"Violating: {counts}.", "", compare.markdown(found)]
    lines += [f"- {warning}" for warning in found.warnings]
    for run in found.runs:
        lines += _extra(run.name, run.metrics)
    lines += [f"- {note}" for note in about.notes]
    lines += ["", "```", *_commands(cell), "```", ""]
    return "\n".join(lines)


def _extra(name: str, metrics: Mapping[str, Any]) -> list[str]:
    """Return protocols, routing and subsets of a system that looks, one line each."""
    if name in ("random", "always_safe", "flag_all"):
        return []
    lines = []
    for protocol, values in metrics["protocols"].items():
        short = [(k, v) for k, v in compare.as_rows(values or {}) if not k.startswith("by_variant")]
        lines.append(f"- {name}, {protocol}: " + ", ".join(f"{key} {value}" for key, value in short))
    for subset, values in metrics["subsets"].items():
        f1, auroc = values.get("binary/f1"), values.get("binary/auroc")
        lines.append(f"- {name}, {subset}: {values['samples']} samples, F1 {_short(f1)}, AUROC {_short(auroc)}")
    stems = metrics["stems"]
    if 1 < len(stems) <= 12:
        each = [
            f"{stem} {row['flagged']} flagged, {row['withheld']} withheld of {row['samples']}"
            for stem, row in stems.items()
        ]
        lines.append(f"- {name}, by subcategory: {'; '.join(each)}")
    routing = metrics["routing"]
    if routing:
        kept = _short(routing["accuracy_fast_kept"])
        lines.append(f"- {name} escalates {_short(routing['escalation_rate'])}; accuracy on what it keeps {kept}")
    selective, calibration = metrics["selective"], metrics["calibration"]
    if selective and calibration:
        any_ = calibration["any"]
        lines.append(
            f"- {name}: AURC {_short(selective['aurc'])} (random routing {_short(selective['aurc_random'])}), "
            f"ECE {_short(any_['ece'])}, Brier {_short(any_['brier'])}"
        )
    return lines


def _commands(cell: Cell) -> list[str]:
    data = f" --data {cell.needs.upper()}" if cell.needs else ""
    given = "".join(f" --set {name}={value}" for name, value in cell.given.items())
    out = f"RUNS/{cell.key}"
    name = cell.benchmark.replace("_", "-")
    lines = [
        f"guard eval {name}{data}{given} --system {system.replace('_', '-')} --out {out}/{system}" for system in SYSTEMS
    ]
    return [*lines, f"guard eval compare {out}"]


def _blank_table(about: Mapping[str, About]) -> str:
    lines = [
        "## What is blank, and why",
        "",
        "Nothing is claimed here. The published numbers are what a run would be compared with; those marked second "
        "hand were not read in their source. Rows for guards that are themselves models (SafeWatch, Llama Guard, "
        "LlavaGuard, Qwen3Guard, gpt-oss-safeguard, ShieldGemma) and for the cascade with a VLM need a GPU server, "
        "and are blank everywhere.",
        "",
        "| benchmark | ours | why | published by others |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {name.replace('_', '-')} | | {why} | {said} |" for name, why, said in BLANK if name in about]
    return "\n".join(lines) + "\n"


def _made_by(out: Path, done: Sequence[Cell]) -> dict[str, str]:
    """Return machine and weights of the runs; several weights are all named, since they should be one."""
    infos = [run_dir.read_json(out / cell.key / SYSTEMS[0] / run_dir.RUN) for cell in done]
    found = [info for info in infos if info is not None]
    weights = sorted({str(info["signature"]["settings"].get("weights", "none")) for info in found})
    machines = sorted({str(info["machine"]) for info in found})
    machine = f"{', '.join(machines)}, no GPU, others at work beside" if machines else "nothing was run"
    return {"machine": machine, "weights": ", ".join(weights) or "none"}


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
