"""Reading SafeWatch-Bench: six categories, 34 label files a domain, 28 of violations and 6 of harmless clips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from eval.files import Collector, LabelFiles
from eval.metrics.safewatch import BENIGN, STEMS, WARNING
from eval.rendering import write_tiny
from eval.types import About, Column, Gold
from guard.errors import InvalidManifest, UsageError

COLUMNS = tuple(
    Column(id=code, name=name, accepts=(category,))
    for code, name, category in (
        ("C1", "Sexual content", "sexual"),
        ("C2", "Harassment and bullying", "harassment"),
        ("C3", "Threats, violence and harm", "violence"),
        ("C4", "False and deceptive information", "deception"),
        ("C5", "Illegal or regulated activities", "illegal"),
        ("C6", "Hateful content and extremism", "extremism"),
    )
)
"""Mapped by name, not by place: our taxonomy has the same six roots."""

GET = (
    "Ask for access to Virtue-AI-HUB/SafeWatch-Bench on the Hugging Face hub (form and manual approval, which takes "
    "days to weeks) and download it whole."
)
NOTES = (
    WARNING,
    "How many clips a file must have is not published, so a copy with fewer cannot be told from a whole one; files "
    "that are missing are named.",
    "Published results: real, average accuracy 0.726 for SafeWatch-8B (its paper); SafeLens reports seven classes, "
    "which is the protocol single_label and another number.",
)


def about(domain: str) -> About:
    """Return what the benchmark of one domain is."""
    return About(
        title=f"SafeWatch-Bench, {domain} videos",
        kind="video",
        source="Chen et al., ICLR 2025, arXiv 2412.06878; BillChan226/SafeWatch",
        licence="Apache-2.0 tag; gated; footage rights are third parties'",
        get=GET,
        layout=(
            f"{domain}/C1..C6/<stem>_benchmark.json (34 files)",
            f"{domain}/videos/C1..C6/<stem>_benchmark/<n>.mp4",
        ),
        counts={"label files": 34, "of violations": 28, "of harmless clips": 6},
        notes=NOTES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and how harmless clips are labelled."""

    data: Path
    """The folder that holds `real` and `genai`."""
    benign_labels: str = "empty"
    """`empty`: a harmless clip violates nothing; `folder`: it is labelled with the category whose folder it lies in,
    which is an error that some users' copies have, and is here to reproduce their numbers."""
    partial_ok: bool = False
    """Read what is there though label files are missing; they are then counted as missing items."""


@dataclass(slots=True)
class Read:
    """The entries of one domain."""

    entries: list[tuple[Path, Gold, str]] = field(default_factory=list)
    """Path, gold, and the path as the label file has it."""
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(files: LabelFiles, domain: Literal["real", "genai"], config: Config) -> Read:
    """Return every entry of a domain.

    Raises:
        UsageError: label files are missing and `partial_ok` is false, or none is there.
        InvalidManifest: an entry has no usable path or label.
    """
    if config.benign_labels not in ("empty", "folder"):
        raise UsageError(f"--benign-labels takes empty or folder; got {config.benign_labels!r}.")
    names = [f"{domain}/{code}/{stem}_benchmark.json" for code in STEMS for stem in STEMS[code]]
    made = Read(absent=[name for name in names if not (files.data / name).exists()])
    if made.absent and (not config.partial_ok or len(made.absent) == len(names)):
        files.find(made.absent[0])
    unknown = labelled_benign = 0
    for name in names:
        if name in made.absent:
            continue
        code, stem = name.split("/")[1], Path(name).name.removesuffix("_benchmark.json")
        for where, entry in _entries(files, name):
            if str(entry.get("video_path", "")).endswith(".unknown_video"):
                unknown += 1
                continue
            path, labels = _path(files.data, entry, where), _labels(entry, where)
            if stem == BENIGN:
                labelled_benign += bool(labels)
                labels = () if config.benign_labels == "empty" else (code,)
            gold = Gold(name=entry["video_path"], labels=labels, stem=stem, folder=code, domain=domain)
            made.entries.append((path, gold, str(entry["video_path"])))
    if unknown:
        made.notes.append(f"{unknown} entries end in .unknown_video and were left out.")
    if labelled_benign:
        made.notes.append(f"{labelled_benign} harmless clips carried labels, which --benign-labels replaced.")
    if config.benign_labels == "folder":
        made.notes.append("Harmless clips count as violations of their folder's category (--benign-labels folder).")
    return made


def collect(found: Collector, domain: Read, *, policy: str = "") -> None:
    """Add the entries of a domain, and its missing label files."""
    for path, gold, wanted in domain.entries:
        found.video(path, gold, wanted=wanted, policy=policy)
    for name in domain.absent:
        found.video(None, Gold(name=name), wanted=name, policy=policy)


def _entries(files: LabelFiles, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    path, text = files.text(name)
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise InvalidManifest(f"{path} is not JSON: {error}.") from error
    if not isinstance(entries, list):
        raise InvalidManifest(f"{path} must be a list of videos; it is {type(entries).__name__}.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or "video_path" not in entry or "labels" not in entry:
            raise InvalidManifest(f"{path}, entry {number} lacks video_path or labels.")
        yield f"{path}, entry {number}", entry


def _path(data: Path, entry: dict[str, Any], where: str) -> Path:
    """Return the file of an entry; the third part from the end names its category, as the evaluator has it."""
    parts = PurePosixPath(str(entry["video_path"])).parts
    if len(parts) < 3 or parts[-3] not in STEMS or ".." in parts:
        raise InvalidManifest(f"{where}: video_path is {entry['video_path']!r}; it must end in C1..C6/<stem>/<n>.mp4.")
    path = data.joinpath(*parts)
    return path if path.exists() or parts[0] != data.name else data.parent.joinpath(*parts)


def _labels(entry: dict[str, Any], where: str) -> tuple[str, ...]:
    codes = dict(enumerate(STEMS, 1))
    bad = [label for label in entry["labels"] if label not in codes]
    if bad:
        raise InvalidManifest(f"{where}: the label {bad[0]!r} must be a number from 1 to 6.")
    return tuple(dict.fromkeys(codes[label] for label in entry["labels"]))


def miniature(data: Path, domain: str, *, codes: Sequence[str] = tuple(STEMS)) -> Config:
    """Write one clip for each of the 34 stems below `data`, in the real layout."""
    seed = 0
    for code in codes:
        for stem in STEMS[code]:
            video = f"{domain}/videos/{code}/{stem}_benchmark/1.mp4"
            labels = [] if stem == BENIGN else [int(code[1])]
            path = data / domain / code / f"{stem}_benchmark.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            entries = [{"video_path": video, "labels": labels, "subcategories": [stem]}]
            path.write_text(json.dumps(entries), encoding="utf-8")
            write_tiny(data / video, seed)
            seed += 1
    return Config(data=data)
