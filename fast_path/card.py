"""The model card of a trained fast path: what it was trained on, what it reaches, and where it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fast_path.dataset import Row
from fast_path.metrics import Estimate
from guard import taxonomy

Table = Mapping[str, Mapping[str, Estimate]]


def write(
    *,
    name: str,
    rows: Sequence[Row],
    categories: Sequence[str],
    results: Mapping[str, Table],
    recipe: str,
    parameters: int,
    frozen: bool = False,
    notes: str = "",
) -> str:
    """Return the card as Markdown; `results` maps a model or baseline to its table on the validation split.

    `frozen`: the encoder came pretrained and was not changed, so that `parameters` are the head's.
    """
    made = "in the head; the encoder is pretrained and was not changed" if frozen else "trained from scratch"
    lines = [
        f"# Model card: {name}",
        "",
        f"A fast screen for {', '.join(f'`{c}`' for c in categories)}.",
        f"{parameters:,} learned parameters, {made}. It ranks videos for routing; it does not",
        "decide alone: calibrate it (`guard calibrate`) on your own footage before a threshold means anything.",
        "",
        "## Data",
        "",
        "| split | clips | groups | " + " | ".join(f"`{c}`" for c in categories) + " |",
        "|---|---|---|" + "---|" * len(categories),
        *(_split_line(split, rows, categories) for split in sorted({row.split for row in rows})),
        "",
        "Groups (source video, camera, near-duplicate) never cross a split. The footage was gathered from public",
        "repositories; its rights belong to third parties and it is not shipped. Only the weights are the project's.",
        "",
        "## Recipe",
        "",
        recipe,
        "",
        "## Validation",
        "",
        "Value and 95 % interval of a bootstrap over groups. Early stopping looked at this split: expect a little less",
        "elsewhere.",
        "",
        "| category (positives / negatives) | model | AUROC | average precision | recall at 5 % FPR |",
        "|---|---|---|---|---|",
        *(line for category in categories for line in _result_lines(category, results)),
    ]
    if notes:
        lines += ["", notes.strip()]
    return "\n".join(lines) + "\n"


def _split_line(split: str, rows: Sequence[Row], categories: Sequence[str]) -> str:
    chosen = [row for row in rows if row.split == split]
    stills = sum(row.still for row in chosen)
    count = f"{len(chosen) - stills} videos, {stills} stills" if stills else f"{len(chosen)} videos"
    labels = Counter(c for row in chosen for c in categories if any(taxonomy.covers(c, x) for x in row.labels))
    cells = [split, count, str(len({row.group for row in chosen})), *(str(labels[c]) for c in categories)]
    return f"| {' | '.join(cells)} |"


def _result_lines(category: str, results: Mapping[str, Table]) -> list[str]:
    lines = []
    for model, table in results.items():
        row = table[category]
        first = next(iter(row.values()))
        cells = [
            f"`{category}` ({first.positives} / {first.negatives})",
            model,
            *(str(value) for value in row.values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
