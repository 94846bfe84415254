"""Print the tables of `docs/fast-path.md` from the measured JSON: `python benchmarks/fast_path_table.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
METRICS = ("auroc", "average_precision", "recall_at_5_fpr")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def span(found: Mapping[str, Any]) -> str:
    return f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]"


def quality(found: Mapping[str, Any]) -> str:
    rows = [
        (category, name.replace("_", " "), *(span(row[metric]) for metric in METRICS))
        for category in found["models"][found["detector"]]
        for name, row in ((n, t[category]) for n, t in found["models"].items())
    ]
    text = table(("category", "model", "AUROC", "average precision", "recall at 5 % FPR"), rows)
    rows = []
    for category, entry in found["calibration_error"].items():
        counts, own = entry["before"], found["auroc_against_own_negatives"].get(category)
        against = "–" if own is None else f"{span(own)} ({own['negatives']})"
        totals = f"{counts['positives']} / {counts['negatives']} / {counts['groups']}"
        rows.append((category, totals, span(entry["before"]), span(entry["after"]), against))
    head = ("category", "violating / other / groups", "ECE raw", "ECE calibrated", "AUROC against look-alikes only (n)")
    return text + "\n" + table(head, rows)


def risk(found: Mapping[str, Any]) -> str:
    rows = []
    for name, q in found["routing"].items():
        kept = [
            f"{number(e['kept'])} [{number(e['interval'][0])}, {number(e['interval'][1])}]"
            for e in q["accuracy_at_escalation"].values()
        ]
        fixed = q["fixed_threshold"]
        same = number(fixed["ours_at_the_same_escalation"])
        at_fixed = f"{number(fixed['kept'])} of {1 - fixed['escalated']:.0%}, ours {same}"
        aurc = f"{number(q['aurc'], 3)} [{number(q['aurc_interval'][0], 3)}, {number(q['aurc_interval'][1], 3)}]"
        rows.append((name, aurc, number(q["aurc_random"], 3), *kept, number(1 - q["aurc_random"]), at_fixed))
    head = ("question", "AURC", "random", "10 %", "20 %", "30 %", "random routing", "fixed 0.9 keeps")
    text = table(head, rows)
    promised = found["promised_risk"]
    rows = []
    for way, by in (("halves", promised["halves"]), ("drawn", promised["drawn_with_replacement"])):
        for guarantee in ("expected", "high_probability"):
            for alpha, entry in by[guarantee].items():
                cells = []
                for category in promised["groups_with_violations"]:
                    e = entry[category]
                    cells.append(
                        f"{number(e['miss_mean'], 3)}, {number(e['miss_share_above'])}, {e['feasible_share']:.0%}"
                    )
                rows.append((way, guarantee, alpha, *cells, number(entry["escalated_mean"])))
    head = ("groups", "guarantee", "promised", *promised["groups_with_violations"], "escalated")
    return text + "\n" + table(head, rows)


def needle(found: Mapping[str, Any]) -> str:
    rows = []
    for where, kind in (("default_gap", "random"), ("default_gap", "peak"), ("every_frame", "peak")):
        for seconds, e in found[where][kind].items():
            cells = []
            for name in ("clear_below", "block_at"):
                low, high = e["all"][name]["interval"]
                cells.append(f"{number(e['all'][name]['found'])} [{number(low)}, {number(high)}]")
                cells.append(number(e["found_by_chance"][name]))
                cells.append(number(e["all"][name]["loud"]))
            separation = number(e["auroc_against_clean"])
            rows.append((where.replace("_", " "), kind, seconds, e["all"]["n"], *cells, separation))
    head = ("sampling", "piece", "s", "n", "not cleared", "chance", "loud", "blocked", "chance", "loud", "AUROC")
    text = table(head, rows)
    rows = []
    for where in ("default_gap", "every_frame"):
        alarms = found[where]["false_alarms"]
        for category, names in alarms.items():
            if isinstance(names, Mapping):
                for name, e in names.items():
                    low, high = e["interval"]
                    per_hour = f"{number(e['alarms_per_hour'], 0)} [{number(low, 0)}, {number(high, 0)}]"
                    loud = f"{e['long_videos_loud']} of {alarms['long_videos']}"
                    rows.append((where.replace("_", " "), category, name, number(e["threshold"], 3), per_hour, loud))
    head = ("sampling", "category", "threshold", "value", "alarms per hour", "clean 5 min videos that reach it")
    return text + "\n" + table(head, rows)


def robustness(found: Mapping[str, Any]) -> str:
    rows = []
    for name, by in {"untouched": found["untouched"], **found["transforms"]}.items():
        for category, e in by.items():
            low, high = e["auroc"]["change_interval"]
            change = f"{e['auroc']['change']:+.2f} [{number(low)}, {number(high)}]"
            sides = e["changed_sides"]
            moved = (f"-{sides['violating_lost']} +{sides['violating_gained']}", f"+{sides['others_alarmed']}")
            metrics = [number(e[metric]["value"]) for metric in METRICS]
            rows.append((name.replace("_", " "), category, *metrics, change, *moved))
    head = (
        "change",
        "category",
        "AUROC",
        "AP",
        "recall at 5 %",
        "change of AUROC",
        "violating lost, gained",
        "new alarms",
    )
    return table(head, rows)


def screen(found: Mapping[str, Any]) -> str:
    rows = []
    for where, made in found.items():
        if isinstance(made, Mapping) and "sampler" in made:
            for name, e in made.items():
                if isinstance(e, Mapping):
                    cost = f"{number(e['cpu_seconds_per_minute'])} ({number(e['lowest'])} to {number(e['highest'])})"
                    ratios = (number(e["ratio_to_sampler"]), number(e["ratio_to_tiny"]))
                    rows.append((where.replace("_", " "), name, cost, number(e["frames_per_minute"], 0), *ratios))
    head = ("clips", "way", "CPU s per minute of video", "frames per minute", "to the sampler", "to tiny")
    text = table(head, rows)
    rows = [
        (seconds, number(e["cpu_seconds"], 1), number(e["cpu_seconds_per_minute"]), e["bursts"],
         number(e["peak_main_rss_mib"], 0), number(e["peak_worker_rss_mib"], 0), number(e["largest_gap_seconds"]))
        for seconds, e in found["growth_by_seconds"].items()
    ]  # fmt: skip
    head = ("seconds", "CPU s", "per minute", "bursts", "peak MiB, screening", "peak MiB, decoder", "largest gap, s")
    return text + "\n" + table(head, rows)


PARTS = {"quality": quality, "risk": risk, "needle": needle, "robustness": robustness, "screen": screen}


def main() -> None:
    for name, part in PARTS.items():
        path = HERE / f"{name}.json"
        if path.exists():
            print(f"## {name}\n\n{part(json.loads(path.read_text()))}")


if __name__ == "__main__":
    main()
