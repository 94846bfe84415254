"""UCI SMS Spam Collection: 5,574 messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import LabelFiles, pick
from eval.rendering import scratch
from eval.texts import ALL, Entry, finish_texts, flag, prepared
from eval.types import About, Benchmark, Column
from guard.errors import InvalidManifest

LABELS = {"spam": 1, "ham": 0}
COLUMNS = (Column(id="spam", name="Spam", accepts=("spam",)),)
ABOUT = About(
    title="UCI SMS spam",
    kind="text",
    source="Almeida et al., DocEng 2011",
    licence="CC BY 4.0",
    get="Take SMSSpamCollection from the UCI repository, data set 228.",
    layout=("SMSSpamCollection: label and text, parted by a tab", "or uci_sms_spam.jsonl, labelled lines"),
    counts={"texts": 5574, "spam": 747, "ham": 4827},
    notes=("The embedded text classifier was trained on the train split of the labelled lines; val has other groups.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where the data is, and which split of labelled lines."""

    data: Path
    split: str = "val"


def build(config: Config) -> Benchmark:
    """Read the texts. Raises `UsageError` or `InvalidManifest` for the file."""
    files = LabelFiles(config.data, ABOUT)
    if (config.data / "uci_sms_spam.jsonl").exists():
        entries = prepared(files, "uci_sms_spam.jsonl", _labels)
        return finish_texts("sms_spam", ABOUT, COLUMNS, entries, files, split=config.split)
    return finish_texts("sms_spam", ABOUT, COLUMNS, _published(files), files, split=ALL)


def _labels(raw: Mapping[str, Any]) -> dict[str, int]:
    return {"spam": flag(raw["spam"])}


def _published(files: LabelFiles) -> Iterator[Entry]:
    for number, (where, line) in enumerate(files.lines("SMSSpamCollection")):
        label, tab, text = line.partition("\t")
        if not tab:
            raise InvalidManifest(f"{where} has no tab between label and text.")
        yield Entry(name=str(number), text=text, labels={"spam": pick(LABELS, label, where, "the label")})


def miniature(data: Path) -> Config:
    """Write three messages below `data`, in the published form."""
    text = "ham\tsee you at six\nspam\tWINNER! Claim your prize now, call 0900\nham\tok then\n"
    (data / "SMSSpamCollection").write_text(text, encoding="utf-8")
    return Config(data=data)


def tiny() -> Benchmark:
    """Return the miniature."""
    return build(miniature(scratch()))
