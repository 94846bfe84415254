"""From verdicts to the results of the OpenAI moderation API, with our own findings beside theirs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from guard import taxonomy
from guard.types import Verdict
from guard.verdict_json import to_dict

Kind = Literal["text", "image", "video"]
_GRAVITY = {"allow": 0, "review": 1, "undecided": 2, "block": 3}
KEPT = (
    "sha256", "rationale", "categories", "segments", "coverage", "media", "policy", "versions", "degraded", "error",
    "timings_ms", "route", "slow_path",
)  # fmt: skip
"""Fields of a verdict that a result shows; scores over time are asked for with `detail`."""


def result_of(
    parts: Sequence[tuple[Kind, Verdict]], *, flag_on: str = "review", detail: bool = False
) -> dict[str, Any]:
    """Return one result of one item, which may have several parts.

    All 13 keys are there. One that no active rule speaks of is False, 0.0 and applied to nothing: not assessed.
    `flagged` is True for a block, for what could not be judged, and, unless `flag_on` is `block`, for what a person
    should see: a client that looks at nothing else waves nothing uncertain through.
    """
    gravest = max((verdict for _, verdict in parts), key=lambda v: _GRAVITY[v.decision])
    scores = dict.fromkeys(taxonomy.OPENAI_KEYS, 0.0)
    flags = dict.fromkeys(taxonomy.OPENAI_KEYS, False)
    applied: dict[str, list[str]] = {key: [] for key in taxonomy.OPENAI_KEYS}
    for kind, verdict in parts:
        for category, found in verdict.categories.items():
            for key in openai_keys(category):
                scores[key] = max(scores[key], found.score or 0.0)
                flags[key] |= found.flagged
                if found.score is not None and kind not in applied[key]:
                    applied[key].append(kind)
    flagged = gravest.decision in ("block", "undecided") or (flag_on == "review" and gravest.decision == "review")
    shown = [{"input_type": kind, **fields_of(verdict, detail=detail)} for kind, verdict in parts]
    return {
        "flagged": flagged,
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": applied,
        "decision": gravest.decision,
        **{key: value for key, value in shown[_index(parts, gravest)].items() if key != "decision"},
        **({"parts": shown} if len(parts) > 1 else {}),
    }


def fields_of(verdict: Verdict, *, detail: bool) -> dict[str, Any]:
    """Return what a result shows of one verdict; with its categories as `taxonomy`: OpenAI has the other name."""
    plain = to_dict(verdict)
    kept: dict[str, Any] = {"decision": verdict.decision}
    kept |= {("taxonomy" if key == "categories" else key): plain[key] for key in KEPT if key in plain}
    if detail:
        kept |= {"timeline": plain["timeline"], "judgement": plain["judgement"]}
    return kept


def openai_keys(category: str) -> tuple[str, ...]:
    """Return the keys that a finding on `category` counts for: its own, else that of the nearest category above."""
    known: Mapping[str, taxonomy.Category] = taxonomy.categories()
    node: str | None = category
    while node:
        found = known.get(node)
        if found is not None and found.openai:
            return (found.openai,)
        node = node.rpartition(".")[0] or None
    return ()


def _index(parts: Sequence[tuple[Kind, Verdict]], wanted: Verdict) -> int:
    return next(index for index, (_, verdict) in enumerate(parts) if verdict is wanted)
