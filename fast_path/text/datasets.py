"""Read the labelled text sets, and say which of our categories each source speaks of.

A row has a label 1, 0 or *unknown* for every category: a source that marks hate speech says nothing of spam. What a
source's labels mean is written once, in `_READERS`; HateCheck and XSTest are for measuring and refuse to be trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard.errors import InvalidManifest

CATEGORIES: tuple[str, ...] = (
    "toxicity", "extremism.hate", "harassment", "violence", "extremism.self_harm", "spam", "negativity",
)  # fmt: skip
"""Categories that some source labels, in column order. `sexual` is not among them: no source here labels it."""

MEASURE_ONLY = frozenset({"hatecheck", "multilingual_hatecheck", "simple_safety_tests", "xstest"})
"""Test suites, and one source whose licence forbids commercial use."""

Labels = Mapping[str, int]
Reader = Callable[[Mapping[str, Any]], Labels]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """One labelled text."""

    id: str
    source: str
    text: str
    labels: Labels
    """Category id to 1 or 0; a category that is absent is unknown."""
    split: str
    """`train`, `val` or `test`."""
    group: str
    """Rows of one group are near copies and never parted."""
    raw: Mapping[str, Any]
    """The source's own labels, for benchmarks."""
    language: str = "en"


def _offensive(key: str) -> Reader:
    return lambda raw: {"toxicity": int(raw[key])}


def _davidson(raw: Mapping[str, Any]) -> Labels:
    kind = raw["class"]
    return {"toxicity": int(kind != "neither"), "extremism.hate": int(kind == "hate_speech")}


def _olid(raw: Mapping[str, Any]) -> Labels:
    if not int(raw["offensive"]):
        return {"toxicity": 0, "extremism.hate": 0, "harassment": 0}
    labels = {"toxicity": 1}
    if raw["c"] == "IND":
        labels["harassment"] = 1  # an insult or threat aimed at one person
    elif raw["b"] == "UNT":
        labels["harassment"] = 0  # swearing at nobody
    return labels


def _ethos(raw: Mapping[str, Any]) -> Labels:
    share = float(raw["score"])
    if share >= 0.5:
        return {"extremism.hate": 1, "toxicity": 1}
    return {"extremism.hate": 0} if share <= 0.35 else {}  # annotators were split


def _hateful(raw: Mapping[str, Any]) -> Labels:
    return {"extremism.hate": 1, "toxicity": 1} if int(raw["hateful"]) else {"extremism.hate": 0}


def _md_agreement(raw: Mapping[str, Any]) -> Labels:
    return {"toxicity": 1} if int(raw["offensive"]) else {"toxicity": 0, "extremism.hate": 0}


def _openai(raw: Mapping[str, Any]) -> Labels:
    own = {"hate": "extremism.hate", "violence": "violence", "harassment": "harassment"}
    own["self_harm"] = "extremism.self_harm"
    labels = {ours: int(raw[key]) for key, ours in own.items() if raw.get(key) is not None}
    if raw.get("violence_graphic"):
        labels["violence"] = 1
    if raw.get("hate_threatening"):
        labels |= {"extremism.hate": 1, "violence": 1}
    if labels.get("extremism.hate") or labels.get("harassment"):
        labels["toxicity"] = 1
    return labels


def _paradetox(raw: Mapping[str, Any]) -> Labels:
    return {"toxicity": 1} if int(raw["toxic"]) else {"toxicity": 0, "extremism.hate": 0, "harassment": 0}


def _convabuse(raw: Mapping[str, Any]) -> Labels:
    abusive = int(raw["abusive"])
    return {"toxicity": abusive, "harassment": abusive}


def _popquorn(raw: Mapping[str, Any]) -> Labels:
    mean = float(raw["mean_offensiveness_1to5"])
    if mean >= 3.0:
        return {"toxicity": 1}
    return {"toxicity": 0} if mean <= 2.0 else {}  # between, people differ


def _prompts(raw: Mapping[str, Any]) -> Labels:
    """Questions and requests put to chat models; only the areas that are ours."""
    kind = {raw.get("sub"), raw.get("area"), raw.get("set")}
    labels: dict[str, int] = {}
    for names, category in _PROMPT_KINDS:
        if kind & names:
            labels[category] = 1
    if raw.get("set") == "I-Alpaca":
        labels = dict.fromkeys(("toxicity", "extremism.hate", "harassment", "violence", "extremism.self_harm"), 0)
    if raw.get("area") and "extremism.self_harm" not in labels:
        labels["extremism.self_harm"] = 0
    return labels


_PROMPT_KINDS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"Self-harm", "Suicide, Self-Harm, and Eating Disorders"}), "extremism.self_harm"),
    (frozenset({"Racial or ethnic hate", "Religious intolerance", "I-CoNa"}), "extremism.hate"),
    (frozenset({"Assault and battery", "Gender-based violence", "Physical harm and Violence"}), "violence"),
    (frozenset({"Terrorism and extremism"}), "violence"),
    (frozenset({"Cyberbullying"}), "harassment"),
)

_READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "catqa": _prompts,
        "context_toxicity": _offensive("toxic_no_context"),
        "convabuse": _convabuse,
        "davidson": _davidson,
        "ethos": _ethos,
        "hatecheck": lambda raw: {"extremism.hate": int(raw["hateful"])},
        "lewidi_hs-brexit": _hateful,
        "lewidi_md-agreement": _md_agreement,
        "multilingual_hatecheck": lambda raw: {"extremism.hate": int(raw["hateful"])},
        "olid": _olid,
        "openai_moderation": _openai,
        "paradetox": _paradetox,
        "popquorn_offensiveness": _popquorn,
        "safety_tuned_llamas": _prompts,
        "simple_safety_tests": _prompts,
        "sst2": lambda raw: {"negativity": int(raw["negative_sentiment"])},
        "uci_sms_spam": lambda raw: {"spam": int(raw["spam"])},
        "xstest": lambda raw: {},
    }
)

TRAINING_SOURCES: tuple[str, ...] = tuple(name for name in _READERS if name not in MEASURE_ONLY)


def read_source(data_dir: Path, source: str) -> list[TextRow]:
    """Read `source`.jsonl, rows in file order.

    Raises:
        InvalidManifest: the file is absent, a line is damaged, or the source is unknown.
    """
    if source not in _READERS:
        raise InvalidManifest(f"No text source is called {source!r}; there are: {', '.join(_READERS)}.")
    path = data_dir / f"{source}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidManifest(f"{path} could not be read: {error}.") from error
    return [_parse(line, f"{path}, line {number}", source) for number, line in enumerate(lines, 1) if line.strip()]


def _parse(line: str, where: str, source: str) -> TextRow:
    try:
        row = json.loads(line)
        return TextRow(
            id=row["id"],
            source=source,
            text=row["text"],
            labels=dict(_READERS[source](row["labels"])),
            split=row["split"],
            group=row["dup_group"],
            raw=row["labels"],
            language=row["lang"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidManifest(f"{where} is not a labelled text: {error!r}.") from error


def training_rows(data_dir: Path, sources: Sequence[str] = TRAINING_SOURCES) -> list[TextRow]:
    """Read the train rows of `sources` that carry a label. Raises `InvalidManifest` for one that is for measuring."""
    forbidden = MEASURE_ONLY.intersection(sources)
    if forbidden:
        raise InvalidManifest(f"{', '.join(sorted(forbidden))} may be measured on, never trained on.")
    return [row for source in sources for row in read_source(data_dir, source) if row.split == "train" and row.labels]


def label_matrix(rows: Sequence[TextRow], categories: Sequence[str] = CATEGORIES) -> NDArray[np.int8]:
    """Return int8 [N, C]: 1, 0, or -1 where the label is unknown."""
    return np.array([[row.labels.get(c, -1) for c in categories] for row in rows], dtype=np.int8).reshape(
        len(rows), len(categories)
    )
