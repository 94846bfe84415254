"""Frame-level evaluators against a plain reference: loops over frames, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from eval.metrics.frames import FrameScores, frame_truth, nearest_moments, repeat_snippets, ucf_crime, xd_violence

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
