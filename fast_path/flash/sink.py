"""Analyse a video as it is decoded: what `guard flash FILE` hands to the decoder."""

from __future__ import annotations

from fast_path.flash.analysis import FlashAnalyzer
from fast_path.flash.report import FlashReport
from fast_path.flash.settings import FlashSettings
from guard.interfaces import SamplingNeeds
from guard.types import Frames


class FlashSink:
    """`guard.interfaces.FrameSink` over a `FlashAnalyzer`."""

    def __init__(self, settings: FlashSettings | None = None, *, side_px: int = 96) -> None:
        self.needs = SamplingNeeds(side_px=side_px, every_frame=True)
        """What to ask the decoder for."""
        self._settings = settings or FlashSettings()
        self._analyzer = FlashAnalyzer(self._settings)

    def take(self, frames: Frames) -> None:
        """Analyse the next frames."""
        for image, seconds in zip(frames.images, frames.pts_seconds.tolist(), strict=True):
            self._analyzer.update(image, seconds)

    def restart(self) -> None:
        """Forget everything: the decoder starts over."""
        self._analyzer = FlashAnalyzer(self._settings)

    def finish(self) -> FlashReport:
        """Return the report of everything that was taken."""
        return self._analyzer.finish()
