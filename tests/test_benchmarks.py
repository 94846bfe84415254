"""The fast-path benchmarks run on a few rendered clips, and measure what they say they measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from media import render

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import common  # noqa: E402
import needle  # noqa: E402
import needle_footage  # noqa: E402
import quality  # noqa: E402
import risk  # noqa: E402
import robustness  # noqa: E402
import screen  # noqa: E402

from fast_path.calibrate import CalibrationSet, calibrate  # noqa: E402
from fast_path.dataset import Row  # noqa: E402
from fast_path.risk import Target  # noqa: E402

SIZE = (96, 64)
KINDS = ("fight", "nofight", "fire", "benign", "accident", "no_accident")
LABELS = {"fight": ["violence.fighting"], "fire": ["illegal.fire"], "accident": ["accidents.road"]}


def painter(kind: str, seed: int):
    """Fights shake, fires flicker in orange, accidents stop; the rest drifts."""
    texture = np.random.default_rng(seed).integers(40, 200, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)

    def draw(number: int) -> np.ndarray:
        step = {"fight": (number * 37) % 23, "accident": min(number, 8) * 3}.get(kind, number)
        image = np.roll(texture, step, axis=1).copy()
        if kind == "fire":
            image[16:48, 24:72] = (250, 120 + 60 * (number % 2), 20)
        return image

    return draw


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for seed, split in enumerate(["val", "val", "val", "train", "train"]):
        for kind in KINDS:
            name = f"{kind}-{seed}.mp4"
            (folder / name).write_bytes(render(frames=16, fps=12, size=SIZE, draw=painter(kind, seed)))
            row = {
                "path": name,
                "labels": LABELS.get(kind, []),
                "split": split,
                "group": f"{kind}{seed}",
                "raw_label": kind,
            }
            lines.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(data: Path, cache: Path, tmp_path: Path):
    def run(module, *extra: str) -> dict:
        out = tmp_path / "out.json"
        base = ["--data", data, "--cache", cache, "--out", out, "--plots", tmp_path, "--draws", 20]
        module.main([str(part) for part in (*base, *extra)])
        return json.loads(out.read_text())

    return run


def test_quality_measures_every_model_on_every_category(run, tmp_path: Path) -> None:
    blind = tmp_path / "blind"
    result = run(quality, "--passes", "2", "--epochs", "1", "--blind-weights", str(blind))
    assert json.loads((blind / "config.json").read_text())["encoder"]["settings"]["blind_to_motion"] is True
    assert set(result["models"]) == {
        "tiny", "always_safe", "flag_all", "random", "colour_and_motion_regression", "same_network_without_motion",
    }  # fmt: skip
    for name, table in result["models"].items():
        for row in table.values():
            assert (row["auroc"]["positives"], row["auroc"]["negatives"]) == (3, 15), name
    assert result["models"]["always_safe"]["illegal.fire"]["auroc"]["value"] == 0.5
    assert result["constant_decisions"]["flag_all"]["illegal.fire"] == {
        "recall": 1.0, "false_positive_rate": 1.0, "accuracy": pytest.approx(1 / 6, abs=1e-4),
    }  # fmt: skip
    # orange on grey textures is what a colour histogram sees
    assert result["models"]["colour_and_motion_regression"]["illegal.fire"]["auroc"]["value"] == 1.0
    assert result["auroc_against_own_negatives"]["violence.fighting"]["negatives"] == 3


def test_risk_reports_routing_and_promises(run, tmp_path: Path) -> None:
    result = run(risk, "--splits", "3", "--size", "40")
    for question in result["routing"].values():
        assert question["clips"] == 18
        assert question["aurc_random"] == pytest.approx(question["errors"] / 18, abs=1e-4)
    halves = result["promised_risk"]["halves"]
    # nine groups of a half hold at most three violating ones, and 1 / (3 + 1) is above 0.05
    assert all(entry["feasible_share"] == 0 for c, entry in halves["expected"]["0.05"].items() if c != "escalated_mean")
    assert (tmp_path / "risk_coverage.svg").read_text().startswith("<svg")


def test_needle_runs_at_both_samplings(run) -> None:
    result = run(
        needle, "--minutes", "0.1", "--lengths", "0.5", "--repeats", "2", "--dense-repeats", "1", "--cleans", "1"
    )
    assert result["default_gap"]["random"]["0.5"]["all"]["n"] == 2
    assert result["every_frame"]["false_alarms"]["clips"] == 9
    assert result["clean_minutes_unique"] == pytest.approx(9 * 16 / 12 / 60, rel=0.1)


def test_robustness_compares_with_the_untouched_clips(run) -> None:
    result = run(robustness, "--transforms", "mirror", "letterbox")
    assert result["transcoded"] == 18
    assert all(entry["auroc"]["change"] == 0 for entry in result["untouched"].values())
    assert set(result["transforms"]) == {"mirror", "letterbox"}


def test_screen_counts_both_processes(run) -> None:
    result = run(
        screen, "--clips", "2", "--runs", "1", "--peers", "--size", "128", "96", "--growth-size", "128", "96",
        "--unit-seconds", "1", "--long-seconds", "3", "--growth-seconds", "2", "4",
    )  # fmt: skip
    real = result["real_clips"]
    assert real["tiny"]["cpu_seconds_per_minute"] > real["sampler"]["cpu_seconds_per_minute"] > 0
    assert [result["growth_by_seconds"][length]["complete"] for length in ("2", "4")] == [True, True]
    assert result["growth_by_seconds"]["4"]["bursts"] > result["growth_by_seconds"]["2"]["bursts"]


def test_peer_that_cannot_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="a peer ended with"):
        screen.PeerProcess(sys.executable, "no-such-peer")


def test_a_needle_is_where_the_haystack_says(tmp_path: Path) -> None:
    def flat(value: int, seconds: float) -> needle_footage.Piece:
        path = tmp_path / f"{value}.mp4"
        images = (np.full((256, 416, 3), value, np.uint8) for _ in range(round(seconds * needle_footage.FPS)))
        common.encode(images, path, needle_footage.FPS, options=needle_footage.ENCODER)
        return needle_footage.Piece(path=path, seconds=seconds)

    clean, bright = [flat(40, 2.4), flat(60, 3.0)], flat(220, 0.6)
    for seed in range(3):
        hay = needle_footage.haystack(tmp_path, clean, 60.0, bright, np.random.default_rng(seed))
        levels = [(now, int(image.mean())) for now, image in common.read_frames(hay.path)]
        lit = [now for now, level in levels if level > 150]
        assert (len(levels), len(lit)) == (round(6.0 * needle_footage.FPS), 15)
        assert [lit[0], lit[-1]] == pytest.approx([hay.start_seconds, hay.start_seconds + 14 / needle_footage.FPS])


def test_a_faster_copy_has_two_thirds_of_the_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(render(frames=60, fps=30, size=SIZE))
    assert len(list(robustness.paced(path, 30, 1.0))) == 60
    assert len(list(robustness.paced(path, 30, 1.5))) == pytest.approx(40, abs=1)


def test_a_repeated_video_is_as_long_as_asked(tmp_path: Path) -> None:
    unit, long = tmp_path / "unit.mp4", tmp_path / "long.mp4"
    unit.write_bytes(render(frames=30, fps=30, size=SIZE))
    screen.repeated(unit, 2.5, long)
    with av.open(str(long)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == pytest.approx(75, abs=2)
    assert np.allclose(np.diff(times), 1 / 30, atol=1e-3)


def test_folds_keep_groups_whole_and_share_the_positives() -> None:
    groups = [f"g{i // 2}" for i in range(40)]
    truth = np.arange(40) < 12
    fold = common.group_folds(truth, groups, 3)
    assert all(len({int(f) for f, g in zip(fold, groups, strict=True) if g == name}) == 1 for name in groups)
    assert [int(truth[fold == i].sum()) for i in range(3)] == [4, 4, 4]


def test_confidence_of_any_is_that_of_independent_categories() -> None:
    confidence, wrong = risk.answers(np.array([[0.4, 0.4], [0.1, 0.0]]), np.array([[True, False], [False, True]]))
    assert np.allclose(confidence, [0.64, 0.9])  # 1 - 0.6 * 0.6, and 1 - 0.1
    assert wrong.tolist() == [False, True]
    assert risk.kept_accuracy(confidence, wrong, 0.5) == 0.0


def test_thresholds_of_the_benchmark_are_those_of_calibrate() -> None:
    rng = np.random.default_rng(3)
    labels = np.tile([[1, 0], [0, 1], [0, 0], [0, 0]], (60, 1)).astype(np.int8)
    # far apart, so that the two sides do not overlap and calibrate need not join them
    scores = np.clip(np.where(labels == 1, 0.7, 0.3) + rng.normal(0, 0.17, labels.shape), 0, 1).astype(np.float32)
    groups = [f"g{i}" for i in range(len(labels))]
    names = ("violence.fighting", "illegal.fire")
    data = CalibrationSet(
        categories=names, scores=scores, labels=labels, groups=tuple(groups), detector="d", fingerprint="f"
    )
    file = calibrate(data, fnr=0.05, fpr=0.05)
    rows = [Row(path=Path(g), labels=(), split="val", group=g, sha256="") for g in groups]
    found = common.Scored(rows=tuple(rows), categories=names, scores=scores, labels=labels)
    cuts = risk.thresholds(found, np.arange(len(labels)), groups, Target(alpha=0.05))
    for c, name in enumerate(names):
        entry = file.categories[name]
        mapped = entry.scaling().apply(scores[:, c])
        clear, block = cuts[c]
        assert entry.clear.threshold < entry.block.threshold
        assert ((mapped < entry.clear.threshold) == (scores[:, c] < clear.threshold)).all()
        assert ((mapped >= entry.block.threshold) == (scores[:, c] >= block.threshold)).all()
    assert risk.escalated(cuts, scores) == pytest.approx(file.escalation)


def test_wilson_interval() -> None:
    assert common.wilson(0, 10) == [0.0, pytest.approx(0.2775, abs=1e-3)]
    assert common.wilson(0, 0) == [None, None]
