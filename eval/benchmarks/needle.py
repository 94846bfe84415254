"""Needle: a short event at a random place of calm footage; recall by the length of the event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.painting import calm, flames, inserted
from eval.rendering import scratch
from eval.suites import Rendered, about_suite, finish_suite
from eval.types import Benchmark, Column, Gold
from guard.errors import UsageError

LENGTHS_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0)
ABOUT = about_suite(
    "Rendered: a short fire in calm footage",
    "Flames are drawn, not filmed: this shows what sampling and pooling lose, not how well real fire is recognised.",
    "Recall by length is under stems.",
)
COLUMNS = (Column(id="fire", name="Fire", accepts=("illegal.fire",)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How much is rendered."""

    data: Path | None = None
    """Where the clips are kept; None renders them into a folder that goes with the process."""
    seconds: float = 30.0
    repeats: int = 4
    """Clips for each length; there are twice as many without an event."""
    seed: int = 0


def build(config: Config) -> Benchmark:
    """Render the suite. Raises `UsageError` where the longest event does not fit."""
    if config.seconds <= max(LENGTHS_SECONDS) or config.repeats < 1:
        longest = max(LENGTHS_SECONDS)
        raise UsageError(
            f"needle needs clips of more than {longest:g} s and at least one repeat; "
            f"got seconds={config.seconds:g} and repeats={config.repeats}."
        )
    settings = f"{config.seconds} {config.repeats} {config.seed}"
    folder = config.data or scratch()
    return finish_suite("needle", ABOUT, COLUMNS, _clips(config), folder, settings=settings, protocols=("spans",))


def _clips(config: Config) -> Iterator[Rendered]:
    for index in range(2 * config.repeats):
        gold = Gold(name=f"calm {index}", stem="no event", spans_seconds=())
        yield Rendered(scene=calm(1000 * config.seed + index), seconds=config.seconds, gold=gold)
    for length in LENGTHS_SECONDS:
        for repeat in range(config.repeats):
            seed = 1000 * config.seed + 100 + repeat
            rng = np.random.default_rng((seed, int(length * 100)))
            start = float(np.round(rng.uniform(0, config.seconds - length), 2))
            name = f"{length:g} s of fire, {repeat}"
            gold = Gold(name=name, labels=("fire",), stem=f"{length:g} s", spans_seconds=((start, start + length),))
            scene = inserted(calm(seed), flames(seed), start, length)
            yield Rendered(scene=scene, seconds=config.seconds, gold=gold)


def tiny() -> Benchmark:
    """Return one clip of six seconds for each length, and two without an event."""
    return build(Config(seconds=6.0, repeats=1))
