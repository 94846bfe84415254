"""What differs between a run and the command that shall go on with it, in words."""

from __future__ import annotations

from typing import Any

import pytest

from guard.errors import ResumeMismatch
from serve.signature import differences, require_same


def run(name: str = "screen", **signature: Any) -> dict[str, Any]:
    same: dict[str, Any] = {
        "policy_hash": name * 8,
        "versions": {"video_guard": "1", "detector:tiny": "abc"},
        "limits": {"max_seconds": 60, "max_frames": 9},
        "include": [],
        "limit": None,
    }
    return {"policy": {"name": name, "version": "2", "hash": name * 8}, "signature": same | signature}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (run("default"), "--policy was screen 2 (screenscreen), now is default 2 (defaultdefau)"),
        (run(limits={"max_seconds": 61, "max_frames": 9}), "limits.max_seconds was 60, now is 61"),
        (run(versions={"video_guard": "1", "detector:tiny": "x"}), "the detector tiny was abc, now is x"),
        (run(versions={"video_guard": "1"}), "the detector tiny was abc, now is none"),
        (run(include=("*.mp4", "*.mov")), "--include was none, now is *.mp4, *.mov"),
        (run(limit=5), "--limit was none, now is 5"),
        (run(new_setting=True), "new_setting was none, now is True"),
    ],
)
def test_each_difference_is_one_clause(now: dict[str, Any], said: str) -> None:
    with pytest.raises(ResumeMismatch) as error:
        require_same(run(), now)
    assert error.value.message == f"The run was started with other settings: {said}."


def test_equal_runs_have_none_and_many_are_cut_short() -> None:
    assert list(differences(run(), run())) == []
    require_same(run(), run(include=()))  # a tuple reads back as a list
    with pytest.raises(ResumeMismatch, match=r"; and 2 more\.$"):
        require_same(run(), run(**{f"option{k}": k for k in range(6)}))
    with pytest.raises(ResumeMismatch) as error:
        require_same(run(), run(include=["x" * 500]))
    assert len(error.value.message) < 200
