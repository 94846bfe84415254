"""Measure the embedded text classifier: `python benchmarks/text_quality.py --data DIR` writes `text_quality.json`.

Every number has a 95 % interval from 1,000 bootstrap draws of whole groups of near copies. Peers: always-safe, and the
keyword list of `text_keywords.py`. HateCheck, XSTest and SimpleSafetyTests are never trained on. The moderation set of
Markov et al. is small, so its rows are scored out of fold: by weights that saw neither the row nor its near copies.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from text_keywords import KEYWORDS, keyword_hits

from fast_path.calibrate import CalibrationSet
from fast_path.calibrate import calibrate as risk_calibrate
from fast_path.reliability import expected_calibration_error
from fast_path.text import classifier as text_classifier
from fast_path.text.classifier import Config, TextClassifier, TextScores
from fast_path.text.datasets import TRAINING_SOURCES, TextRow, read_source
from fast_path.text.fit import FitConfig, calibrate, corpus, cross_fit, fit, matrix_logits
from fast_path.text.train import FALSE_BLOCK_RATE, MISS_RATE

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
    ("openai_moderation", "extremism.hate", "hate"),
    ("openai_moderation", "harassment", "harassment"),
    ("openai_moderation", "violence", "violence"),
    ("openai_moderation", "extremism.self_harm", "self-harm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Truth in order of falling score, and where equal scores end: what every metric is computed from."""

    order: NDArray[np.int64]
    truth: NDArray[np.float64]
    ends: NDArray[np.int64]
    flagged: int
    """How many reach the threshold."""

    @classmethod
    def of(cls, truth: Truth, score: NDArray[np.float64], threshold: float) -> Ranked:
        order = np.argsort(-score, kind="stable")
        ends = np.r_[np.flatnonzero(np.diff(score[order])), len(score) - 1]
        return cls(order=order, truth=truth[order].astype(float), ends=ends, flagged=int((score >= threshold).sum()))

    def metrics(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return F1, average precision and AUROC [D, 3] for D weightings [D, N] of the texts."""
        weight = weight[:, self.order]
        hits, all_ = np.cumsum(weight * self.truth, axis=1), np.cumsum(weight, axis=1)
        at = max(self.flagged - 1, 0)
        caught, flagged = (x[:, at] * (self.flagged > 0) for x in (hits, all_))
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = 2 * caught / np.maximum(hits[:, -1] + flagged, 1e-9)
            hits, all_ = hits[:, self.ends], all_[:, self.ends]
            recall, misses = hits / hits[:, -1:], all_ - hits
            precision = np.where(all_ > 0, hits / np.maximum(all_, 1e-9), 0.0)
            steps = np.diff(recall, axis=1, prepend=0.0)
            fall = np.diff(misses / misses[:, -1:], axis=1, prepend=0.0)
            auroc = np.sum(fall * (recall - steps / 2), axis=1)
        return np.stack([f1, np.sum(steps * precision, axis=1), auroc], axis=1)


def estimates(
    truth: Truth, score: NDArray[np.float64], groups: Sequence[str], *, threshold: float = 0.5, draws: int = 1000
) -> dict[str, dict[str, Any]]:
    """Return F1 at `threshold`, AUPRC and AUROC, each with the 95 % interval of a bootstrap over groups."""
    ranked = Ranked.of(truth, score, threshold)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    rng = np.random.default_rng(0)
    drawn = [
        ranked.metrics(rng.multinomial(count, np.full(count, 1 / count), size=50)[:, member].astype(np.float64))
        for _ in range(draws // 50)
    ]
    point = ranked.metrics(np.ones((1, len(truth))))[0]
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    facts = {"positives": int(truth.sum()), "negatives": int((~truth).sum()), "groups": count}
    return {
        name: {"value": float(v), "low": float(lo), "high": float(hi), **facts}
        for name, v, lo, hi in zip(("f1", "auprc", "auroc"), point, low, high, strict=True)
    }


def measured(
    category: str, truth: Truth, score: NDArray[np.float64], words: NDArray[np.float64], rows: Sequence[TextRow]
) -> Any:
    """Return every metric of one category on one set, with the peers'."""
    groups = [row.group for row in rows]
    peer = estimates(truth, words, groups, threshold=1.0)
    return {
        **estimates(truth, score, groups),
        "keywords_f1": peer["f1"],
        "keywords_auprc": peer["auprc"],
        "always_safe": {"f1": 0.0, "auprc": float(truth.mean())},
        "precision": _ratio(truth & (score >= 0.5), score >= 0.5),
        "recall": _ratio(truth & (score >= 0.5), truth),
        "calibration_error": expected_calibration_error(score, truth),
        "routed": routed(category, truth, score, groups),
    }


def _ratio(part: Truth, whole: Truth) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def routed(category: str, truth: Truth, score: NDArray[np.float64], groups: Sequence[str]) -> dict[str, Any]:
    """Return what the default thresholds settle, and wrongly, and what ones calibrated on the other half do."""
    half = np.array([int(hashlib.sha256(g.encode()).hexdigest()[:8], 16) % 2 for g in groups])
    low, high = np.zeros(len(score)), np.full(len(score), 2.0)
    for side in (0, 1):
        fitted, used = half != side, half == side
        data = CalibrationSet(
            categories=(category,), scores=score[fitted, None].astype(np.float32), fingerprint="-", detector="-",
            labels=truth[fitted, None].astype(np.int8), groups=tuple(np.asarray(groups)[fitted]),
        )  # fmt: skip
        file = risk_calibrate(data, fnr=MISS_RATE, fpr=FALSE_BLOCK_RATE, escalate_unproven=True)
        cut, scaling = file.thresholds()[category], file.categories[category].scaling()
        mapped = scaling.apply(score[used].astype(np.float64))
        low[used] = np.where(mapped < cut.clear_below, 1.0, 0.0)
        high[used] = np.where(mapped >= cut.block_at, 1.0, 0.0)
    return {
        "default": _settled(score < 0.1, score >= 0.9, truth),
        "calibrated": _settled(low == 1.0, high == 1.0, truth),
    }


def _settled(clear: Truth, block: Truth, truth: Truth) -> dict[str, int]:
    return {
        "cleared": int(clear.sum()), "cleared_but_violating": int((clear & truth).sum()),
        "escalated": int((~clear & ~block).sum()),
        "blocked": int(block.sum()), "blocked_but_fine": int((block & ~truth).sum()),
    }  # fmt: skip


def probabilities(model: TextClassifier, rows: Sequence[TextRow], category: str) -> NDArray[np.float64]:
    return np.array(
        [s.probability[model.categories.index(category)] for s in model.score([row.text for row in rows])], float
    )


def validation(model: TextClassifier, data: Path) -> dict[str, Any]:
    found = {}
    for source, category, positive in VALIDATION:
        rows = [r for r in read_source(data, source) if r.split == "val" and category in r.labels]
        truth = np.array([r.labels[category] == 1 for r in rows])
        words = keyword_hits([r.text for r in rows], category)
        result = measured(category, truth, probabilities(model, rows, category), words, rows)
        found[f"{source}:{category}"] = {"positive_is": positive, **result}
    return found


def moderation_set(data: Path) -> dict[str, Any]:
    """Score the moderation set out of fold, and by weights that never saw any of its rows."""
    names = ("extremism.hate", "harassment", "violence", "extremism.self_harm")
    config = FitConfig(categories=names)
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
        result = measured(category, truth, score, keyword_hits([r.text for r in rows], category), rows)
        trained = all_rows.labels[outside, column]
        if min((trained == 1).sum(), (trained == 0).sum()) > 0:
            groups = [r.group for r in rows]
            value = foreign[at, column].astype(np.float64)
            result["auprc_without_its_rows"] = estimates(truth, value, groups)["auprc"]
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
    overall = {"hate": measured("extremism.hate", truth, scored["extremism.hate"], words, rows)}
    overall["hate_or_toxicity"] = measured("extremism.hate", truth, both, words, rows)
    return {"functionality": table, "overall": overall}


def refusal_suites(model: TextClassifier, data: Path) -> dict[str, Any]:
    """XSTest: safe prompts that look unsafe. SimpleSafetyTests: prompts that are."""
    found: dict[str, Any] = {}
    kinds: dict[str, list[float]] = {}
    harmful = [c for c in model.categories if c != "negativity"]  # a sad sentence is no harm
    rows = read_source(data, "xstest")
    for row, scored in zip(rows, model.score([r.text for r in rows]), strict=True):
        top = max(float(scored.probability[model.categories.index(c)]) for c in harmful)
        kinds.setdefault(f"{'unsafe' if row.raw['unsafe_prompt'] else 'safe'}:{row.raw['type']}", []).append(top)
    found["xstest_flagged_at_half"] = {
        kind: {"cases": len(v), "flagged": int(np.sum(np.array(v) >= 0.5))} for kind, v in sorted(kinds.items())
    }
    areas: dict[str, list[float]] = {}
    rows = read_source(data, "simple_safety_tests")
    for row, scored in zip(rows, model.score([r.text for r in rows]), strict=True):
        areas.setdefault(str(row.raw["area"]), []).append(
            max(float(scored.probability[model.categories.index(c)]) for c in harmful)
        )
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
        name: {"texts": len(v), "not_read": float(np.mean([not s.understood for s in v]))}
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
            "auroc": estimates(truth, score, [r.group for r in rows])["auroc"],
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
    parser.add_argument(
        "--parts", nargs="*", choices=[*PARTS], default=[*PARTS], help="measure these anew, keep the rest"
    )
    chosen = parser.parse_args()
    model = text_classifier.build(Config(folder=chosen.model))
    found = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    if found.get("fingerprint") != model.fingerprint:
        found = {"machine": f"2 cores {platform.machine().replace('_', '-')}", "fingerprint": model.fingerprint}
    for part in chosen.parts:
        found[part] = PARTS[part](model, chosen.data)
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")


PARTS: dict[str, Callable[[TextClassifier, Path], dict[str, Any]]] = {
    "validation": validation,
    "hatecheck": hatecheck,
    "suites": refusal_suites,
    "not_read": unread_languages,
    "disguises": disguises,
    "speed": speed,
    "moderation_set": lambda model, data: moderation_set(data),
}

if __name__ == "__main__":
    main()
