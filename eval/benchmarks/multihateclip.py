"""MultiHateClip: YouTube (English) and Bilibili (Chinese) clips: normal, offensive or hateful, and where."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles, VideoFolder, pick
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import InvalidManifest, UsageError

LABELS: dict[str, tuple[str, ...]] = {"Normal": (), "Offensive": ("offensive",), "Hateful": ("hateful",)}
LANGUAGES = ("English", "Chinese")
SPLITS = ("train", "valid", "test")
ABOUT = About(
    title="MultiHateClip (normal, offensive, hateful)",
    kind="video",
    source="Wang et al., ACM MM 2024; Social-AI-Studio/MultiHateClip",
    licence="none stated; only ids are published",
    get="Take the TSV files from Social-AI-Studio/MultiHateClip and download the videos by id.",
    layout=(
        "<English|Chinese>_data/annotation/<train|valid|test>.tsv",
        "videos: <Video_ID>.mp4 anywhere below <English|Chinese>_data",
    ),
    counts={"English train": 701, "English valid": 100, "English test": 200, "Chinese train": 699,
            "Chinese valid": 101, "Chinese test": 200},
    notes=("Published both in three classes (protocol single_label) and as offensive or hateful against normal.",),
)  # fmt: skip
COLUMNS = (
    Column(id="offensive", name="Offensive", accepts=("harassment",)),
    Column(id="hateful", name="Hateful", accepts=("extremism.hate",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which part of it."""

    data: Path
    language: str = "English"
    split: str = "test"


def build(config: Config) -> Benchmark:
    """Read one TSV file and look for the videos. Raises `UsageError` or `InvalidManifest` for the label file."""
    if config.language not in LANGUAGES or config.split not in SPLITS:
        raise UsageError(
            f"multihateclip has the languages {', '.join(LANGUAGES)} and the splits {', '.join(SPLITS)}; "
            f"got {config.language!r} and {config.split!r}."
        )
    files = LabelFiles(config.data, ABOUT)
    folder = f"{config.language}_data"
    videos = VideoFolder(config.data, folder)
    found = Collector(benchmark="multihateclip", get=ABOUT.get)
    path = f"{folder}/annotation/{config.split}.tsv"
    for where, row in files.table(path, columns=("Video_ID", "Majority_Voting", "Duration"), delimiter="\t"):
        labels, name = pick(LABELS, row["Majority_Voting"], where, "Majority_Voting"), row["Video_ID"]
        spans = durations(row["Duration"], where)
        gold = Gold(
            name=f"{config.language}/{name}",
            labels=labels,
            stem=row["Majority_Voting"],
            split=config.split,
            spans_seconds=(spans or None) if labels else (),
        )
        found.video(videos.get(name), gold, wanted=f"{folder}/{name}.mp4")
    return finish(found, ABOUT, COLUMNS, data_hash=files.hash, protocols=("single_label", "spans"))


def durations(text: str, where: str) -> tuple[tuple[float, float], ...]:
    """Return stretches in seconds from `[(2, 10), (30, 40)]`."""
    try:
        return tuple((float(start), float(end)) for start, end in ast.literal_eval(text or "[]"))
    except (ValueError, SyntaxError, TypeError) as error:
        raise InvalidManifest(f"{where}: Duration is {text!r:.80}; it must be a list of pairs of seconds.") from error


def miniature(data: Path) -> Config:
    """Write three videos below `data`, in the real layout."""
    head = "Video_ID\tMajority_Voting\tLabel\tTarget_Victim\tComponent\tDuration\n"
    rows = (("aaaaaaaaaaa", "Hateful", "[(0, 1)]"), ("bbbbbbbbbbb", "Normal", "[]"), ("-ccccccccc_", "Offensive", "[]"))
    lines = [f"{name}\t{label}\t['{label}']\t[]\t[]\t{spans}\n" for name, label, spans in rows]
    path = data / "English_data/annotation/test.tsv"
    path.parent.mkdir(parents=True)
    path.write_text(head + "".join(lines), encoding="utf-8")
    for seed, (name, _, _) in enumerate(rows):
        write_tiny(data / "English_data/videos" / f"{name}.mp4", seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
