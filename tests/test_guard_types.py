"""The values of `guard.types`: one import path, small modules behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from guard import types

FOLDER = Path(types.__file__).parent


def test_every_name_is_offered_at_one_place_and_no_module_is_large() -> None:
    missing = [name for name in types.__all__ if not hasattr(types, name)]
    assert missing == []
    assert {"Verdict", "Frames", "Policy", "DEFAULT_THRESHOLDS", "require"} <= set(types.__all__)
    assert max(len(file.read_text().splitlines()) for file in FOLDER.glob("*.py")) < 200


def test_no_heavy_library_is_loaded() -> None:
    heavy = ("torch", "transformers", "fastapi", "av", "cv2")
    code = f"import sys, guard.types; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parents[1]
    )
    assert found.stdout.strip() == "[]"


def test_an_array_of_the_wrong_shape_or_type_is_named() -> None:
    row = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"per_moment must be float32 of shape \(0, 2\); got 'float32 \(1, 2\)'"):
        types.Scores(
            categories=("a", "b"),
            probability=row,
            moment_seconds=np.empty(0),
            per_moment=row[None],
            detector="d",
            fingerprint="f",
        )
