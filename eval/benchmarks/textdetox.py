"""TextDetox: toxic sentences and their neutral rewrites, or the labelled multilingual set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import LabelFiles
from eval.rendering import scratch
from eval.texts import ALL, Entry, checked, finish_texts, flag, prepared
from eval.types import About, Benchmark, Column

COLUMNS = (Column(id="toxic", name="Toxic", accepts=("toxicity",)),)
ABOUT = About(
    title="TextDetox (toxic or not)",
    kind="text",
    source="textdetox/multilingual_toxicity_dataset; ParaDetox, Logacheva et al., ACL 2022",
    licence="openrail++",
    get="Export a language of textdetox/multilingual_toxicity_dataset to <language>.csv.",
    layout=("<language>.csv: text, toxic (--set language=en)", "or paradetox.jsonl, labelled lines"),
    counts={"texts of a language": 5000},
    notes=(
        "ParaDetox lines: each toxic sentence and its rewrite are one group, so a classifier cannot win by topic. The "
        "embedded text classifier was trained on the train split of ParaDetox; val has other groups.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which part of it."""

    data: Path
    language: str = "en"
    split: str = "val"
    """Of labelled lines; a CSV always counts whole."""


def build(config: Config) -> Benchmark:
    """Read the texts. Raises `UsageError` or `InvalidManifest` for the file."""
    files = LabelFiles(config.data, ABOUT)
    if (config.data / "paradetox.jsonl").exists():
        entries = prepared(files, "paradetox.jsonl", _labels)
        return finish_texts("textdetox", ABOUT, COLUMNS, entries, files, split=config.split)
    entries = _published(files, config.language)
    return finish_texts("textdetox", ABOUT, COLUMNS, entries, files, split=ALL)


def _labels(raw: Mapping[str, Any]) -> dict[str, int]:
    return {"toxic": flag(raw["toxic"])}


def _published(files: LabelFiles, language: str) -> Iterator[Entry]:
    rows = files.table(f"{language}.csv", columns=("text", "toxic"))
    for number, (where, row) in enumerate(rows):
        labels = checked(where, lambda row=row: _labels(row))  # type: ignore[misc]
        yield Entry(name=f"{language}-{number}", text=row["text"], labels=labels, language=language)


def miniature(data: Path) -> Config:
    """Write three sentences below `data`."""
    text = "text,toxic\nyou are a moron,1\nthanks for the help,0\nwhat a lovely day,0\n"
    (data / "en.csv").write_text(text, encoding="utf-8")
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
