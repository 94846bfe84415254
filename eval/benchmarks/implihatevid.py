"""ImpliHateVid: hate that is said outright, hate that is implied, and neither."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles, VideoFolder, pick
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold

LABELS: dict[str, tuple[str, ...]] = {"non-hate": (), "implicit": ("hate",), "explicit": ("hate",)}
ABOUT = About(
    title="ImpliHateVid (hate or not; recall by explicit and implicit)",
    kind="video",
    source="Rehman et al., ACL 2025",
    licence="by form, non-commercial",
    get="Ask the authors by their form; write labels.csv yourself, since no label file is public.",
    layout=("labels.csv: video_id, label (non-hate, implicit, explicit)", "videos: <video_id>.mp4 below videos/"),
    counts={"videos": 2009, "non-hate": 1000, "implicit": 509, "explicit": 500},
    notes=("Recall on implicit and explicit hate is in the table by subcategory.",),
)
COLUMNS = (Column(id="hate", name="Hate", accepts=("extremism.hate",)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is."""

    data: Path


def build(config: Config) -> Benchmark:
    """Read the labels and look for the videos. Raises `UsageError` or `InvalidManifest` for the label file."""
    files = LabelFiles(config.data, ABOUT)
    videos = VideoFolder(config.data, "videos")
    found = Collector(benchmark="implihatevid", get=ABOUT.get)
    for where, row in files.table("labels.csv", columns=("video_id", "label")):
        name, label = row["video_id"], row["label"].lower()
        gold = Gold(name=name, labels=pick(LABELS, label, where, "the label"), stem=label)
        found.video(videos.get(name), gold, wanted=videos.wanted(name))
    return finish(found, ABOUT, COLUMNS, data_hash=files.hash)


def miniature(data: Path) -> Config:
    """Write three videos below `data`."""
    rows = (("v1", "implicit"), ("v2", "explicit"), ("v3", "non-hate"))
    text = "video_id,label\n" + "".join(f"{name},{label}\n" for name, label in rows)
    (data / "labels.csv").write_text(text, encoding="utf-8")
    for seed, (name, _) in enumerate(rows):
        write_tiny(data / "videos" / f"{name}.mp4", seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
