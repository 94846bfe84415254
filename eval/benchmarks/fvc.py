"""Fake Video Corpus: 380 videos of events, and their copies; most links are dead, so the user brings what is left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles, VideoFolder
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import InvalidManifest, UsageError

KEPT = {"fake": True, "real": False}
DROPPED = ("uncertain", "debunked", "parody")

ABOUT = About(
    title="Fake Video Corpus (fake against real, by cascade)",
    kind="video",
    source="Papadopoulou et al., Online Information Review 2019; MKLab-ITI/fake-video-corpus",
    licence="CC BY-NC-SA 4.0 (labels)",
    get="Take FVC.csv and FVC_dup.csv from MKLab-ITI/fake-video-corpus and download what still exists of their links.",
    layout=(
        "FVC.csv, and FVC_dup.csv for --set copies=true: cascade_id, video_url, label",
        "videos: <cascade_id>__<n>.mp4 (n counts the rows of a cascade from 0), or mapping.csv: video_url, path",
    ),
    counts={"originals": 380, "fake": 200, "real": 180, "copies": 5199},
    notes=(
        "Never split by video: copies of one event are in one cascade. Uncertain, debunked and parody are left out.",
    ),
)
COLUMNS = (Column(id="fake", name="Fake", accepts=("deception",)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and whether copies count."""

    data: Path
    copies: bool = False


def build(config: Config) -> Benchmark:
    """Read the lists and look for the videos. Raises `UsageError` or `InvalidManifest` for a label file."""
    files = LabelFiles(config.data, ABOUT)
    mapping = _mapping(files)
    videos = VideoFolder(config.data, "videos")
    found = Collector(benchmark="fvc", get=ABOUT.get)
    dropped: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for name in ("FVC.csv", *(["FVC_dup.csv"] if config.copies else [])):
        for where, row in files.table(name, columns=("cascade_id", "video_url", "label")):
            label, cascade = row["label"].lower(), row["cascade_id"]
            if label not in KEPT and label not in DROPPED:
                allowed = ", ".join((*KEPT, *DROPPED))
                raise InvalidManifest(f"{where}: the label is {row['label']!r}; it must be one of {allowed}.")
            stem = f"{cascade}__{numbers[cascade]}"
            numbers[cascade] += 1
            if label in DROPPED:
                dropped[label] += 1
                continue
            gold = Gold(name=stem, labels=("fake",) if KEPT[label] else (), stem=label, group=cascade)
            path = mapping.get(row["video_url"]) or videos.get(stem)
            found.video(path, gold, wanted=videos.wanted(stem))
    note = "Left out: " + (", ".join(f"{count} {kind}" for kind, count in dropped.items()) or "none") + "."
    return finish(found, ABOUT, COLUMNS, data_hash=files.hash, notes=(note,))


def _mapping(files: LabelFiles) -> dict[str, Path]:
    if not (files.data / "mapping.csv").exists():
        return {}
    rows = files.table("mapping.csv", columns=("video_url", "path"))
    made = {row["video_url"]: files.data / row["path"] for _, row in rows}
    if not made:
        raise UsageError("mapping.csv has no row; it must have the columns video_url and path.")
    return made


def miniature(data: Path) -> Config:
    """Write three videos of two cascades below `data`, one of them by way of the mapping."""
    rows = ("0001,https://a.invalid/1,fake", "0002,https://a.invalid/2,real", "0002,https://a.invalid/3,real")
    text = "cascade_id,video_url,label\n" + "".join(f"{row}\n" for row in (*rows, "0003,https://a.invalid/4,parody"))
    (data / "FVC.csv").write_text(text, encoding="utf-8")
    write_tiny(data / "videos/0001__0.mp4", 0)
    write_tiny(data / "videos/0002__0.mp4", 1)
    write_tiny(data / "videos/0002__1.mp4", 2)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
