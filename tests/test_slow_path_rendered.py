from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slow_path import rendered, rendered_examples
from slow_path.answer import parse
from slow_path.engine import Generation
from slow_path.rendered import COLOURS, Clip, evidence

seeds = st.integers(0, 1_000_000)


def seen(clip: Clip) -> list[str | None]:
    """What each picture shows, read from its pixels: the slow oracle."""
    found = []
    for image in rendered.render(clip).images:
        near = {c: int((np.abs(image.astype(int) - rgb).max(axis=-1) < 12).sum()) for c, rgb in COLOURS.items()}
        best = max(near, key=lambda c: near[c])
        found.append(best if near[best] > 40 else None)
    return found


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_the_pictures_show_what_the_answer_says(seed: int) -> None:
    clip = rendered.draw_clip(seed)
    colours = seen(clip)
    told = [rendered.seen_at(clip, i).split("_")[0] for i in range(len(colours))]
    assert [c or "nothing" for c in colours] == told
    for rule in rendered.ORDERS:
        first, then = rule.split("_before_")
        places = {c: [i for i, s in enumerate(colours) if s == c] for c in (first, then)}
        expected = bool(places[first]) and any(p > places[first][0] for p in places[then])
        assert bool(evidence(clip, f"custom.{rule}")) == expected


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_the_right_answer_parses_and_matches_the_label(seed: int) -> None:
    item, view = rendered_examples.item(seed), rendered_examples.view(seed)
    text = rendered.right_answer(item.clip, view.question)
    made = Generation(text=text, finish_reason="stop", model="m")
    judgement = parse(made, view.question, engine="e", prompt_hash="")
    assert judgement.status == "ok", judgement.error_code
    assert frozenset(judgement.categories) == item.violated


def test_words_on_screen_change_the_pictures_but_never_the_answer() -> None:
    for text in rendered.LIES + rendered.FALSE_ALARMS:
        plain, painted = rendered_examples.item(3), rendered_examples.item(3, text=text)
        assert plain.violated == painted.violated
        assert not np.array_equal(rendered.render(plain.clip).images, rendered.render(painted.clip).images)


def test_neither_answer_is_the_safe_bet() -> None:
    items = [rendered_examples.item(seed) for seed in range(400)]
    share = sum(len(i.violated) for i in items) / sum(len(i.rules) for i in items)
    assert 0.4 < share < 0.6


def test_the_rules_cannot_be_judged_from_the_prompt_alone() -> None:
    by_rule: dict[str, list[bool]] = {}
    for seed in range(1500):
        item = rendered_examples.item(seed)
        for rule in item.rules:
            by_rule.setdefault(rule, []).append(rule in item.violated)
    right = sum(max(sum(v), len(v) - sum(v)) for v in by_rule.values()) / sum(len(v) for v in by_rule.values())
    assert right < 0.68, "knowing which rule is asked must not tell much"
