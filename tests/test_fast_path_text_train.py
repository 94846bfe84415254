"""Readers of the label files, and training: reproducible, masked, grouped, and without a trace of single texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fast_path.calibrate import CalibrationSet
from fast_path.calibrate import calibrate as risk_calibrate
from fast_path.text import classifier as text_classifier
from fast_path.text import screen
from fast_path.text.datasets import (
    MEASURE_ONLY,
    TRAINING_SOURCES,
    label_matrix,
    read_source,
    training_rows,
)
from fast_path.text.features import FeatureConfig, bags
from fast_path.text.fit import Corpus, FitConfig, calibrate, corpus, cross_fit, fit, fold_of, matrix_logits
from fast_path.text.model import compand, expand, load
from fast_path.text.normalise import normalise
from fast_path.text.train import main, slim, train_text
from guard.errors import InvalidConfig, InvalidManifest

SMALL = FitConfig(features=FeatureConfig(buckets_log2=12), categories=("spam", "negativity"))
SPAM = (
    "win a free prize now {}",
    "claim your cash award {}",
    "urgent call now to win {}",
    "free entry txt {} to claim",
)
HAM = ("see you at lunch {}", "running late sorry {}", "can you call mum {}", "home at six {} love")
BAD = ("a dull and boring film {}", "the worst plot {} ever", "a tedious mess {}", "lifeless acting {}")
GOOD = ("a warm and funny film {}", "the best plot {} ever", "a moving story {}", "wonderful acting {}")
WORDS = "red blue green small large old new fast slow quiet loud open".split()  # noqa: SIM905


def row(source: str, number: int, text: str, labels: dict[str, Any], split: str = "train") -> dict[str, Any]:
    return {
        "id": f"{source}:{number}", "source": source, "text": text, "labels": labels,
        "lang": "en", "orig_split": "", "split": split, "dup_group": f"{source}{number}",
    }  # fmt: skip


def write(folder: Path, source: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{source}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for source, key, positive, negative in (
        ("uci_sms_spam", "spam", SPAM, HAM),
        ("sst2", "negative_sentiment", BAD, GOOD),
    ):
        rows = []
        for number in range(96):
            label = number % 2
            pattern = (positive if label else negative)[number // 2 % 4]
            split = "val" if number >= 80 else "train"
            rows.append(row(source, number, pattern.format(WORDS[number % 12]), {key: label}, split))
        write(tmp_path, source, rows)
    return tmp_path


SOURCES = ("uci_sms_spam", "sst2")


def read_all(data: Path) -> Corpus:
    return corpus(training_rows(data, SOURCES), SMALL)


def test_training_twice_gives_the_same_bytes_and_a_working_classifier(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_text(data, tmp_path / name, seed=3, config=SMALL, sources=SOURCES)
    for file in ("model.safetensors", "config.json", "MODEL_CARD.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    thresholds = screen.build(text_classifier.Config(folder=tmp_path / "one")).calibrator.thresholds  # type: ignore[attr-defined]
    assert set(thresholds) == set(SMALL.categories)
    built = text_classifier.build(text_classifier.Config(folder=tmp_path / "one"))
    spam, ham = built.score(["urgent win a free prize", "sorry running late see you at lunch"])
    assert (spam.scores.of("spam") or 0) > 0.5 > (ham.scores.of("spam") or 1)


def test_a_slim_calibration_maps_and_decides_alike() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((600, 1)).astype(np.float32)
    labels = (rng.random((600, 1)) < np.where(scores < 0.5, 0.1, 0.9)).astype(np.int8)
    data = CalibrationSet(
        categories=("spam",), scores=scores, labels=labels, groups=tuple(map(str, range(600))), detector="d",
        fingerprint="f",
    )  # fmt: skip
    full = risk_calibrate(data, fnr=0.3, fpr=0.3)
    knots = {"knots_raw": (0.0, 0.1, 0.2, 0.5, 0.6, 1.0), "knots_probability": (0.1, 0.1, 0.1, 0.8, 0.8, 0.8)}
    stepped = full.categories["spam"].model_copy(update={"method": "isotonic", **knots})
    full = full.model_copy(update={"categories": {"spam": stepped}})
    small = slim(full)
    assert small.categories["spam"].knots_raw == (0.0, 0.2, 0.5, 1.0)
    at = np.linspace(0, 1, 101)
    assert np.array_equal(small.categories["spam"].scaling().apply(at), stepped.scaling().apply(at))
    assert small.thresholds() == full.thresholds()


def test_validation_rows_do_not_reach_the_weights(data: Path, tmp_path: Path) -> None:
    before = train_text(data, tmp_path / "a", config=SMALL, sources=SOURCES)
    path = data / "uci_sms_spam.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write(
        data,
        "uci_sms_spam",
        [r | {"labels": {"spam": 1 - r["labels"]["spam"]}} if r["split"] == "val" else r for r in rows],
    )
    after = train_text(data, tmp_path / "b", config=SMALL, sources=SOURCES)
    assert np.array_equal(before.weights, after.weights)
    assert np.array_equal(before.slope, after.slope)


@pytest.mark.parametrize("source", sorted(MEASURE_ONLY))
def test_test_suites_are_refused_for_training(tmp_path: Path, source: str) -> None:
    assert source not in TRAINING_SOURCES
    with pytest.raises(InvalidManifest, match="never trained on"):
        train_text(tmp_path, tmp_path / "out", sources=(source,))


def test_a_word_of_a_single_text_leaves_no_trace(data: Path) -> None:
    rows = training_rows(data, SOURCES)
    rows[1] = replace(rows[1], text=rows[1].text + " zyxwvutsrq")
    found = corpus(rows, SMALL)
    wide = replace(SMALL, features=FeatureConfig(buckets_log2=20))
    found = corpus(rows, wide)
    model = fit(found, np.arange(len(found)), wide)
    alone = bags([normalise("zyxwvutsrq")], wide.features)
    own = alone.indices[alone.kinds == 0].astype(np.int64)
    assert not model.weights[own].any()
    assert not model.idf[own].any()
    assert not model.known("zyxwvutsrq").any()
    assert model.known("film").all()


def test_near_copies_count_once(data: Path) -> None:
    rows = training_rows(data, SOURCES)
    copies = [replace(rows[1], id=f"c{i}", text="qqqwww eeerrr") for i in range(5)]  # one group, five copies
    wide = replace(SMALL, features=FeatureConfig(buckets_log2=20))
    found = corpus([*rows, *copies], wide)
    assert not fit(found, np.arange(len(found)), wide).known("qqqwww").any()


def test_unknown_labels_do_not_move_a_category(data: Path) -> None:
    """Film reviews say nothing of spam: with presumed negatives off, the spam column is that of the messages alone."""
    config = replace(SMALL, presumed_weight=0.0, categories=("spam",))
    both = corpus(training_rows(data, SOURCES), config)
    own = np.flatnonzero(both.sources == "uci_sms_spam")
    seen_both = fit(both, np.arange(len(both)), config)
    flipped = replace(both, labels=np.where(both.sources[:, None] == "sst2", -1, both.labels).astype(np.int8))
    assert np.array_equal(seen_both.weights, fit(flipped, np.arange(len(both)), config).weights)
    assert (both.labels[own] >= 0).all()


def test_fast_logits_equal_those_of_the_classifier(data: Path) -> None:
    found = read_all(data)
    model = fit(found, np.arange(len(found)), SMALL)
    assert np.allclose(matrix_logits(model, found.bags), model.logits(found.bags), atol=1e-5)


def test_folds_keep_groups_whole_and_held_out_scores_are_held_out(data: Path) -> None:
    rows = [replace(r, group=f"g{i // 4}") for i, r in enumerate(training_rows(data, SOURCES))]
    found = corpus(rows, SMALL)
    fold = fold_of(rows, SMALL.folds)
    assert all(len(set(fold[found.groups == g].tolist())) == 1 for g in set(found.groups.tolist()))
    before = cross_fit(found, SMALL)
    target = 0
    labels = found.labels.copy()
    mates = found.groups == found.groups[target]
    labels[mates] = np.where(labels[mates] >= 0, 1 - labels[mates], -1)
    after = cross_fit(replace(found, labels=labels), SMALL)
    assert np.array_equal(before[target], after[target])
    assert not np.array_equal(before, after)


def test_calibration_matches_the_observed_rate() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4000, 1)).astype(np.float32)
    labels = (rng.random((4000, 1)) < 1 / (1 + np.exp(-(0.5 * logits - 1)))).astype(np.int8)
    slope, offset = calibrate(logits, labels)
    assert slope[0] == pytest.approx(0.5, abs=0.05)
    assert offset[0] == pytest.approx(-1.0, abs=0.15)
    kept = calibrate(logits[:4], labels[:4] * 0)
    assert kept[0][0] == 1.0  # nothing to fit on


def test_companding_keeps_small_weights() -> None:
    weights = np.array([[1.0, -2.0], [0.001, 0.01], [0.0, 0.0]])
    stored, scales = compand(weights)
    assert np.allclose(expand(stored, scales), weights, rtol=0.2, atol=1e-4)
    assert stored.dtype == np.int8
    assert not stored[2].any()


@pytest.mark.parametrize(
    ("source", "labels", "want"),
    [
        ("davidson", {"class": "neither"}, {"toxicity": 0, "extremism.hate": 0}),
        ("davidson", {"class": "hate_speech"}, {"toxicity": 1, "extremism.hate": 1}),
        ("olid", {"offensive": 1, "b": "TIN", "c": "IND"}, {"toxicity": 1, "harassment": 1}),
        ("olid", {"offensive": 1, "b": "UNT", "c": "NULL"}, {"toxicity": 1, "harassment": 0}),
        ("ethos", {"hateful": 0, "score": 0.45}, {}),
        ("popquorn_offensiveness", {"mean_offensiveness_1to5": 2.5}, {}),
        ("openai_moderation", {"hate": None, "violence": 0, "violence_graphic": 1}, {"violence": 1}),
        ("catqa", {"unsafe_prompt": 1, "area": "Physical Harm", "sub": "Self-harm"}, {"extremism.self_harm": 1}),
        ("xstest", {"unsafe_prompt": 1}, {}),
    ],
)
def test_what_each_source_says(tmp_path: Path, source: str, labels: dict[str, Any], want: dict[str, int]) -> None:
    write(tmp_path, source, [row(source, 1, "text", labels)])
    (found,) = read_source(tmp_path, source)
    assert found.labels == want


def test_unknown_is_its_own_value(tmp_path: Path) -> None:
    write(tmp_path, "sst2", [row("sst2", 1, "x", {"negative_sentiment": 0})])
    assert label_matrix(read_source(tmp_path, "sst2"), ("spam", "negativity")).tolist() == [[-1, 0]]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": 1}', '{"id":"a","text":"b","labels":{},"split":"t","dup_group":"g"}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "sst2.jsonl").write_text("\n" + line + "\n")
    with pytest.raises(InvalidManifest, match="line 2"):
        read_source(tmp_path, "sst2")


def test_an_absent_file_and_an_unknown_source_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"sst2\.jsonl"):
        read_source(tmp_path, "sst2")
    with pytest.raises(InvalidManifest, match="sst3"):
        read_source(tmp_path, "sst3")


def test_the_command_needs_all_sources(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest):
        main([str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(InvalidConfig):
        load(tmp_path / "out")
