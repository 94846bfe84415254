"""Which examples are compared with, where their embeddings come from, and what is said of the others."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import coverage, frames, policy

from guard.errors import InputNotFound, InvalidConfig, Undecodable
from guard.interfaces import Detector, Fed, SamplingNeeds
from guard.types import Exemplar, Policy, Rule, Video
from policies import example_detector
from policies.background import POOLING, BackgroundFile, background_for
from policies.example_detector import Sources, by_examples, from_policy
from policies.exemplar_store import ExemplarStore

RULE = "custom.falling"


class Pixels:
    """An embedder of mean colours: real arithmetic on real frames, no model."""

    fingerprint = "pixels-1"
    needs = SamplingNeeds(side_px=16)

    def embed(self, shown: Any) -> Any:
        colours = shown.images.reshape(len(shown.images), -1, 3)
        return np.concatenate([colours.mean(1), colours.std(1)], axis=1).astype(np.float32), shown.pts_seconds


class Folder:
    """Opens files of a folder, and decodes their one byte into frames of that grey."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def open(self, path: Path) -> Video:
        if not path.is_file():
            raise InputNotFound(f"There is no file {str(path)!r}.")
        data = path.read_bytes()
        return Video(source=str(path), sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)

    def feed(self, video: Video, needs: Any, sink: Any) -> Fed:
        assert video.data is not None
        self.decoded.append(video.source)
        if video.data == b"!":
            raise Undecodable("no frame could be decoded.")
        sink.take(grey(video.data[0]))
        return Fed(video=video, coverage=coverage(), cpu_seconds=0.0)


def grey(level: int) -> Any:
    rng = np.random.default_rng(level)
    made = frames(count=8)
    noisy = np.clip(level + rng.normal(0, 3, made.images.shape), 0, 255).astype(np.uint8)
    return replace(made, images=noisy)


@pytest.fixture
def background(tmp_path: Path) -> Path:
    vectors = np.stack([_pooled(level) for level in range(60, 120)])
    BackgroundFile(vectors=vectors, encoder=Pixels.fingerprint, clips=60).save(tmp_path / "background.npz")
    return tmp_path / "background.npz"


def _pooled(level: int) -> Any:
    from policies.few_shot import pool

    return pool(Pixels().embed(grey(level))[0])


@pytest.fixture
def sources(tmp_path: Path, background: Path) -> Sources:
    folder = Folder()
    return Sources(
        embedders=[Pixels()],
        decoder=folder,
        open_video=folder.open,
        store=ExemplarStore(tmp_path / "store.sqlite3"),
        background=background,
    )


def clip(folder: Path, name: str, level: int, *, violates: bool = True) -> Exemplar:
    data = bytes([level])
    (folder / name).write_bytes(data)
    return Exemplar(rule=RULE, violates=violates, source=str(folder / name), sha256=hashlib.sha256(data).hexdigest())


def asked(*examples: Exemplar, category: str = RULE, state: Any = "block") -> Policy:
    own = tuple(replace(e, rule=category) for e in examples)
    return policy(Rule(category=category, state=state, exemplars=own))


def test_examples_become_a_detector_that_tells_such_videos_apart(tmp_path: Path, sources: Sources) -> None:
    found = from_policy(asked(*(clip(tmp_path, f"{i}", 240 + i) for i in range(6))), sources)
    assert found.detector is not None
    assert isinstance(found.detector, Detector)
    assert (found.categories, found.counted, found.problems) == ((RULE,), ((RULE, 6),), ())
    like, unlike = found.detector.score([grey(250), grey(61)])
    assert like.of(RULE) > 0.4  # cosines of twelve numbers cannot say more
    assert unlike.of(RULE) < like.of(RULE) / 4
    assert like.per_moment.shape == (8, 1)
    whole = found.detector.begin()
    whole.feed(grey(250))
    assert whole.finish(coverage()).of(RULE) == like.of(RULE)


def test_a_clip_is_decoded_once_and_may_then_be_gone(tmp_path: Path, sources: Sources) -> None:
    given = asked(clip(tmp_path, "a", 250))
    first = from_policy(given, sources)
    (tmp_path / "a").unlink()
    again = from_policy(given, sources)
    assert sources.decoder.decoded == [str(tmp_path / "a")]
    assert first.detector is not None
    assert again.detector is not None
    assert first.detector.fingerprint == again.detector.fingerprint


def test_what_cannot_be_compared_is_said_and_the_rest_still_counts(tmp_path: Path, sources: Sources) -> None:
    good = clip(tmp_path, "good", 250)
    changed = clip(tmp_path, "changed", 251)
    (tmp_path / "changed").write_bytes(b"other")
    gone = replace(good, source=str(tmp_path / "gone"), sha256="0" * 64)
    broken = clip(tmp_path, "broken", ord("!"))
    unhashed = replace(good, sha256=None)
    found = from_policy(asked(good, changed, gone, broken, unhashed), sources)
    assert found.counted == ((RULE, 1),)
    assert len(found.problems) == 4
    hidden = [p.partition("cannot be compared with: ")[2] for p in found.problems]
    # Whether another file lies at a place that a policy names is nobody's business.
    assert hidden[0] == hidden[1] == hidden[3]
    assert "no frame could be decoded" in hidden[2]


def test_a_rule_that_loses_all_its_examples_is_named(tmp_path: Path, sources: Sources) -> None:
    found = from_policy(asked(replace(clip(tmp_path, "a", 250), source=str(tmp_path / "b"))), sources)
    assert found.detector is None
    assert "nothing judges it here" in found.problems[-1]


def test_rules_that_others_judge_or_that_show_nothing_need_no_encoder(tmp_path: Path, sources: Sources) -> None:
    example = clip(tmp_path, "a", 250)
    nobody = replace(sources, embedders=[])
    assert from_policy(asked(example), nobody, covered=(RULE,)).problems == ()
    assert by_examples(asked(example, state="off"), ()) == ()
    assert by_examples(asked(Exemplar(rule=RULE, violates=True, text="words")), ()) == ()
    assert by_examples(asked(clip(tmp_path, "b", 90, violates=False)), ()) == ()
    (said,) = from_policy(asked(example), replace(nobody, background=None)).problems
    assert RULE in said
    assert "Add the detector 'tiny'" in said


def test_no_policy_keeps_a_guard_busy_without_end(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_detector, "MAX_NEW", 3)
    monkeypatch.setattr(example_detector, "MAX_PER_RULE", 5)
    given = asked(*(clip(tmp_path, f"{i}", 200 + i) for i in range(9)))
    first = from_policy(given, sources)
    assert (first.counted, len(first.problems)) == (((RULE, 3),), 2)
    assert "waits: 3 clips are embedded at a time" in first.problems[0]
    second = from_policy(given, sources)
    assert (second.counted, second.problems) == (((RULE, 5),), ())


def test_a_store_that_cannot_be_written_costs_time_and_nothing_else(tmp_path: Path, sources: Sources) -> None:
    (tmp_path / "file").write_text("no folder")
    blocked = replace(sources, store=ExemplarStore(tmp_path / "file" / "store.sqlite3"))
    assert from_policy(asked(clip(tmp_path, "a", 250)), blocked).counted == ((RULE, 1),)


def test_a_background_is_read_back_and_refused_for_another_encoder_or_pooling(tmp_path: Path, background: Path) -> None:
    made = background_for(Pixels.fingerprint, background)
    assert made.whitened.shape == (60, 12)
    with pytest.raises(InvalidConfig, match="is of the encoder pixels-1"):
        background_for("pixels-2", background)
    stored = BackgroundFile.load(background)
    assert (stored.pooling, stored.clips) == (POOLING, 60)
    replace(stored, pooling="median").save(tmp_path / "other.npz")
    with pytest.raises(InvalidConfig, match="median"):
        background_for(Pixels.fingerprint, tmp_path / "other.npz")
    (tmp_path / "junk.npz").write_bytes(b"PK junk")
    with pytest.raises(InvalidConfig, match="no background"):
        background_for(Pixels.fingerprint, tmp_path / "junk.npz")
    with pytest.raises(InvalidConfig, match="no background of ordinary clips for the encoder nobody") as refused:
        background_for("nobody")
    assert "guard policy background" in refused.value.hint


def test_a_background_that_runs_code_when_read_is_not_read(tmp_path: Path) -> None:
    evil = np.empty(1, object)
    evil[0] = {"a": 1}
    np.savez(tmp_path / "evil.npz", vectors=evil, encoder=np.array("x"), clips=np.array(1), pooling=np.array(POOLING))
    with pytest.raises(InvalidConfig, match="no background"):
        BackgroundFile.load(tmp_path / "evil.npz")
