"""Harmful texts on Mastodon: 3,000 posts with several labels each, for personal policies on text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.files import LabelFiles
from eval.rendering import scratch
from eval.texts import ALL, Entry, checked, finish_texts, flag
from eval.types import About, Benchmark, Column

COLUMNS = (
    Column(id="negative", name="Negative", accepts=("negativity",)),
    Column(id="spam", name="Spam", accepts=("spam",)),
    Column(id="toxic", name="Toxic", accepts=("toxicity",)),
)
ABOUT = About(
    title="Harmful texts on Mastodon (negative, spam, toxic)",
    kind="text",
    source="arXiv 2511.05532; ChaseLabs/Harmful-Texts-On-Mastodon",
    licence="not stated",
    get="Export ChaseLabs/Harmful-Texts-On-Mastodon from the Hugging Face hub to mastodon.csv.",
    layout=("mastodon.csv: text, negative, spam, toxic (0 or 1 each)",),
    counts={"texts": 3000, "benign": 1907, "negative": 1202, "spam": 371, "toxic": 532},
    notes=("The published files were not seen: rename their columns to those above.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is."""

    data: Path


def build(config: Config) -> Benchmark:
    """Read the posts. Raises `UsageError` or `InvalidManifest` for the file."""
    files = LabelFiles(config.data, ABOUT)
    return finish_texts("mastodon", ABOUT, COLUMNS, _rows(files), files, split=ALL)


def _rows(files: LabelFiles) -> Iterator[Entry]:
    columns = ("text", *(column.id for column in COLUMNS))
    for number, (where, row) in enumerate(files.table("mastodon.csv", columns=columns)):
        labels = checked(where, lambda row=row: {c.id: flag(row[c.id]) for c in COLUMNS})  # type: ignore[misc]
        yield Entry(name=str(number), text=row["text"], labels=labels)


def miniature(data: Path) -> Config:
    """Write three posts below `data`."""
    text = "text,negative,spam,toxic\ngood morning all,0,0,0\nbuy followers now,0,1,0\nyou absolute idiot,1,0,1\n"
    (data / "mastodon.csv").write_text(text, encoding="utf-8")
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
