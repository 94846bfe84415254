"""Fights in surveillance footage: the folders of the published set, or a manifest with `raw_label` fight or nofight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.benchmarks.manifest import benchmark_of, rows_of
from eval.building import finish
from eval.files import VIDEO_SUFFIXES, Collector, LabelFiles
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import UsageError

ABOUT = About(
    title="Surveillance-camera fights",
    kind="video",
    source="Akti et al., IPTA 2019; seymanurakti/fight-detection-surv-dataset",
    licence="MIT (labels); footage rights are third parties'",
    get="Clone seymanurakti/fight-detection-surv-dataset, or make a manifest with raw_label fight and nofight.",
    layout=("fight/*.mp4 and noFight/*.mp4", "or manifest.jsonl with raw_label fight or nofight (--set split=val)"),
    counts={"videos": 300, "fight": 150, "no fight": 150},
    notes=("A manifest keeps clips of one source in one group; the published folders have none, so that intervals from "
           "them are too narrow.",),
)  # fmt: skip
COLUMNS = (Column(id="violence.fighting", name="Fighting", accepts=("violence.fighting",)),)
FOLDERS = {"fight": ("violence.fighting",), "noFight": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which split of a manifest."""

    data: Path
    split: str = "val"


def build(config: Config) -> Benchmark:
    """Read the manifest, or the folders. Raises `UsageError` where neither is there."""
    files = LabelFiles(config.data, ABOUT)
    if (config.data / "manifest.jsonl").exists() or not (config.data / "fight").is_dir():
        path, _ = files.text("manifest.jsonl")
        rows = rows_of(path, config.split, ("fight", "nofight"))
        return benchmark_of("surveillance_fight", ABOUT, rows, COLUMNS, files, config.data)
    found = Collector(benchmark="surveillance_fight", get=ABOUT.get)
    for folder, labels in FOLDERS.items():
        paths = [p for p in sorted((config.data / folder).glob("*")) if p.suffix.lower() in VIDEO_SUFFIXES]
        if not paths:
            raise UsageError(f"The folder {folder!r} below {str(config.data)!r} has no video.", hint=ABOUT.get)
        for path in paths:
            found.video(path, Gold(name=f"{folder}/{path.name}", labels=labels, stem=folder), wanted=str(path))
    return finish(found, ABOUT, COLUMNS, data_hash="folders")


def miniature(data: Path) -> Config:
    """Write three videos and a manifest below `data`."""
    lines = []
    for seed, kind in enumerate(("fight", "nofight", "fight")):
        write_tiny(data / f"val/{kind}_{seed}.mp4", seed)
        labels = '["violence.fighting"]' if kind == "fight" else "[]"
        lines.append(
            f'{{"path": "val/{kind}_{seed}.mp4", "labels": {labels}, "split": "val", "group": "g{seed}", '
            f'"raw_label": "{kind}"}}\n'
        )
    (data / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
