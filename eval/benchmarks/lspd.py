"""LSPD: pornography detection; a CSV of paths and classes, or one folder for each class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import VIDEO_SUFFIXES, Collector, LabelFiles, pick
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import UsageError

_BOTH = ("porn", "porn_or_sexy")
CLASSES: dict[str, tuple[str, ...]] = {
    "porn": _BOTH, "hentai": _BOTH, "sexy": ("porn_or_sexy",), "drawing": (), "neutral": (), "normal": (),
    "non-porn": (), "nonporn": (),
}  # fmt: skip
ABOUT = About(
    title="LSPD (pornography and hentai; sexy counted both ways)",
    kind="video",
    source="Phan et al., 2022",
    licence="by request form",
    get="Ask the authors by their form; put labels.csv beside the videos, or one folder for each class.",
    layout=("labels.csv: path, label", "or folders named porn, hentai, sexy, drawing, neutral (or non-porn)"),
    notes=(
        "The column porn counts sexy as harmless, porn_or_sexy counts it as a violation; binary numbers follow the "
        "second, and the subset leaves sexy out.",
        "The published label files were not seen: counts are not checked.",
    ),
)
COLUMNS = (
    Column(id="porn", name="Pornography or hentai", accepts=("sexual.explicit", "sexual.hentai")),
    Column(
        id="porn_or_sexy",
        name="Pornography, hentai or sexy",
        accepts=("sexual.explicit", "sexual.hentai", "sexual.implied"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is."""

    data: Path


def build(config: Config) -> Benchmark:
    """Read labels.csv, or the folders. Raises `UsageError` or `InvalidManifest` where neither can be used."""
    files = LabelFiles(config.data, ABOUT)
    found = Collector(benchmark="lspd", get=ABOUT.get)
    for where, path, label in _rows(files):
        gold = Gold(name=path, labels=pick(CLASSES, label.lower(), where, "the class"), stem=label.lower())
        found.video(config.data / path, gold, wanted=path)
    return finish(found, ABOUT, COLUMNS, data_hash=files.hash, subsets={"without sexy": frozenset({"sexy"})})


def _rows(files: LabelFiles) -> Iterator[tuple[str, str, str]]:
    folders = [path for path in sorted(files.data.iterdir()) if path.is_dir() and path.name.lower() in CLASSES]
    if (files.data / "labels.csv").exists() or not folders:
        for where, row in files.table("labels.csv", columns=("path", "label")):
            yield where, row["path"], row["label"]
        return
    for folder in folders:
        videos = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in VIDEO_SUFFIXES]
        if not videos:
            raise UsageError(f"The folder {str(folder)!r} holds no video.", hint=files.about.get)
        for path in videos:
            yield str(folder), str(path.relative_to(files.data)), folder.name


def miniature(data: Path) -> Config:
    """Write four videos and their labels below `data`."""
    rows = (("a/1.mp4", "Porn"), ("a/2.mp4", "Sexy"), ("a/3.mp4", "Drawing"), ("a/4.mp4", "Hentai"))
    text = "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows)
    (data / "labels.csv").write_text(text, encoding="utf-8")
    for seed, (path, _) in enumerate(rows):
        write_tiny(data / path, seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
