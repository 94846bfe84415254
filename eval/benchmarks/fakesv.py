"""FakeSV: short videos from Douyin and Kuaishou, fake or real news; grouped by the event that they speak of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles, VideoFolder, pick
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import InvalidManifest, UsageError

ANNOTATIONS = {"真": "real", "假": "fake", "辟谣": "debunk"}
SPLITS = {
    "all": "",
    **{f"temporal-{part}": f"data-split/temporal/vid_time3_{part}.txt" for part in ("train", "val", "test")},
    **{f"event-{fold}": f"data-split/event/vid_fold_{fold}.txt" for fold in range(1, 6)},
}

ABOUT = About(
    title="FakeSV (fake against real; debunking videos are left out)",
    kind="video",
    source="Qi et al., AAAI 2023, arXiv 2211.10973; ICTMCG/FakeSV",
    licence="by agreement with the authors",
    get="Sign the agreement of ICTMCG/FakeSV for data.json and data-split/; videos are those of the ids in it.",
    layout=("data.json (or dataset/data.json)", "data-split/ for --set split=...", "videos: <video_id>.mp4"),
    counts={"videos": 5495, "real": 1814, "fake": 1810, "debunk": 1871},
    notes=("Published numbers mix the event split and the temporal one; say which. --set split=all is neither.",),
)
COLUMNS = (Column(id="fake", name="Fake", accepts=("deception",)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which split."""

    data: Path
    split: str = "temporal-test"
    """`all`, `temporal-train`, `temporal-val`, `temporal-test`, or `event-1` to `event-5`."""


def build(config: Config) -> Benchmark:
    """Read the annotation and look for the videos. Raises `UsageError` or `InvalidManifest` for a label file."""
    files = LabelFiles(config.data, ABOUT)
    if config.split not in SPLITS:
        raise UsageError(f"fakesv has no split {config.split!r}; it has {', '.join(SPLITS)}.")
    wanted = _split_ids(files, SPLITS[config.split])
    videos = VideoFolder(config.data, "videos")
    found, debunked, seen = Collector(benchmark="fakesv", get=ABOUT.get), 0, set()
    for where, row in files.json_lines("data.json", "dataset/data.json"):
        lacking = [name for name in ("video_id", "keywords", "annotation") if name not in row]
        if lacking:
            raise InvalidManifest(f"{where} lacks {lacking[0]!r}.")
        kind, name = pick(ANNOTATIONS, str(row["annotation"]), where, "annotation"), str(row["video_id"])
        seen.add(name)
        if wanted is not None and name not in wanted:
            continue
        debunked += kind == "debunk"
        if kind != "debunk":
            gold = Gold(
                name=name,
                labels=("fake",) if kind == "fake" else (),
                stem=kind,
                group=str(row["keywords"]),
                split=config.split,
            )
            found.video(videos.get(name), gold, wanted=videos.wanted(name))
    unknown = sorted((wanted or set()) - seen)
    if unknown:
        name = SPLITS[config.split]
        raise InvalidManifest(f"{name} names the video {unknown[0]!r}, which data.json does not have.")
    note = f"Split {config.split}; {debunked} debunking videos were left out."
    return finish(found, ABOUT, COLUMNS, data_hash=files.hash, notes=(note,))


def _split_ids(files: LabelFiles, name: str) -> set[str] | None:
    return {line for _, line in files.lines(name, f"dataset/{name}")} if name else None


def miniature(data: Path) -> Config:
    """Write four videos of two events below `data`, in the real layout."""
    rows = (
        ("a1", "event one", "假"),
        ("a2", "event one", "真"),
        ("b1", "event two", "真"),
        ("b2", "event two", "辟谣"),
    )
    fields = ("video_id", "keywords", "annotation")
    lines = [json.dumps(dict(zip(fields, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
    (data / "data.json").write_text("".join(lines), encoding="utf-8")
    split = data / SPLITS["temporal-test"]
    split.parent.mkdir(parents=True)
    split.write_text("".join(f"{name}\n" for name, _, _ in rows), encoding="utf-8")
    for seed, (name, _, _) in enumerate(rows):
        write_tiny(data / "videos" / f"{name}.mp4", seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
