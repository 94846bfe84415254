"""SST-2: sentences of film reviews; negative is the positive class here, as in the personal-policy protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import LabelFiles, pick
from eval.rendering import scratch
from eval.texts import ALL, Entry, finish_texts, flag, prepared
from eval.types import About, Benchmark, Column

LABELS = {"0": 1, "1": 0}
COLUMNS = (Column(id="negative", name="Negative", accepts=("negativity",)),)
ABOUT = About(
    title="SST-2, validation (negative or not)",
    kind="text",
    source="Socher et al., EMNLP 2013; GLUE",
    licence="not stated",
    get="Take dev.tsv of SST-2 from GLUE.",
    layout=("dev.tsv: sentence, label (1 positive, 0 negative)", "or sst2.jsonl, labelled lines"),
    counts={"texts": 872, "negative": 428, "positive": 444},
    notes=("Stands for a user who wants no negativity; nothing here is harmful.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which split of labelled lines."""

    data: Path
    split: str = "val"


def build(config: Config) -> Benchmark:
    """Read the texts. Raises `UsageError` or `InvalidManifest` for the file."""
    files = LabelFiles(config.data, ABOUT)
    if (config.data / "sst2.jsonl").exists():
        entries = prepared(files, "sst2.jsonl", _labels)
        return finish_texts("sst2", ABOUT, COLUMNS, entries, files, split=config.split)
    return finish_texts("sst2", ABOUT, COLUMNS, _published(files), files, split=ALL)


def _labels(raw: Mapping[str, Any]) -> dict[str, int]:
    return {"negative": flag(raw["negative_sentiment"])}


def _published(files: LabelFiles) -> Iterator[Entry]:
    rows = files.table("dev.tsv", columns=("sentence", "label"), delimiter="\t")
    for number, (where, row) in enumerate(rows):
        label = pick(LABELS, row["label"], where, "the label")
        yield Entry(name=str(number), text=row["sentence"], labels={"negative": label})


def miniature(data: Path) -> Config:
    """Write three sentences below `data`, in the published form."""
    text = "sentence\tlabel\none long string of cliches\t0\na delight\t1\nwarm and funny\t1\n"
    (data / "dev.tsv").write_text(text, encoding="utf-8")
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
