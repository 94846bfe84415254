"""Every benchmark keeps the same promises; parts are discovered, none is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.files import VIDEO_SUFFIXES
from eval.run_dir import read_predictions
from eval.runner import RunRequest, run
from eval.score import Scoring, score
from eval.systems import random as random_system
from eval.types import DEFAULT_POLICY, Benchmark, Key, LabelHidden
from guard import plugins, taxonomy
from guard.errors import UsageError

NAMES = plugins.names("benchmark")
WITH_FILES = tuple(name for name in NAMES if hasattr(plugins.module("benchmark", name), "miniature"))


@pytest.fixture(scope="module")
def built() -> dict[str, Benchmark]:
    return {}


def tiny(name: str, built: dict[str, Benchmark]) -> Benchmark:
    if name not in built:
        built[name] = plugins.module("benchmark", name).tiny()
    return built[name]


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_whole(name: str, built: dict[str, Benchmark]) -> None:
    made, about = tiny(name, built), plugins.module("benchmark", name).ABOUT
    assert made.name == name
    assert made.about is about
    assert about.title
    assert about.get.endswith(".")
    assert about.layout or name not in WITH_FILES
    assert made.items
    assert not made.missing
    assert made.expected == len(made.items)
    assert not made.partial


@pytest.mark.parametrize("name", NAMES)
def test_labels_speak_of_the_columns(name: str, built: dict[str, Benchmark]) -> None:
    made = tiny(name, built)
    columns = {column.id for column in made.columns}
    assert len(columns) == len(made.columns)
    for column in made.columns:
        assert column.accepts
        assert all(taxonomy.is_known(category) for category in column.accepts)
    for item in made.items:
        assert set(item.gold.labels) <= columns
        assert item.gold.known is None or set(item.gold.labels) <= set(item.gold.known) <= columns
        assert item.sample.policy in made.policies
    assert {bool(item.gold.labels) for item in made.items} == {True, False}
    asked = {rule.category for policy in made.policies.values() for rule in policy.active()}
    assert all(any(column.answered_by(category) for category in asked) for column in made.columns)


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_tell_their_labels(name: str, built: dict[str, Benchmark]) -> None:
    made = tiny(name, built)
    key = Key(made.items)
    for item in made.items:
        assert re.fullmatch(r"[0-9a-f]{16}", item.sample.id)
        for attribute in ("labels", "gold", "split", "group", "stem", "name", "truth"):
            with pytest.raises(LabelHidden):
                getattr(item.sample, attribute)
        assert "/" not in repr(item.sample)
    with key.sealed(), pytest.raises(LabelHidden):
        key[made.items[0].sample.id]
    assert key[made.items[0].sample.id] is made.items[0].gold


@pytest.mark.parametrize("name", NAMES)
def test_building_again_gives_the_same(name: str, built: dict[str, Benchmark]) -> None:
    first, second = tiny(name, built), plugins.module("benchmark", name).tiny()
    assert [i.sample.id for i in first.items] == [i.sample.id for i in second.items]
    assert [i.gold for i in first.items] == [i.gold for i in second.items]
    assert first.data_hash == second.data_hash
    assert first.policies == second.policies


@pytest.mark.parametrize("name", NAMES)
def test_runs_and_scores(name: str, built: dict[str, Benchmark], tmp_path: Path) -> None:
    made = tiny(name, built)
    system = random_system.tiny()
    run(made, system, RunRequest(out=tmp_path / "run"))
    assert [p.id for p in read_predictions(tmp_path / "run")] == [item.sample.id for item in made.items]
    found = score(tmp_path / "run", Scoring(draws=20))
    assert found["coverage"]["answered"] == len(made.items)
    assert found["coverage"]["partial"] is False
    assert set(found["baselines"]) == {"always_safe", "flag_all", "random", "prevalence"}
    assert set(found["protocols"]) == set(made.protocols)
    assert found["strict"]["binary/accuracy"][0] is not None


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    part = plugins.module("benchmark", name)
    config = part.miniature(tmp_path)
    whole = part.build(config)
    videos = [path for path in sorted(tmp_path.rglob("*")) if path.suffix in VIDEO_SUFFIXES]
    for path in videos[:1]:
        path.unlink()
        less = part.build(config)
        assert less.partial
        assert less.expected == whole.expected
        assert any(path.stem in one.name for one in less.missing)
        assert all(one.get == part.ABOUT.get for one in less.missing)


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_missing_label_file_is_named_with_the_way_to_get_it(name: str, tmp_path: Path) -> None:
    part = plugins.module("benchmark", name)
    config = part.miniature(tmp_path)
    labels = label_files(tmp_path)
    for path in labels:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UsageError) as caught:
            part.build(config)
        assert path.name in caught.value.message
        assert part.ABOUT.get in caught.value.hint
        path.write_bytes(content)
    with pytest.raises(UsageError):
        part.build(type(config)(data=tmp_path / "nowhere"))


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_damaged_label_file_is_named(name: str, tmp_path: Path) -> None:
    part = plugins.module("benchmark", name)
    config = part.miniature(tmp_path)
    for path in label_files(tmp_path):
        content = path.read_bytes()
        path.write_bytes(b"?? {[ this is no label file\n" * 3)
        with pytest.raises(UsageError) as caught:
            part.build(config)
        assert path.name in caught.value.message
        path.write_bytes(content)


def label_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in VIDEO_SUFFIXES]


def test_data_that_is_not_given_is_asked_for() -> None:
    from eval.command import load_benchmark

    with pytest.raises(UsageError, match="needs --data"):
        load_benchmark("ucf-crime", None, {}, None)
    assert DEFAULT_POLICY == ""
