"""Print the tables of `docs/text.md` from the measured JSON: `python benchmarks/text_table.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def span(estimate: Mapping[str, float] | None) -> str:
    if not estimate or estimate["value"] is None:
        return "–"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def quality(found: Mapping[str, Any]) -> str:
    head = ("set: category", "positive / negative", "F1", "AUPRC", "AUROC", "keywords F1", "always safe AUPRC")
    parts = []
    for title, key in (("Validation rows", "validation"), ("Moderation set, out of fold", "moderation_set")):
        rows = [
            (name, f"{r['auprc']['positives']} / {r['auprc']['negatives']}", span(r["f1"]), span(r["auprc"]),
             span(r["auroc"]), span(r["keywords_f1"]), share(r["always_safe"]["auprc"]))
            for name, r in found[key].items()
        ]  # fmt: skip
        parts.append(f"{title}\n\n" + table(head, rows))
    return "\n".join(parts)


def routing(found: Mapping[str, Any]) -> str:
    rows = []
    for name, r in {**found["validation"], **{f"openai: {k}": v for k, v in found["moderation_set"].items()}}.items():
        cells = []
        for kind in ("default", "calibrated"):
            way = r["routed"][kind]
            cells += [f"{way['cleared']} ({way['cleared_but_violating']})", way["escalated"],
                      f"{way['blocked']} ({way['blocked_but_fine']})"]  # fmt: skip
        rows.append((name, f"{r['calibration_error']:.3f}", *cells))
    head = ("cleared (wrongly)", "escalated", "blocked (wrongly)")
    return table(("set: category", "calibration error", *head, *(f"calibrated: {h}" for h in head)), rows)


def hatecheck(found: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", "hateful" if r["hateful"] else "fine", r["cases"], share(r["hate_correct"]),
         share(r["hate_or_toxicity_correct"]), share(r["keywords_correct"]),
         share(r["hate_or_toxicity_cleared"] if r["hateful"] else r["hate_or_toxicity_blocked"]))
        for name, r in found["hatecheck"]["functionality"].items()
    ]  # fmt: skip
    head = ("functionality", "truth", "cases", "hate", "hate or toxicity", "keywords", "settled wrongly")
    return table(head, rows)


def smaller(found: Mapping[str, Any]) -> str:
    disguise = [
        (n, span(r["auroc"]), share(r["recall_at_half"]), share(r["keywords_recall"]))
        for n, r in found["disguises"].items()
    ]
    unread = [(n, r["texts"], share(r["not_read"])) for n, r in found["not_read"].items()]
    suites = [(n, r["cases"], r["flagged"]) for n, r in found["suites"]["xstest_flagged_at_half"].items()]
    tests = [(n, r["cases"], r["flagged"], r["cleared"]) for n, r in found["suites"]["simple_safety_tests"].items()]
    return "\n".join(
        (
            table(("disguise", "AUROC", "recall at 0.5", "keywords' recall"), disguise),
            table(("texts", "count", "share not read"), unread),
            table(("XSTest", "cases", "flagged at 0.5"), suites),
            table(("SimpleSafetyTests", "cases", "flagged at 0.5", "cleared"), tests),
        )
    )


def shots(found: Mapping[str, Any]) -> str:
    parts = []
    paper = found["paper"]
    rows = []
    for name, r in found["trained"].items():
        bert, llama = (paper[k][name] for k in ("fine_tuned_bert_f1", "llama_3.1_8b_balanced_semantic_f1"))
        rows.append((name, f"{r['test_positive']} / {r['test_negative']}", span(r["classifier"]), span(r["keywords"]),
                     f"{r['always_harmful']:.3f}", bert, llama))  # fmt: skip
    head = (
        "task",
        "positive / negative",
        "shipped classifier",
        "keywords",
        "always harmful",
        "paper: BERT",
        "paper: Llama",
    )
    parts.append(table(head, rows))
    for name, results in found["few_shot"].items():
        counts = sorted({r["shots_per_class"] for r in results})
        arms = sorted({(r["arm"], r["level"]) for r in results})
        got = {(r["arm"], r["level"], r["shots_per_class"]): r for r in results}
        body = [
            (
                f"{arm}, level {level}",
                *(f"{got[arm, level, k]['f1']:.2f}" if (arm, level, k) in got else "–" for k in counts),
            )
            for arm, level in arms
        ]
        parts.append(table((name, *(f"k={k}" for k in counts)), body))
    multi = found["multi_task"]
    rows = []
    for label, ours, theirs in (
        ("binary F1", "binary_f1", "multi_task_binary_f1_192_shots"),
        ("multi-class weighted F1", "multiclass_weighted_f1", "multi_class_weighted_f1"),
    ):
        for n in (1, 2):
            rows.append((f"{label}, level {n}", span(multi[f"{ours}_level_{n}"]), paper[theirs][f"level_{n}"]))
    parts.append(table(("three tasks at once, 192 examples", "few-shot arm", "paper: Llama"), rows))
    return "\n".join(parts)


def main() -> None:
    found = json.loads((HERE / "text_quality.json").read_text())
    print(quality(found), routing(found), hatecheck(found), smaller(found), sep="\n")
    print(json.dumps(found["speed"]))
    print(shots(json.loads((HERE / "text_shots.json").read_text())))


if __name__ == "__main__":
    main()
