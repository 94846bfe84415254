"""Flash: screens that flash too often, in general or in saturated red, and screens that do not quite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.painting import Scene, calm, flashing, swelling
from eval.rendering import scratch
from eval.suites import Rendered, about_suite, finish_suite
from eval.types import Benchmark, Column, Gold

FPS = 30
ABOUT = about_suite(
    "Rendered: flashing by rate, colour, area and depth",
    "Truth by WCAG 2.3.1: more than three flashes within a second, over more than a quarter of any 10 degrees of the "
    "visual field, which are 341 x 256 of 1024 x 768 pixels: a fiftieth of the screen is below that.",
)
COLUMNS = (
    Column(id="general", name="General flashes", accepts=("flashing.general",)),
    Column(id="red", name="Saturated red flashes", accepts=("flashing.red",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How much is rendered."""

    data: Path | None = None
    """Where the clips are kept; None renders them into a folder that goes with the process."""
    seconds: float = 3.0


def build(config: Config) -> Benchmark:
    """Render the suite."""
    folder = config.data or scratch()
    return finish_suite("flash", ABOUT, COLUMNS, _clips(config), folder, settings=f"{config.seconds}")


def _clips(config: Config) -> Iterator[Rendered]:
    for name, scene, labels, known in _scenes():
        gold = Gold(name=name, labels=labels, known=known, stem="flashing" if labels else "allowed")
        yield Rendered(scene=scene, seconds=config.seconds, gold=gold, fps=FPS)


def _scenes() -> Iterator[tuple[str, Scene, tuple[str, ...], tuple[str, ...] | None]]:
    for hertz in (5, 7.5, 10, 15):
        yield f"white, {hertz:g} Hz", flashing(hertz), ("general",), None
    # Saturated red from dark grey is a red flash; whether its change of luminance makes it a general one as well
    # depends on the depth, so that column is left open.
    for hertz in (5, 10):
        yield f"red, {hertz:g} Hz", flashing(hertz, colour="red"), ("red",), ("red",)
    for name, area in (("half", 0.5), ("a tenth", 0.1)):
        yield f"white, 10 Hz, {name} of the screen", flashing(10, area=area), ("general",), None
    for hertz in (1, 2, 3):
        yield f"white, {hertz:g} Hz", flashing(hertz), (), None
    yield "white, 10 Hz, a fiftieth of the screen", flashing(10, area=0.02), (), None
    yield "white, 10 Hz, faint", flashing(10, depth=0.04), (), None
    yield "smooth swelling, 5 Hz", swelling(5), (), None
    for seed in range(3):
        yield f"calm {seed}", calm(300 + seed), (), None


def tiny() -> Benchmark:
    """Return the suite: it is small."""
    return build(Config(seconds=1.5))
