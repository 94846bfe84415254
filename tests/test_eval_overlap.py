"""Decontamination: a training clip that was re-encoded into a benchmark is found, and unrelated ones are not."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from eval import overlap
from eval.benchmarks import manifest
from eval.painting import calm, flames, shape
from eval.rendering import encode
from serve.cli import app

FPS, FRAMES = 12, 24


def clip(scene, *, size: tuple[int, int] | None = None, crf: int = 20) -> bytes:
    def picture(number: int) -> np.ndarray:
        image = scene(number / FPS)
        return image if size is None else cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    return encode(picture, FRAMES, fps=FPS, crf=crf)


def write(folder: Path, split: str, clips: dict[str, bytes]) -> Path:
    folder.mkdir()
    lines = []
    for number, (name, data) in enumerate(clips.items()):
        (folder / f"{name}.mp4").write_bytes(data)
        labels = ["illegal.fire"] if "fire" in name else []
        lines.append({"path": f"{name}.mp4", "labels": labels, "split": split, "group": f"g{number}"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("overlap")
    same = clip(calm(4))
    training = {"fire 1": clip(flames(1)), "calm 2": clip(calm(2)), "shape": clip(shape(3, "red circle")), "same": same}
    write(root / "train", "train", training)
    leaked = clip(flames(1), size=(240, 176), crf=36)  # another size, and much coarser
    measured = {"fire leaked": leaked, "fire 9": clip(flames(9)), "calm 8": clip(calm(8)), "copy": same}
    write(root / "bench", "val", measured)
    return root / "train/manifest.jsonl", root / "bench"


def test_a_planted_leak_is_found(sets: tuple[Path, Path]) -> None:
    training, data = sets
    benchmark = manifest.build(manifest.Config(data=data))
    found = overlap.check(benchmark, training).to_json()
    pairs = {(pair["item"], Path(pair["training"]).name, pair["by"]) for pair in found["pairs"]}
    assert pairs == {("fire leaked.mp4", "fire 1.mp4", "look"), ("copy.mp4", "same.mp4", "content")}
    assert found["by"] == {"content": 1, "look": 1, "group": 0}
    assert found["share"] == 0.5


def test_only_the_named_split_counts(sets: tuple[Path, Path]) -> None:
    training, data = sets
    benchmark = manifest.build(manifest.Config(data=data))
    assert overlap.check(benchmark, training, split="test").to_json()["overlapping"] == 0
    assert overlap.check(benchmark, training, split=None).to_json()["overlapping"] == 2


def test_the_command_reports_and_exits_with_one(sets: tuple[Path, Path], tmp_path: Path) -> None:
    training, data = sets
    out = tmp_path / "overlap.json"
    command = ["eval", "overlap", str(training), "--benchmark", "manifest", "--data", str(data), "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1, done.output
    assert "2 of 4 items overlap" in done.stderr
    assert json.loads(out.read_text())["training"] == 4


def test_what_cannot_be_read_is_named(tmp_path: Path, sets: tuple[Path, Path]) -> None:
    training, _ = sets
    data = {"fire": clip(flames(5)), "broken": b"not a video"}
    write(tmp_path / "b", "val", data)
    benchmark = manifest.build(manifest.Config(data=tmp_path / "b"))
    found = overlap.check(benchmark, training)
    assert found.unread == ("broken.mp4: undecodable",)
