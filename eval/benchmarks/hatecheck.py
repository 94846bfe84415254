"""HateCheck: functional tests of hate detection, in English or (multilingual) in ten more languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import LabelFiles, pick
from eval.rendering import scratch
from eval.texts import ALL, Entry, finish_texts, flag, prepared
from eval.types import About, Benchmark, Column

LABELS = {"hateful": 1, "non-hateful": 0}
COLUMNS = (Column(id="hate", name="Hate", accepts=("extremism.hate",)),)
ABOUT = About(
    title="HateCheck (functional tests, by functionality)",
    kind="text",
    source="Röttger et al., ACL 2021, arXiv 2012.15606; multilingual: Röttger et al. 2022",
    licence="CC BY 4.0",
    get="Take test_suite_cases.csv from paul-rottger/hatecheck-data.",
    layout=(
        "test_suite_cases.csv: functionality, case_id, test_case, label_gold",
        "or hatecheck.jsonl, labelled lines (multilingual_hatecheck.jsonl with --set multilingual=true)",
    ),
    counts={"texts": 3728, "hateful": 2563, "non-hateful": 1165},
    notes=("For measuring only: no system here was trained on it. Accuracy by functionality is under stems.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which part of it."""

    data: Path
    split: str = ALL
    multilingual: bool = False


def build(config: Config) -> Benchmark:
    """Read the texts. Raises `UsageError` or `InvalidManifest` for the file."""
    files = LabelFiles(config.data, ABOUT)
    name = "multilingual_hatecheck.jsonl" if config.multilingual else "hatecheck.jsonl"
    if config.multilingual or (config.data / name).exists():
        entries = prepared(files, name, _labels, stem=lambda raw: str(raw.get("functionality", "")))
        return finish_texts("hatecheck", ABOUT, COLUMNS, entries, files, split=config.split)
    return finish_texts("hatecheck", ABOUT, COLUMNS, _published(files), files, split=ALL)


def _labels(raw: Mapping[str, Any]) -> dict[str, int]:
    return {"hate": flag(raw["hateful"])}


def _published(files: LabelFiles) -> Iterator[Entry]:
    columns = ("functionality", "case_id", "test_case", "label_gold")
    for where, row in files.table("test_suite_cases.csv", columns=columns):
        label = pick(LABELS, row["label_gold"], where, "label_gold")
        # Cases made from one template differ in the group that they name: they are near copies.
        group = row.get("templ_id") or row["case_id"]
        yield Entry(
            name=row["case_id"], text=row["test_case"], labels={"hate": label}, group=group, stem=row["functionality"]
        )


def miniature(data: Path) -> Config:
    """Write three cases below `data`, in the published form."""
    head = "functionality,case_id,test_case,label_gold\n"
    rows = 'derog_neg_emote_h,1,"I hate them, all.",hateful\n', "ident_neutral_nh,2,We are them.,non-hateful\n"
    text = head + "".join((*rows, "counter_quote_nh,3,Saying so is wrong.,non-hateful\n"))
    (data / "test_suite_cases.csv").write_text(text, encoding="utf-8")
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
