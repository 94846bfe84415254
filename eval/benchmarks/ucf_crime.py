"""UCF-Crime test split: 290 surveillance videos, 140 of them with an anomaly of 13 kinds, marked in frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles, VideoFolder, pick
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import InvalidManifest

CLASSES: dict[str, str | None] = {
    "Abuse": "harassment.abuse", "Arrest": None, "Arson": "illegal.fire", "Assault": "violence.assault",
    "Burglary": "illegal.robbery", "Explosion": "illegal.explosion", "Fighting": "violence.fighting",
    "RoadAccidents": "accidents.road", "Robbery": "illegal.robbery", "Shooting": "violence.shooting",
    "Shoplifting": "illegal.theft", "Stealing": "illegal.theft", "Vandalism": "violence.vandalism", "Normal": None,
}  # fmt: skip
"""Class to our category; an arrest is an anomaly that no harm category speaks of."""

ABOUT = About(
    title="UCF-Crime, test split (video level, and frames)",
    kind="video",
    source="Sultani et al., CVPR 2018, arXiv 1801.04264; WaqasSultani/AnomalyDetectionCVPR2018",
    licence="for research; footage rights are third parties'",
    get="Download the videos and Temporal_Anomaly_Annotation.txt from the project page of UCF-Crime.",
    layout=("Temporal_Anomaly_Annotation.txt", "videos: <name>_x264.mp4 in any folders below"),
    counts={"videos": 290, "anomalous": 140, "normal": 150},
    notes=(
        "RoadAccidents and Arrest are anomalies, hardly policy violations: numbers are given with and without them.",
        "The frame-level area under the ROC over all videos is the customary number; the one over anomalous videos "
        "alone is harder to flatter.",
    ),
)

COLUMNS = (
    Column(
        id="anomaly",
        name="Anomaly",
        accepts=tuple(dict.fromkeys(category for category in CLASSES.values() if category)),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is."""

    data: Path


def build(config: Config) -> Benchmark:
    """Read the annotation and look for the videos. Raises `UsageError` or `InvalidManifest` for the label file."""
    files = LabelFiles(config.data, ABOUT)
    videos = VideoFolder(config.data, ".")
    found = Collector(benchmark="ucf_crime", get=ABOUT.get)
    for where, line in files.lines(
        "Temporal_Anomaly_Annotation.txt", "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"
    ):
        name, kind, spans = _parse(line, where)
        stem = name.removesuffix(".mp4")
        pick(CLASSES, kind, where, "the class")
        gold = Gold(
            name=name,
            labels=() if kind == "Normal" else ("anomaly",),
            stem=kind,
            group=stem,
            spans_frames=spans,
        )
        found.video(videos.get(stem), gold, wanted=f"{stem}.mp4")
    return finish(
        found,
        ABOUT,
        COLUMNS,
        data_hash=files.hash,
        protocols=("frames_ucf",),
        subsets={"without RoadAccidents and Arrest": frozenset({"RoadAccidents", "Arrest"})},
    )


def _parse(line: str, where: str) -> tuple[str, str, tuple[tuple[int, int], ...]]:
    cells = line.split()
    try:
        name, kind, *numbers = cells
        first, second = numbers[:2], numbers[2:4]
        pairs = [(int(a), int(b)) for a, b in (first, second)]
    except ValueError as error:
        raise InvalidManifest(f"{where} is {line!r}; it must be: name class start end start end.") from error
    spans = tuple((start, end) for start, end in pairs if start >= 0 and end >= start)
    if kind != "Normal" and not spans:
        raise InvalidManifest(f"{where}: {name} is of the class {kind!r} and has no stretch of frames.")
    return name, kind, spans


def miniature(data: Path) -> Config:
    """Write one video of each of three classes below `data`, in the real layout."""
    rows = {"Arson/Arson007_x264": "Arson 2 5 -1 -1", "RoadAccidents/RoadAccidents002_x264": "RoadAccidents 1 3 5 6"}
    rows["Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264"] = "Normal -1 -1 -1 -1"
    lines = [f"{Path(name).name}.mp4  {rest}  " for name, rest in rows.items()]
    (data / "Temporal_Anomaly_Annotation.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for seed, name in enumerate(rows):
        write_tiny(data / f"{name}.mp4", seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
