"""Flash analysis after WCAG 2.2 (success criterion 2.3.1) and ITU-R BT.1702: general and saturated-red flashes, per
frame.

`light` turns pixels into luminance and red saturation, `transitions` finds opposing changes in each cell of the
picture, `concurrency` counts the ones that happen together over a large enough area, `analysis` drives the three
frame by frame, and `report` holds the result.

It is not a certified photosensitive-epilepsy test.
"""

from fast_path.flash.analysis import FlashAnalyzer, analyse
from fast_path.flash.report import FlashReport, FlashResult, KindReport, Span
from fast_path.flash.settings import BROADCAST, FlashSettings
from fast_path.flash.sink import FlashSink

__all__ = [
    "BROADCAST",
    "FlashAnalyzer",
    "FlashReport",
    "FlashResult",
    "FlashSettings",
    "FlashSink",
    "KindReport",
    "Span",
    "analyse",
]
