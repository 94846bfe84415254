from __future__ import annotations

import json
from pathlib import Path

import pytest

from guard import Guard
from guard.errors import InvalidConfig
from slow_path.engines import scripted
from slow_path.judge import JudgeSettings, VlmJudge
from slow_path.settings import configured, profile


def test_the_environment_names_a_profile_and_a_calibrated_floor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GUARD_SLOW_PROFILE", raising=False)
    monkeypatch.delenv("GUARD_SLOW_CALIBRATION", raising=False)
    assert configured() == JudgeSettings()
    file = tmp_path / "slow.json"
    file.write_text(json.dumps({"stage": "slow", "floor": 0.83}))
    monkeypatch.setenv("GUARD_SLOW_PROFILE", "small")
    monkeypatch.setenv("GUARD_SLOW_CALIBRATION", str(file))
    judge = VlmJudge(scripted.tiny())
    assert (judge.settings.budget.frames, judge.settings.floor) == (6, 0.83)
    assert VlmJudge(scripted.tiny(), JudgeSettings(samples=1)).settings.samples == 1, "what is given goes first"


def test_an_unknown_profile_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidConfig, match="'tiny'; there are: default, small"):
        profile("tiny")


@pytest.mark.parametrize("text", ["", "[]", '{"floor": 0.8}', '{"stage": "slow", "floor": 7}', '{"stage": "slow"}'])
def test_a_file_that_is_no_calibration_of_the_slow_path_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.json").write_text(text)
    monkeypatch.setenv("GUARD_SLOW_CALIBRATION", str(tmp_path / "c.json"))
    with pytest.raises(InvalidConfig, match=r"c\.json"):
        configured()


def test_a_run_under_another_profile_is_another_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def made_with() -> str:
        with Guard.load(slow_url="http://127.0.0.1:9/v1", detectors=("flash",), policy="flashing", workers=1) as guard:
            return guard.pipeline.stages.versions["slow_path:settings"]

    ordinary = made_with()
    assert made_with() == ordinary
    monkeypatch.setenv("GUARD_SLOW_PROFILE", "small")
    small = made_with()
    calibration = tmp_path / "slow.json"
    calibration.write_text(json.dumps({"stage": "slow", "floor": 0.91}))
    monkeypatch.setenv("GUARD_SLOW_CALIBRATION", str(calibration))
    assert len({ordinary, small, made_with()}) == 3
