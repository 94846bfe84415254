"""Words in frames: read, scored as text, able to raise a rule and never to clear one."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builders import frames
from media import render, write

from fast_path.detectors import screen_text
from guard import plugins
from guard.api import Guard
from guard.config import load_settings
from guard.errors import MissingExtra
from guard.interfaces import score_frames
from guard.types import UInt8Array
from serve import cli

SPAM = ("WINNER! Claim your prize", "Call 09061701461 now")
FINE = ("A walk in the park", "with the children")


def picture(lines: tuple[str, ...], size: tuple[int, int] = (480, 640)) -> UInt8Array:
    image = np.full((*size, 3), (70, 90, 60), np.uint8)
    for row, line in enumerate(lines):
        cv2.putText(image, line, (20, 150 + 90 * row), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 3)
    return image


@pytest.fixture(scope="module")
def detector() -> screen_text.Detector:
    return screen_text.build(screen_text.Config())


def test_words_are_read_and_judged_as_the_same_words_given_as_text(detector: screen_text.Detector) -> None:
    words = detector.read(picture(SPAM))
    assert "prize" in words.lower()
    assert "09061701461" in words
    spam = detector.categories.index("spam")
    assert detector.score_words(words)[spam] > 0.9
    assert detector.score_words(" ".join(FINE))[spam] < 0.2
    assert detector.read(picture(())) == ""


def test_silence_and_words_that_are_not_understood_clear_nothing(detector: screen_text.Detector) -> None:
    for words in ("", "   ", "Погода сегодня хорошая", "zxqv"):
        assert (detector.score_words(words) >= 0.1).all()


class Counting:
    """Stands before the reader and counts; the pictures are really read."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.calls = reader, 0

    def __call__(self, image: Any) -> Any:
        self.calls += 1
        return self.reader(image)


def shown(*pictures: UInt8Array) -> Any:
    base = frames(count=len(pictures), side=16)
    return type(base)(
        images=np.stack(pictures), pts_seconds=base.pts_seconds, burst_ids=base.burst_ids, coverage=base.coverage
    )


def test_a_frame_that_looks_the_same_is_read_once_and_new_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    built = screen_text.build(screen_text.Config(max_reads=2))
    counting = Counting(built._reader)
    monkeypatch.setattr(built, "_reader", counting)
    scores = score_frames(built, shown(picture(FINE), picture(FINE), picture(SPAM), picture(SPAM), picture(())))
    assert counting.calls == 2, "the fifth frame is new, but two reads were all that was allowed"
    column = scores.per_moment[:, built.categories.index("spam")]
    assert (column[:2] < 0.2).all()
    assert (column[2:4] > 0.9).all()
    assert column[4] == pytest.approx(0.1)
    assert scores.of("spam") == pytest.approx(float(column.max()))


def test_a_scan_with_ocr_blocks_what_a_frame_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, lines in (("spam.mp4", SPAM), ("fine.mp4", FINE)):
        write(tmp_path / name, render(frames=12, fps=12, size=(640, 480), draw=lambda _, lines=lines: picture(lines)))
    cv2.imwrite(str(tmp_path / "spam.png"), picture(SPAM)[..., ::-1])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    asked = ["guard", "scan", str(tmp_path), "--out", "-", "--policy", "spam", "--progress", "none"]

    def decisions(*more: str) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", [*asked, *more])
        with pytest.raises(SystemExit):
            cli.main()
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        return {Path(line["source"]).name: line["decision"] for line in lines}

    assert decisions() == dict.fromkeys(("fine.mp4", "spam.mp4", "spam.png"), "review"), "nobody judges spam in a video"
    assert decisions("--ocr") == {"fine.mp4": "review", "spam.mp4": "block", "spam.png": "block"}


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "rapidocr":
            raise ModuleNotFoundError("No module named 'rapidocr'", name="rapidocr")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match="needs the package 'rapidocr'") as refused:
        plugins.load("detector", "screen_text")
    assert "ocr" in refused.value.hint
    with pytest.raises(MissingExtra):
        Guard.load(load_settings(detectors="screen_text", policy="spam"))
