"""HateMM: hate videos from BitChute, with the stretches that hold the hate."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.building import finish
from eval.files import Collector, LabelFiles, pick
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import InvalidManifest

LABELS = {"Hate": "hate_videos", "Non Hate": "non_hate_videos"}
ABOUT = About(
    title="HateMM (hate or not, and where)",
    kind="video",
    source="Das et al., ICWSM 2023; Zenodo 7799469",
    licence="CC BY 4.0 (Zenodo)",
    get="Download HateMM_annotation.csv, hate_videos and non_hate_videos from Zenodo, record 7799469.",
    layout=("HateMM_annotation.csv: video_file_name, label, hate_snippet, target", "hate_videos/", "non_hate_videos/"),
    counts={"videos": 1083, "hate": 431, "non-hate": 652},
    notes=(
        "--set split_file=FILE takes only the names in FILE, such as the temporal test split of MoRE (217 videos).",
    ),
)
COLUMNS = (Column(id="hate", name="Hate", accepts=("extremism.hate",)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which videos count."""

    data: Path
    split_file: str = ""
    """File below `data` with one name a line; empty takes all."""


def build(config: Config) -> Benchmark:
    """Read the annotation and look for the videos. Raises `UsageError` or `InvalidManifest` for a label file."""
    files = LabelFiles(config.data, ABOUT)
    wanted = {line for _, line in files.lines(config.split_file)} if config.split_file else None
    found = Collector(benchmark="hatemm", get=ABOUT.get)
    columns = ("video_file_name", "label", "hate_snippet", "target")
    for where, row in files.table("HateMM_annotation.csv", columns=columns):
        name, folder = row["video_file_name"], pick(LABELS, row["label"], where, "the label")
        if wanted is not None and Path(name).stem not in wanted and name not in wanted:
            continue
        hate = row["label"] == "Hate"
        gold = Gold(
            name=name,
            labels=("hate",) if hate else (),
            stem=row["target"] or row["label"],
            spans_seconds=snippets(row["hate_snippet"], where) if hate else (),
        )
        found.video(config.data / folder / name, gold, wanted=f"{folder}/{name}")
    return finish(found, ABOUT, COLUMNS, data_hash=files.hash, protocols=("spans",))


def snippets(text: str, where: str) -> tuple[tuple[float, float], ...] | None:
    """Return stretches in seconds from `[['00:00:34', '00:01:34'], ...]`; None where there are none."""
    if text in ("", "[]", "nan"):
        return None
    try:
        pairs = ast.literal_eval(text)
        return tuple((_seconds(start), _seconds(end)) for start, end in pairs)
    except (ValueError, SyntaxError, TypeError) as error:
        raise InvalidManifest(f"{where}: hate_snippet is {text!r:.80}; it must be pairs of h:mm:ss.") from error


def _seconds(text: Any) -> float:
    """Return the seconds of `00:01:34`: 94."""
    seconds = 0.0
    for part in str(text).split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def miniature(data: Path) -> Config:
    """Write three videos below `data`, in the real layout."""
    rows = (
        "hate_video_1.mp4,Hate,\"[['00:00:00', '00:00:01']]\",Blacks",
        "hate_video_2.mp4,Hate,,Jews",
        "non_hate_video_1.mp4,Non Hate,,",
    )
    text = "video_file_name,label,hate_snippet,target\n" + "".join(f"{row}\n" for row in rows)
    (data / "HateMM_annotation.csv").write_text(text, encoding="utf-8")
    for seed, row in enumerate(rows):
        name, label = row.split(",")[:2]
        write_tiny(data / LABELS[label] / name, seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
