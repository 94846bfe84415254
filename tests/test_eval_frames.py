"""Frame-level evaluators against a plain reference: loops over frames, and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from sklearn import metrics as reference

from eval.benchmarks import needle
from eval.benchmarks import ucf_crime as ucf_benchmark
from eval.benchmarks import xd_violence as xd_benchmark
from eval.metrics.frames import FrameScores, frame_truth, nearest_moments, repeat_snippets, ucf_crime, xd_violence
from eval.runner import RunRequest, run
from eval.score import Scoring, score
from eval.types import Prediction
from guard.errors import UsageError

TOLERANCE = 1e-9


def video(rng: np.random.Generator, *, violent: bool) -> tuple[int, list[tuple[int, int]], np.ndarray]:
    """Frames, spans and snippet scores of one random video, as the published label files have them."""
    frames = int(rng.integers(40, 900))
    spans = []
    if violent:
        cuts = np.sort(rng.integers(0, frames + 60, 4))  # some reach beyond the last frame, as in the real files
        spans = [(int(cuts[0]), int(cuts[1])), (int(cuts[2]), int(cuts[3]))]
    return frames, spans, np.round(rng.random(-(-frames // 16)), 2)


def plain_frames(frames: int, spans: list[tuple[int, int]], snippets: np.ndarray) -> tuple[list[int], list[float]]:
    """The obvious way: ask for each frame whether a span holds it, and which snippet it lies in."""
    truth = [int(any(start <= f < end for start, end in spans)) for f in range(frames)]
    return truth, [float(snippets[min(f // 16, len(snippets) - 1)]) for f in range(frames)]


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(7)
    videos = [video(rng, violent=bool(i % 3)) for i in range(40)]
    fast = [
        FrameScores(truth=frame_truth(frames, spans), score=repeat_snippets(scores, frames))
        for frames, spans, scores in videos
    ]
    return videos, fast


def joined(videos) -> tuple[np.ndarray, np.ndarray]:
    truth: list[int] = []
    score: list[float] = []
    for one in videos:
        t, s = plain_frames(*one)
        truth += t
        score += s
    return np.array(truth), np.array(score)


def test_xd_violence_agrees_with_the_reference(drawn) -> None:
    videos, fast = drawn
    truth, score = joined(videos)
    precision, recall, _ = reference.precision_recall_curve(truth, score)
    found = xd_violence(fast)
    assert abs(found["ap_trapezoid"] - reference.auc(recall, precision)) < TOLERANCE
    assert abs(found["average_precision"] - reference.average_precision_score(truth, score)) < TOLERANCE
    assert abs(found["prevalence"] - truth.mean()) < TOLERANCE


def test_ucf_crime_agrees_with_the_reference(drawn) -> None:
    videos, fast = drawn
    truth, score = joined(videos)
    found = ucf_crime(fast)
    assert abs(found["auroc"] - reference.roc_auc_score(truth, score)) < TOLERANCE
    assert abs(found["average_precision"] - reference.average_precision_score(truth, score)) < TOLERANCE
    anomalous = [one for one in videos if any(plain_frames(*one)[0])]
    only_truth, only_score = joined(anomalous)
    assert abs(found["auroc_anomalous_videos"] - reference.roc_auc_score(only_truth, only_score)) < TOLERANCE


def test_snippets_are_repeated_sixteen_times() -> None:
    assert repeat_snippets(np.array([0.1, 0.9]), 40).tolist() == [0.1] * 16 + [0.9] * 24
    assert repeat_snippets(np.array([0.1, 0.2, 0.3]), 20).tolist() == [0.1] * 16 + [0.2] * 4


def test_a_frame_takes_the_nearest_moment() -> None:
    rng = np.random.default_rng(3)
    moments = np.sort(rng.random(9)) * 10
    scores = rng.random(9)
    found = nearest_moments(moments, scores, 120, 12.0)
    slow = [scores[int(np.argmin(np.abs(moments - f / 12.0)))] for f in range(120)]
    assert found.tolist() == slow
    assert nearest_moments(np.zeros(0), np.zeros(0), 3, 25.0).tolist() == [0, 0, 0]


def test_frames_without_a_violation_have_no_ranking() -> None:
    calm = [FrameScores(truth=np.zeros(10, bool), score=np.linspace(0, 1, 10))]
    assert xd_violence(calm)["ap_trapezoid"] is None
    assert ucf_crime(calm)["auroc"] is None
    assert ucf_crime([])["prevalence"] is None


def test_a_span_must_run_forwards() -> None:
    with pytest.raises(ValueError, match="span"):
        frame_truth(10, [(5, 2)])


class Oracle:
    """Answers with a moment for every frame, high where the label file says so."""

    name = "oracle"
    kinds = frozenset({"video"})
    signature = MappingProxyType({})

    def __init__(self, truth: dict[str, list[tuple[int, int]]], fps: float) -> None:
        self._truth, self._fps = truth, fps

    def predict(self, samples, policies):
        for sample in samples:
            spans = self._truth[sample.id]
            hit = [any(start <= f < end for start, end in spans) for f in range(8)]
            yield Prediction(
                id=sample.id,
                status="ok",
                moments=tuple(f / self._fps for f in range(8)),
                moment_scores=tuple(0.9 if h else 0.1 for h in hit),
                segments=tuple((s / self._fps, e / self._fps, "illegal.fire", 0.9) for s, e in spans),
                scores={"illegal.fire": 0.9 if any(hit) else 0.1},
                flagged=("illegal.fire",) if any(hit) else (),
            )

    def close(self) -> None:
        pass


@pytest.mark.parametrize("module", [ucf_benchmark, xd_benchmark])
def test_an_oracle_is_perfect_frame_by_frame(module, tmp_path: Path) -> None:
    """From label file to metric: frames, moments and spans agree on what a frame's number is."""
    made = module.tiny()
    truth = {item.sample.id: list(item.gold.spans_frames or ()) for item in made.items}
    run(made, Oracle(truth, 8.0), RunRequest(out=tmp_path / "run"))
    (found,) = score(tmp_path / "run", Scoring(draws=0))["protocols"].values()
    assert found["videos"] == 3
    assert found["skipped"] == 0
    assert found["average_precision"] == 1.0
    assert found.get("auroc", 1.0) == 1.0
    worst = {key: [] for key in truth}
    run(made, Oracle(worst, 8.0), RunRequest(out=tmp_path / "blind"))
    (blind,) = score(tmp_path / "blind", Scoring(draws=0))["protocols"].values()
    assert blind["average_precision"] == pytest.approx(blind["prevalence"])


class Mute(Oracle):
    """Answers only what violates; of the rest it says nothing, though it had begun to look."""

    def predict(self, samples, policies):
        for prediction in super().predict(samples, policies):
            if prediction.flagged:
                yield prediction
            else:
                yield replace(prediction, status="video_error", code="decoder_crashed")


def test_no_answer_on_a_normal_video_is_no_calm_video(tmp_path: Path) -> None:
    made = ucf_benchmark.tiny()
    truth = {item.sample.id: list(item.gold.spans_frames or ()) for item in made.items}
    run(made, Mute(truth, 8.0), RunRequest(out=tmp_path / "run"))
    wrong = score(tmp_path / "run", Scoring(draws=0))
    assert wrong["protocols"]["frames_ucf"]["auroc"] < 1.0
    assert wrong["stems"]["Normal"]["flagged"] == wrong["stems"]["Normal"]["samples"]
    left_out = score(tmp_path / "run", Scoring(draws=0, invalid="exclude"))
    assert "Normal" not in left_out["stems"]


def test_no_answer_on_a_calm_haystack_covers_all_of_it(tmp_path: Path) -> None:
    made = needle.build(needle.Config(seconds=6.0, repeats=1, data=tmp_path / "clips"))
    spans = {item.sample.id: item.gold.spans_seconds or () for item in made.items}
    frames = {key: [(start * 8, end * 8) for start, end in value] for key, value in spans.items()}
    assert any(not item.gold.labels for item in made.items)
    run(made, Mute(frames, 8.0), RunRequest(out=tmp_path / "run"))
    assert score(tmp_path / "run", Scoring(draws=0))["protocols"]["spans"]["duration_precision"] < 1.0


def test_segments_of_an_oracle_overlap_wholly(tmp_path: Path) -> None:
    made = needle.build(needle.Config(seconds=6.0, repeats=1, data=tmp_path / "clips"))
    spans = {item.sample.id: item.gold.spans_seconds or () for item in made.items}
    frames = {key: [(start * 8, end * 8) for start, end in value] for key, value in spans.items()}
    run(made, Oracle(frames, 8.0), RunRequest(out=tmp_path / "run"))
    found = score(tmp_path / "run", Scoring(draws=0))["protocols"]["spans"]
    assert found["segment_ap_0.7"] == 1.0
    assert found["mean_iou"] == pytest.approx(1.0)
    assert found["duration_f1"] == pytest.approx(1.0)


def test_a_needle_longer_than_the_haystack_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 5 s"):
        needle.build(needle.Config(seconds=5.0))
