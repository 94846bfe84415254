"""Numbers of the flash rules, with where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from guard.errors import InvalidConfig

RedRule = Literal["wcag22", "wcag20"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashSettings:
    """Limits of the analysis. The defaults are WCAG 2.2; `fast_path.flash.settings.BROADCAST` takes the whole
    screen."""

    luminance_step: float = 0.1
    """Least change of relative luminance that is one half of a general flash (BT.1702: 20 of 200 cd/m2)."""
    dark_below: float = 0.8
    """The darker state of a general flash is below this (BT.1702: 160 of 200 cd/m2)."""
    red_rule: RedRule = "wcag22"
    """`wcag22`: u'v' distance above `chroma_step`, one state saturated. `wcag20`: (R - G - B) * 320 changes by over
    20."""
    red_ratio: float = 0.8
    """A state with R / (R + G + B), in linear light, at or above this is saturated red."""
    chroma_step: float = 0.2
    """Least distance of the two states of a red flash in the CIE 1976 u'v' diagram."""
    window_fraction: float = 1 / 3
    """Side of the visual field as a part of the picture's: 10 degrees are 341 x 256 of 1024 x 768 pixels. 1 is all of
    it."""
    area_fraction: float = 0.25
    """Part of the field that must change together."""
    together_seconds: float = 1 / 6
    """Changes of one direction within this time are concurrent: half a period at 3 Hz, so a ramp counts as one
    change."""
    limit_transitions: int = 6
    """More changes than this within one second fail: three flashes of two changes each."""
    warn_transitions: int = 4
    """Changes within one second that count towards a long flashing sequence: two flashes."""
    extended_window_seconds: float = 5.0
    extended_seconds: float = 4.0
    """So much time at `warn_transitions` or more, without failing, within the window above is a long flashing
    sequence."""
    max_side_cells: int = 72
    """Short side of the grid that is analysed. Pictures are averaged down to it in linear light."""
    loop_below_seconds: float = 5.0
    """A shorter clip is analysed as if it were played again and again until it fills this time; 0 plays it once."""

    def __post_init__(self) -> None:
        for name in ("luminance_step", "dark_below", "red_ratio", "chroma_step", "window_fraction", "area_fraction"):
            value = getattr(self, name)
            if not 0.0 < value <= 1.0:
                raise InvalidConfig(f"{name} must be above 0 and at most 1; got {value!r}.")
        if self.red_rule not in ("wcag22", "wcag20"):
            raise InvalidConfig(f"red_rule must be wcag22 or wcag20; got {self.red_rule!r}.")
        if not 1 <= self.warn_transitions <= self.limit_transitions:
            counts = (self.warn_transitions, self.limit_transitions)
            raise InvalidConfig(f"warn_transitions must be from 1 to limit_transitions; got {counts}.")
        if self.max_side_cells < 8 or self.loop_below_seconds < 0 or self.together_seconds < 0:
            raise InvalidConfig(
                "max_side_cells must be at least 8, loop_below_seconds and together_seconds at least 0."
            )
        if not 0 < self.extended_seconds <= self.extended_window_seconds:
            raise InvalidConfig("extended_seconds must be above 0 and at most extended_window_seconds.")


BROADCAST = FlashSettings(window_fraction=1.0, red_rule="wcag20", loop_below_seconds=0.0)
"""The broadcast reading: a quarter of the whole screen, played once, red as (R - G - B) * 320."""
