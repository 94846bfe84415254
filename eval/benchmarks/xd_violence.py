"""XD-Violence test split: 800 clips of films, games and cameras, labelled by their names and marked in frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from eval.building import finish
from eval.files import Collector, LabelFiles, VideoFolder
from eval.rendering import scratch, write_tiny
from eval.types import About, Benchmark, Column, Gold
from guard.errors import InvalidManifest

CODES = {
    "B1": Column(id="fighting", name="Fighting (B1)", accepts=("violence.fighting",)),
    "B2": Column(id="shooting", name="Shooting (B2)", accepts=("violence.shooting",)),
    "B4": Column(id="riot", name="Riot (B4)", accepts=("violence.riot",)),
    "B5": Column(id="abuse", name="Abuse (B5)", accepts=("harassment.abuse", "violence.assault")),
    "B6": Column(id="car_accident", name="Car accident (B6)", accepts=("accidents.road",)),
    "G": Column(id="explosion", name="Explosion (G)", accepts=("illegal.explosion",)),
}
_NAME = re.compile(r"(?P<title>.+?)__#.*_label_(?P<codes>[A-Z0-9-]+)")
LISTS = ("rgb_test.list", "list/rgb_test.list", "test.list")

ABOUT = About(
    title="XD-Violence, test split (video level, and frames)",
    kind="video",
    source="Wu et al., ECCV 2020; Roc-Ng/XDVioDet",
    licence="for research; footage rights are third parties'",
    get="Download test videos, annotations.txt and list/rgb_test.list from the project page of XD-Violence.",
    layout=("annotations.txt", "rgb_test.list (or list/rgb_test.list)", "videos: <name>.mp4 in any folders below"),
    counts={"videos": 800, "violent": 500, "normal": 300},
    notes=(
        "Video level is any column against none. Car accidents (B6) are outside the default taxonomy: numbers are "
        "given with and without clips of them alone.",
        "Frame level: ap_trapezoid is the customary number, and flatters; average_precision has no interpolation.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is."""

    data: Path


def build(config: Config) -> Benchmark:
    """Read list and annotation and look for the videos. Raises `UsageError` or `InvalidManifest` for a label file."""
    files = LabelFiles(config.data, ABOUT)
    spans = dict(_spans(line, where) for where, line in files.lines("annotations.txt", "list/annotations.txt"))
    videos = VideoFolder(config.data, ".")
    found = Collector(benchmark="xd_violence", get=ABOUT.get)
    for name, where in _names(files).items():
        title, labels, codes = parse_name(name, where)
        if labels and name not in spans:
            raise InvalidManifest(f"{where}: {name!r} is violent and has no line in annotations.txt.")
        gold = Gold(name=name, labels=labels, stem=codes, group=title, spans_frames=spans.get(name, ()))
        found.video(videos.get(name), gold, wanted=f"{name}.mp4")
    return finish(
        found,
        ABOUT,
        tuple(CODES.values()),
        data_hash=files.hash,
        protocols=("frames_xd",),
        subsets={"without car accidents (B6) alone": frozenset({"B6-0-0"})},
    )


def parse_name(name: str, where: str) -> tuple[str, tuple[str, ...], str]:
    """Return title, columns and codes of `<title>__#<start>_<end>_label_<codes>`; codes are joined by `-`, 0 pads."""
    match = _NAME.fullmatch(name)
    codes = match["codes"].split("-") if match else []
    unknown = [code for code in codes if code not in CODES and code not in ("A", "0")]
    if match is None or unknown:
        allowed = ", ".join((*CODES, "A", "0"))
        raise InvalidManifest(f"{where}: {name!r} must end in _label_ and codes out of {allowed}, joined by '-'.")
    return match["title"], tuple(CODES[code].id for code in codes if code in CODES), match["codes"]


def _names(files: LabelFiles) -> dict[str, str]:
    """Return each name of the list once; the list has five crops of a video, as `<name>__0.npy` to `__4.npy`."""
    names: dict[str, str] = {}
    for where, line in files.lines(*LISTS):
        name = re.sub(r"__[0-4]$", "", line.rsplit("/", 1)[-1].removesuffix(".npy").removesuffix(".mp4"))
        names.setdefault(name, where)
    return names


def _spans(line: str, where: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    name, *numbers = line.split()
    try:
        values = [int(number) for number in numbers]
        spans = tuple(zip(values[::2], values[1::2], strict=True))
    except ValueError as error:
        raise InvalidManifest(f"{where} is {line!r:.80}; it must be a name and pairs of frames.") from error
    return name.removesuffix(".mp4"), spans


def miniature(data: Path) -> Config:
    """Write three clips below `data`, in the real layout."""
    names = {
        "Bad.Film__#00-01-00_00-02-00_label_B1-B6-0": "1 3 5 7",
        "Bad.Film__#00-05-00_00-06-00_label_G-0-0": "0 6",
        "v=abcdefghijk__#1_label_A": "",
    }
    crops = [f"/features/RGBTest/{name}__{crop}.npy\n" for name in names for crop in range(5)]
    (data / "rgb_test.list").write_text("".join(crops), encoding="utf-8")
    lines = [f"{name} {spans}\n" for name, spans in names.items() if spans]
    (data / "annotations.txt").write_text("".join(lines), encoding="utf-8")
    for seed, name in enumerate(names):
        write_tiny(data / "videos" / f"{name}.mp4", seed)
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
