"""KuaiMod: 1,000 short videos of 15 violation classes, from a CSV that the user makes of the published list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard import taxonomy
from guard.errors import InvalidManifest

BENIGN = frozenset({"normal", "benign", "safe", "none", "0", ""})
ROOTS = ("sexual", "harassment", "violence", "deception", "illegal", "extremism")
ABOUT = About(
    title="KuaiMod (violation or not; by class with classes.csv)",
    kind="video",
    source="KuaiMod, KDD 2025",
    licence="CC BY-SA",
    get="Take the benchmark from the project page of KuaiMod and write labels.csv from its list.",
    layout=(
        "labels.csv: path, label (normal for harmless ones)",
        "classes.csv: label, category (optional: which category id of ours each class means)",
    ),
    counts={"videos": 1000},
    notes=("Without classes.csv there is one column, any violation; with it one for each class, and single_label.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is."""

    data: Path


def build(config: Config) -> Benchmark:
    """Read the labels and look for the videos. Raises `UsageError` or `InvalidManifest` for a label file."""
    files = LabelFiles(config.data, ABOUT)
    rows = [(where, row["path"], row["label"]) for where, row in files.table("labels.csv", columns=("path", "label"))]
    classes = _classes(files)
    found = Collector(benchmark="kuaimod", get=ABOUT.get)
    for where, path, label in rows:
        benign = label.lower() in BENIGN
        if classes and not benign and label not in classes:
            raise InvalidManifest(f"{where}: the class {label!r} is not in classes.csv.")
        labels = () if benign else ((label,) if classes else ("violation",))
        found.video(config.data / path, Gold(name=path, labels=labels, stem=label or "normal"), wanted=path)
    columns = tuple(Column(id=label, name=label, accepts=(category,)) for label, category in classes.items())
    single = (Column(id="violation", name="Any violation", accepts=ROOTS),)
    protocols = ("single_label",) if columns else ()
    return finish(found, ABOUT, columns or single, data_hash=files.hash, protocols=protocols)


def _classes(files: LabelFiles) -> dict[str, str]:
    if not (files.data / "classes.csv").exists():
        return {}
    made = {}
    for where, row in files.table("classes.csv", columns=("label", "category")):
        if not taxonomy.is_known(row["category"]):
            guess = taxonomy.suggestion(row["category"])
            hint = f" Did you mean {guess!r}?" if guess else ""
            raise InvalidManifest(f"{where}: unknown category {row['category']!r}.{hint}")
        made[row["label"]] = row["category"]
    return made


def miniature(data: Path) -> Config:
    """Write three videos and their labels below `data`."""
    rows = (("1.mp4", "gore"), ("2.mp4", "normal"), ("3.mp4", "fraud"))
    text = "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows)
    (data / "labels.csv").write_text(text, encoding="utf-8")
    for seed, (path, _) in enumerate(rows):
        write_tiny(data / path, seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
