"""The small VLM that comes with the package: it loads without a network, and what it says needs the frames."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import slow_path
from guard.types import Judgement
from slow_path import rendered, rendered_examples
from slow_path.engines import transformers
from slow_path.judge import VlmJudge
from slow_path.rendered_examples import HELD_OUT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FOLDER = Path(slow_path.__file__).parent / "weights" / "shapes"
COUNT = 6


@pytest.fixture(scope="module")
def judgements() -> tuple[list[Judgement], list[Judgement]]:
    """Of held-out clips, and of the same clips with every frame blank."""
    cases = [rendered_examples.case(rendered_examples.item(HELD_OUT + 9_000_000 + i)) for i in range(COUNT)]
    blank = [replace(c, frames=replace(c.frames, images=np.full_like(c.frames.images, 30))) for c in cases]
    settings = replace(
        rendered_examples.SETTINGS, mode="reason", samples=1, answer_attempts=1, floor=0.0, deadline_seconds=600.0
    )
    judge = VlmJudge(transformers.build(transformers.Config(model=str(FOLDER))), settings)

    async def run() -> list[Judgement]:
        return await judge.judge([*cases, *blank])

    made = asyncio.run(run())
    return made[:COUNT], made[COUNT:]


def described(judgements: list[Judgement]) -> float:
    """Share of the frames with a shape that are described rightly."""
    hits = []
    for i, judgement in enumerate(judgements):
        clip = rendered_examples.item(HELD_OUT + 9_000_000 + i).clip
        told = {o.start_seconds: o.text for o in judgement.observations}
        seen = {t: rendered.seen_at(clip, k) for k, t in enumerate(clip.times_seconds)}
        hits += [told.get(t) == what for t, what in seen.items() if what != "nothing"]
    return sum(hits) / len(hits)


def test_it_answers_in_form_and_describes_shapes_far_above_chance(
    judgements: tuple[list[Judgement], list[Judgement]],
) -> None:
    shown, blank = judgements
    assert sum(j.status == "ok" for j in shown) >= COUNT - 1, [j.error_code for j in shown]
    assert described(shown) > 0.4, "one in twelve by chance"
    assert described(blank) == 0.0, "it does not make shapes up"


def test_its_card_says_what_it_cannot_do() -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "order" in card
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 20_000_000
