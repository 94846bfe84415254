"""Measure the embedded text classifier: `python benchmarks/text_quality.py --data DIR` writes `text_quality.json`.

Every number has a 95 % interval from 1,000 bootstrap draws of whole groups of near copies. Peers: always-safe, and the
keyword list of `text_keywords.py`. HateCheck, XSTest and SimpleSafetyTests are never trained on. The moderation set of
Markov et al. is small, so its rows are scored out of fold: by weights that saw neither the row nor its near copies.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from text_keywords import KEYWORDS, keyword_hits

from fast_path.metrics import auroc, average_precision, estimate
from fast_path.text import classifier as text_classifier
from fast_path.text.classifier import Config, TextClassifier, TextScores
from fast_path.text.datasets import TRAINING_SOURCES, TextRow, read_source
from fast_path.text.fit import FitConfig, calibrate, corpus, cross_fit, fit, matrix_logits

Truth = NDArray[np.bool_]
VALIDATION = (  # source, category, and what a positive is
    ("uci_sms_spam", "spam", "spam"),
    ("davidson", "toxicity", "hate speech or offensive"),
    ("davidson", "extremism.hate", "hate speech"),
    ("olid", "toxicity", "offensive"),
    ("olid", "harassment", "insult aimed at one person"),
    ("lewidi_md-agreement", "toxicity", "offensive"),
    ("convabuse", "harassment", "abuse of a chat bot"),
    ("paradetox", "toxicity", "toxic"),
    ("ethos", "extremism.hate", "hateful"),
    ("sst2", "negativity", "negative review"),
)


def f1_at(threshold: float) -> Any:
    def metric(truth: Truth, score: NDArray[np.float64]) -> float:
        flagged = score >= threshold
        return float(2 * np.sum(truth & flagged) / max(1, np.sum(truth) + np.sum(flagged)))

    return metric


def measured(truth: Truth, score: NDArray[np.float64], words: NDArray[np.float64], rows: Sequence[TextRow]) -> Any:
    """Return every metric of one category on one set, with the peers'."""
    groups = [row.group for row in rows]
    both = {
        "f1": estimate(f1_at(0.5), truth, score, groups),
        "auprc": estimate(average_precision, truth, score, groups),
        "auroc": estimate(auroc, truth, score, groups),
        "keywords_f1": estimate(f1_at(1.0), truth, words, groups),
        "keywords_auprc": estimate(average_precision, truth, words, groups),
    }
    return {
        **{name: value.as_dict() for name, value in both.items()},
        "always_safe": {"f1": 0.0, "auprc": float(truth.mean())},
        "precision": _ratio(truth & (score >= 0.5), score >= 0.5),
        "recall": _ratio(truth & (score >= 0.5), truth),
        "calibration_error": calibration_error(truth, score),
        "routed": routed(truth, score),
    }


def _ratio(part: Truth, whole: Truth) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def calibration_error(truth: Truth, score: NDArray[np.float64], bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal count."""
    parts = np.array_split(np.argsort(score, kind="stable"), bins)
    return float(sum(len(p) * abs(truth[p].mean() - score[p].mean()) for p in parts if len(p)) / len(score))


def routed(truth: Truth, score: NDArray[np.float64]) -> dict[str, Any]:
    """Return what the default thresholds 0.1 and 0.9 do, and the errors among what they settle."""
    clear, block = score < 0.1, score >= 0.9
    return {
        "cleared": int(clear.sum()), "cleared_but_violating": int((clear & truth).sum()),
        "escalated": int((~clear & ~block).sum()),
        "blocked": int(block.sum()), "blocked_but_fine": int((block & ~truth).sum()),
    }  # fmt: skip


def probabilities(model: TextClassifier, rows: Sequence[TextRow], category: str) -> NDArray[np.float64]:
    return np.array([s.scores.of(category) for s in model.score([row.text for row in rows])], dtype=np.float64)


def validation(model: TextClassifier, data: Path) -> dict[str, Any]:
    found = {}
    for source, category, positive in VALIDATION:
        rows = [r for r in read_source(data, source) if r.split == "val" and category in r.labels]
        truth = np.array([r.labels[category] == 1 for r in rows])
        words = keyword_hits([r.text for r in rows], category)
        result = measured(truth, probabilities(model, rows, category), words, rows)
        found[f"{source}:{category}"] = {"positive_is": positive, **result}
    return found


def moderation_set(data: Path) -> dict[str, Any]:
    """Score the moderation set out of fold, and by weights that never saw any of its rows."""
    names = ("extremism.hate", "harassment", "violence", "extremism.self_harm")
    config = FitConfig(categories=names, folds=5)
    others = [r for s in TRAINING_SOURCES if s not in ("openai_moderation", "sst2") for r in read_source(data, s)]
    others = [r for r in others if r.split == "train" and (set(r.labels) & set(names))]
    own = read_source(data, "openai_moderation")
    all_rows = corpus([*others, *own], config)
    logits = cross_fit(all_rows, config)
    slope, offset = calibrate(logits, all_rows.labels)
    inside = np.arange(len(others), len(all_rows))
    groups_inside = set(all_rows.groups[inside].tolist())
    outside = np.array([i for i in range(len(others)) if all_rows.groups[i] not in groups_inside])
    foreign = matrix_logits(fit(all_rows, outside, config), all_rows.bags)
    found = {}
    for column, category in enumerate(names):
        at = inside[all_rows.labels[inside, column] >= 0]
        rows = [all_rows.rows[i] for i in at]
        truth = all_rows.labels[at, column] == 1
        score = 1 / (1 + np.exp(-(slope[column] * logits[at, column] + offset[column]).astype(np.float64)))
        result = measured(truth, score, keyword_hits([r.text for r in rows], category), rows)
        trained = all_rows.labels[outside, column]
        if min((trained == 1).sum(), (trained == 0).sum()) > 0:
            groups = [r.group for r in rows]
            value = foreign[at, column].astype(np.float64)
            result["auprc_without_its_rows"] = estimate(average_precision, truth, value, groups).as_dict()
        found[category] = result
    return found


def hatecheck(model: TextClassifier, data: Path) -> dict[str, Any]:
    """Per functionality: how often hate and toxicity are cleared, escalated, blocked; accuracy at one half."""
    rows = read_source(data, "hatecheck")
    scored = {c: probabilities(model, rows, c) for c in ("extremism.hate", "toxicity")}
    words = keyword_hits([r.text for r in rows], "extremism.hate")
    truth = np.array([r.labels["extremism.hate"] == 1 for r in rows])
    table = {}
    for name in dict.fromkeys(str(r.raw["functionality"]) for r in rows):
        at = np.array([r.raw["functionality"] == name for r in rows])
        hateful = bool(truth[at][0])
        either = np.maximum(scored["extremism.hate"], scored["toxicity"])[at]
        table[name] = {
            "hateful": hateful,
            "cases": int(at.sum()),
            "hate_correct": float(np.mean((scored["extremism.hate"][at] >= 0.5) == hateful)),
            "hate_or_toxicity_correct": float(np.mean((either >= 0.5) == hateful)),
            "keywords_correct": float(np.mean((words[at] >= 1) == hateful)),
            "hate_or_toxicity_cleared": float(np.mean(either < 0.1)),
            "hate_or_toxicity_blocked": float(np.mean(either >= 0.9)),
        }
    both = np.maximum(scored["extremism.hate"], scored["toxicity"])
    overall = {"hate": measured(truth, scored["extremism.hate"], words, rows)}
    overall["hate_or_toxicity"] = measured(truth, both, words, rows)
    return {"functionality": table, "overall": overall}


def refusal_suites(model: TextClassifier, data: Path) -> dict[str, Any]:
    """XSTest: safe prompts that look unsafe. SimpleSafetyTests: prompts that are."""
    found: dict[str, Any] = {}
    kinds: dict[str, list[float]] = {}
    harmful = [c for c in model.categories if c != "negativity"]  # a sad sentence is no harm
    rows = read_source(data, "xstest")
    for row, scored in zip(rows, model.score([r.text for r in rows]), strict=True):
        top = max(scored.scores.of(c) or 0.0 for c in harmful)
        kinds.setdefault(f"{'unsafe' if row.raw['unsafe_prompt'] else 'safe'}:{row.raw['type']}", []).append(top)
    found["xstest_flagged_at_half"] = {
        kind: {"cases": len(v), "flagged": int(np.sum(np.array(v) >= 0.5))} for kind, v in sorted(kinds.items())
    }
    areas: dict[str, list[float]] = {}
    rows = read_source(data, "simple_safety_tests")
    for row, scored in zip(rows, model.score([r.text for r in rows]), strict=True):
        areas.setdefault(str(row.raw["area"]), []).append(max(scored.scores.of(c) or 0.0 for c in harmful))
    found["simple_safety_tests"] = {
        area: {"cases": len(v), "flagged": int(np.sum(np.array(v) >= 0.5)), "cleared": int(np.sum(np.array(v) < 0.1))}
        for area, v in sorted(areas.items())
    }
    return found


def unread_languages(model: TextClassifier, data: Path) -> dict[str, Any]:
    """Return the share of texts that count as not read, by language: it should be near 1 but for English."""
    rows = read_source(data, "multilingual_hatecheck")
    by: dict[str, list[TextScores]] = {}
    for row, scored in zip(rows[::7], model.score([r.text for r in rows[::7]]), strict=True):
        by.setdefault(row.language, []).append(scored)
    for source in ("hatecheck", "uci_sms_spam", "davidson", "openai_moderation", "sst2"):
        english = [r for r in read_source(data, source) if r.split != "train"]
        by[f"english:{source}"] = model.score([r.text for r in english])
    return {
        name: {"texts": len(v), "not_read": float(np.mean([s.coverage.frames_scored == 0 for s in v]))}
        for name, v in sorted(by.items())
    }


def disguises(model: TextClassifier, data: Path) -> dict[str, Any]:
    """AUROC of toxicity when the toxic half disguises one word in three, against the same list of keywords."""
    rows = [r for r in read_source(data, "paradetox") if r.split == "val"]
    truth = np.array([r.labels["toxicity"] == 1 for r in rows])
    rng = random.Random(0)  # noqa: S311
    found = {}
    for name, change in _DISGUISES.items():
        texts = [_disguise(r.text, change, rng) if r.labels["toxicity"] else r.text for r in rows]
        hidden = [replace(r, text=t) for r, t in zip(rows, texts, strict=True)]
        score = probabilities(model, hidden, "toxicity")
        words = keyword_hits(texts, "toxicity")
        found[name] = {
            "auroc": estimate(auroc, truth, score, [r.group for r in rows]).as_dict(),
            "recall_at_half": float(np.mean(score[truth] >= 0.5)),
            "keywords_recall": float(np.mean(words[truth] >= 1)),
        }
    return found


_DISGUISES: dict[str, Any] = {
    "none": lambda w: w,
    "leet": lambda w: w.translate(str.maketrans("aeios", "4310$")),
    "zero width": lambda w: "\u200b".join(w),
    "spaced": lambda w: " ".join(w),
    "full width": lambda w: "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in w),
    "cyrillic": lambda w: w.translate(str.maketrans("aeopcyx", "аеорсух")),
    "stretched": lambda w: w[:1] + w[1:2] * 4 + w[2:],
    "letter dropped": lambda w: w[:1] + w[2:] if len(w) > 3 else w,
    "starred": lambda w: w[:1] + "*" + w[2:] if len(w) > 2 else w,
}


def _disguise(text: str, change: Any, rng: random.Random) -> str:
    """Change the words that the keyword list would find, and one in three of the others."""
    listed = tuple(KEYWORDS["toxicity"])
    return " ".join(change(w) if w.startswith(listed) or rng.random() < 1 / 3 else w for w in text.split())


def speed(model: TextClassifier, data: Path) -> dict[str, Any]:
    texts = [r.text for r in read_source(data, "olid")[:2000]]
    timed = []
    for _ in range(5):
        a = time.process_time()
        model.score(texts)
        b = time.process_time()
        keyword_hits(texts, "toxicity")
        timed.append((b - a, time.process_time() - b))
    ours, words = np.median(np.array(timed), axis=0)
    return {
        "texts": len(texts),
        "median_cpu_ms_per_text": 1000 * ours / len(texts),
        "times_the_keyword_list": float(ours / words),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=None, help="checkpoint folder; the shipped one by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    model = text_classifier.build(Config(folder=chosen.model))
    found = {
        "machine": f"2 cores {platform.machine().replace('_', '-')}",
        "fingerprint": model.fingerprint,
        "validation": validation(model, chosen.data),
        "moderation_set": moderation_set(chosen.data),
        "hatecheck": hatecheck(model, chosen.data),
        "suites": refusal_suites(model, chosen.data),
        "not_read": unread_languages(model, chosen.data),
        "disguises": disguises(model, chosen.data),
        "speed": speed(model, chosen.data),
        "rows": dict(Counter(r.split for s in TRAINING_SOURCES for r in read_source(chosen.data, s))),
    }
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
