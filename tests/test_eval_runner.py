"""Runs: every sample has exactly one line, a killed run goes on, and what has no answer counts as it was asked to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from typer.testing import CliRunner

from eval import run_dir
from eval.benchmarks import hatecheck, manifest, safewatch_real
from eval.command import evaluate, load_benchmark, summary_lines
from eval.run_dir import read_predictions
from eval.runner import RunRequest, run
from eval.score import Scoring, load, score
from eval.settings import build
from eval.systems import always_safe, random
from eval.table import build_table
from eval.types import Benchmark, Gold, LabelHidden, Prediction
from guard.errors import ResumeMismatch, UsageError
from serve.cli import app


class Faulty:
    """Answers some samples, and then does what a test asks of it."""

    name = "faulty"
    kinds = frozenset({"video", "text"})
    signature = MappingProxyType({})

    def __init__(self, *, good: int, then: str) -> None:
        self._good, self._then = good, then

    def predict(self, samples, policies) -> Iterator[Prediction]:
        for number, sample in enumerate(samples):
            if number < self._good:
                yield Prediction(id=sample.id, status="ok", decision="allow", scores={"violence.fighting": 0.1})
            elif self._then == "crash":
                raise KeyboardInterrupt
            elif self._then == "twice":
                yield Prediction(id="0" * 16, status="ok")
            elif self._then == "fail":
                yield Prediction(id=sample.id, status="parse_error", code="unreadable")

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def small() -> Benchmark:
    return manifest.tiny()


def ids(benchmark: Benchmark) -> list[str]:
    return [item.sample.id for item in benchmark.items]


def test_a_killed_run_goes_on(small: Benchmark, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(small, Faulty(good=2, then="crash"), RunRequest(out=out))
    with (out / run_dir.PREDICTIONS).open("ab") as file:
        file.write(b'{"id": "torn')
    assert not (out / run_dir.KEY).exists()
    with pytest.raises(UsageError, match="not a finished"):
        score(out)
    with pytest.raises(UsageError, match="already holds a run"):
        run(small, Faulty(good=9, then=""), RunRequest(out=out))
    asked: list[str] = []

    class Counting(Faulty):
        def predict(self, samples, policies):
            samples = list(samples)
            asked.extend(s.id for s in samples)
            yield from super().predict(samples, policies)

    info = run(small, Counting(good=9, then=""), RunRequest(out=out, resume=True))
    assert asked == ids(small)[2:]
    assert [p.id for p in read_predictions(out)] == ids(small)
    assert set(info["cost"]) == {"wall_seconds", "cpu_seconds"}


def test_another_system_may_not_go_on(small: Benchmark, tmp_path: Path) -> None:
    run(small, always_safe.tiny(), RunRequest(out=tmp_path / "run"))
    with pytest.raises(ResumeMismatch, match="system was"):
        run(small, random.tiny(), RunRequest(out=tmp_path / "run", resume=True))
    other = replace(small, items=(*small.items[1:], small.items[0]))
    with pytest.raises(ResumeMismatch, match="sample_ids was"):
        run(other, always_safe.tiny(), RunRequest(out=tmp_path / "run", resume=True))


def test_a_lost_answer_is_a_failure(small: Benchmark, tmp_path: Path) -> None:
    run(small, Faulty(good=1, then="silent"), RunRequest(out=tmp_path / "run"))
    codes = [p.code for p in read_predictions(tmp_path / "run")]
    assert codes == [None, "no_answer", "no_answer", "no_answer"]
    found = score(tmp_path / "run", Scoring(draws=0))
    assert found["coverage"]["partial"]
    assert found["coverage"]["codes"] == {"no_answer": 3}


def test_an_answer_that_was_not_asked_for_stops_the_run(small: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="was not asked"):
        run(small, Faulty(good=1, then="twice"), RunRequest(out=tmp_path / "run"))


def test_failed_ones_are_asked_again_only_on_request(small: Benchmark, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(small, Faulty(good=1, then="fail"), RunRequest(out=out))
    run(small, Faulty(good=9, then=""), RunRequest(out=out, resume=True))
    assert sum(p.valid for p in read_predictions(out)) == 1
    run(small, Faulty(good=9, then=""), RunRequest(out=out, resume=True, retry_failed=True))
    assert all(p.valid for p in read_predictions(out))


def test_the_key_is_shut_while_a_system_is_at_work(small: Benchmark, tmp_path: Path) -> None:
    class Cheat(Faulty):
        def predict(self, samples, policies):
            for sample in samples:
                with pytest.raises(LabelHidden):
                    _ = sample.labels
                with pytest.raises(LabelHidden):
                    _ = sample.gold
                assert not (tmp_path / "run" / run_dir.KEY).exists()
                yield Prediction(id=sample.id, status="ok")

    run(small, Cheat(good=0, then=""), RunRequest(out=tmp_path / "run"))
    assert (tmp_path / "run" / run_dir.KEY).exists()


def test_a_run_that_is_taken_up_again_has_no_key_and_no_numbers_until_it_ends(small: Benchmark, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(small, Faulty(good=1, then="fail"), RunRequest(out=out))
    score(out, Scoring(draws=0))
    with pytest.raises(KeyboardInterrupt):
        run(small, Faulty(good=0, then="crash"), RunRequest(out=out, resume=True, retry_failed=True))
    assert not (out / run_dir.KEY).exists()
    assert not (out / run_dir.METRICS).exists()
    with pytest.raises(UsageError, match="not a finished"):
        load(out)
    run(small, Faulty(good=9, then=""), RunRequest(out=out, resume=True, retry_failed=True))
    assert score(out, Scoring(draws=0))["coverage"]["answered"] == len(small.items)


def test_edited_predictions_are_refused(small: Benchmark, tmp_path: Path) -> None:
    run(small, always_safe.tiny(), RunRequest(out=tmp_path / "run"))
    path = tmp_path / "run" / run_dir.PREDICTIONS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(UsageError, match="do not fit"):
        load(tmp_path / "run")


def test_limit_keeps_the_mix_and_marks_the_run_partial(tmp_path: Path) -> None:
    whole = safewatch_real.tiny()
    run(whole, always_safe.tiny(), RunRequest(out=tmp_path / "run", limit=17))
    found = score(tmp_path / "run", Scoring(draws=0))
    assert found["coverage"]["asked"] == 17
    assert found["coverage"]["partial"]
    assert [v["positives"] for v in found["columns"].values()] == [2, 3, 2, 2, 3, 2]


def test_missing_files_can_be_refused(tmp_path: Path) -> None:
    config = manifest.miniature(tmp_path)
    (tmp_path / "clips/0.mp4").unlink()
    less = manifest.build(config)
    with pytest.raises(UsageError, match=r"clips/0\.mp4"):
        run(less, always_safe.tiny(), RunRequest(out=tmp_path / "run", missing="error"))
    run(less, always_safe.tiny(), RunRequest(out=tmp_path / "run2"))
    found = score(tmp_path / "run2", Scoring(draws=0))
    assert found["coverage"] | {"expected": 4, "found": 3, "partial": True} == found["coverage"]
    assert "PARTIAL" in summary_lines(found)[0]


def rows(benchmark: Benchmark) -> tuple[list[Prediction], list[Gold]]:
    """The first violating clip and the last harmless one have no answer; all others are answered rightly."""
    golds = [item.gold for item in benchmark.items]
    made = []
    for item in benchmark.items:
        flags = item.gold.labels
        made.append(Prediction(id=item.sample.id, status="ok", flagged=flags, scores=dict.fromkeys(flags, 0.9)))
    for index in (0, len(made) - 1):
        made[index] = Prediction(id=made[index].id, status="generation_error", code="vlm_timeout")
    return made, golds


def test_invalid_answers_count_as_asked(small: Benchmark) -> None:
    made, golds = rows(small)
    wrong = build_table(made, golds, small.columns, invalid="wrong")
    assert (wrong.flagged == wrong.unsafe).tolist() == [False, True, True, False]
    assert wrong.any_score[[0, -1]].tolist() == [0.0, 1.0]
    negative = build_table(made, golds, small.columns, invalid="negative")
    assert (negative.flagged == negative.unsafe).tolist() == [False, True, True, True]
    assert len(build_table(made, golds, small.columns, invalid="exclude").ids) == 2
    with pytest.raises(UsageError, match="vlm_timeout 2"):
        build_table(made, golds, small.columns, invalid="error")


def test_an_answer_about_a_wider_or_narrower_category_counts(small: Benchmark) -> None:
    golds = [item.gold for item in small.items]
    said = [Prediction(id=str(i), status="ok", flagged=("violence",), scores={"violence": 0.7}) for i in range(4)]
    table = build_table(said, golds, small.columns)
    at = table.columns.index("violence.fighting")
    assert table.flags[:, at].all()
    assert not table.flags[:, 1 - at].any()
    assert table.not_judged[1 - at] == 4
    assert not table.hard


def test_unknown_labels_are_left_out_of_their_column(tmp_path: Path) -> None:
    texts = load_benchmark("openai-moderation", _texts(tmp_path), {}, None)
    made = [Prediction(id=i.sample.id, status="ok") for i in texts.items]
    table = build_table(made, [i.gold for i in texts.items], texts.columns)
    assert not table.known.all()
    assert np.array_equal(table.truth & ~table.known, np.zeros_like(table.truth))


def _texts(folder: Path) -> Path:
    from eval.benchmarks import openai_moderation

    openai_moderation.miniature(folder)
    return folder


def test_settings_are_typed_and_unknown_ones_named(tmp_path: Path) -> None:
    hatecheck.miniature(tmp_path)
    made = build("benchmark", "hatecheck", {"multilingual": "false"}, data=tmp_path)
    assert made.expected == 3
    for given, message in (({"langauge": "x"}, "no setting 'langauge'"), ({"multilingual": "maybe"}, "true or false")):
        with pytest.raises(UsageError, match=message):
            build("benchmark", "hatecheck", given, data=tmp_path)
    with pytest.raises(UsageError, match="--system-set slow_url"):
        build("system", "slow_path", {})
    with pytest.raises(UsageError, match="benign-labels means nothing"):
        load_benchmark("hatecheck", tmp_path, {}, "empty")


def test_benign_labels_are_chosen_out_loud(tmp_path: Path) -> None:
    safewatch_real.miniature(tmp_path)
    empty = load_benchmark("safewatch-real", tmp_path, {}, "empty")
    folder = load_benchmark("safewatch-real", tmp_path, {}, "folder")
    assert sum(not i.gold.labels for i in empty.items) == 6
    assert all(i.gold.labels for i in folder.items)
    assert empty.data_hash == folder.data_hash
    with pytest.raises(UsageError, match="empty or folder"):
        load_benchmark("safewatch-real", tmp_path, {}, "none")


def test_some_safewatch_files_missing_needs_consent(tmp_path: Path) -> None:
    safewatch_real.miniature(tmp_path)
    (tmp_path / "real/C2/child_abuse_benchmark.json").unlink()
    with pytest.raises(UsageError, match="child_abuse_benchmark"):
        load_benchmark("safewatch-real", tmp_path, {}, None)
    made = load_benchmark("safewatch-real", tmp_path, {"partial_ok": "yes"}, None)
    assert (len(made.items), made.expected) == (33, 34)


def test_the_command_line(tmp_path: Path) -> None:
    manifest.miniature(tmp_path)
    runner = CliRunner()
    listed = runner.invoke(app, ["eval", "list", "--data", str(tmp_path)])
    assert "4 of 4 items there" in listed.output
    assert "ucf-crime" in listed.output
    plain = json.loads(runner.invoke(app, ["eval", "list", "--json"]).stdout)
    assert plain["benchmarks"]["xd_violence"]["counts"]["videos"] == 800
    options = ["--data", str(tmp_path), "--system", "always-safe", "--system", "random", "--draws", "10"]
    done = runner.invoke(app, ["eval", "manifest", *options, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/always-safe/metrics.json").exists()
    assert "flag all 1.000" in done.stderr
    again = runner.invoke(app, ["eval", "score", str(tmp_path / "out/random"), "--draws", "10"])
    assert again.exit_code == 0


def test_evaluate_names_a_wrong_part(tmp_path: Path) -> None:
    from eval.command import EvalRequest

    request = EvalRequest(benchmark="xd-violense", out=tmp_path, run=RunRequest(out=tmp_path))
    with pytest.raises(UsageError, match="xd_violence"):
        evaluate(request)
    with pytest.raises(UsageError, match="invalid-policy"):
        evaluate(replace(request, scoring=Scoring(invalid="maybe")))
    several = replace(request, benchmark="flash", systems=("random", "flag_all"), system_settings={"seed": "1"})
    with pytest.raises(UsageError, match="goes with one --system"):
        evaluate(several)


def test_official_numbers_take_an_unreadable_answer_as_nothing_flagged(tmp_path: Path) -> None:
    """As the released evaluator does; the strict ones count it as wrong."""
    whole = safewatch_real.tiny()
    run(whole, Faulty(good=0, then="fail"), RunRequest(out=tmp_path / "run"))
    found = score(tmp_path / "run", Scoring(draws=0))
    assert found["protocols"]["safewatch"]["average"]["accuracy"] == pytest.approx(0.1794, abs=1e-4)  # always safe
    assert found["strict"]["binary/false_refusal"][0] == 1.0
    assert found["strict"]["binary/leakage"][0] == 1.0
    strict = score(tmp_path / "run", Scoring(draws=0, metrics="strict"))
    assert "safewatch" not in strict["protocols"]


def test_rescues_and_regressions_of_a_slow_path(small: Benchmark, tmp_path: Path) -> None:
    """One clip kept, one rescued, one spoiled, one that both have right."""

    class Routed(Faulty):
        def predict(self, samples, policies):
            rows = (
                ("fast", 0.95, True), ("slow", 0.3, True), ("slow", 0.4, True), ("slow", 0.2, False),
            )  # fmt: skip
            for sample, (route, score_, flag) in zip(samples, rows, strict=True):
                yield Prediction(
                    id=sample.id, status="ok", route=route, fast_scores={"violence": score_}, prompt_tokens=9,
                    flagged=("violence.fighting", "illegal.fire") if flag else (), scores={"violence": score_},
                )  # fmt: skip

    run(small, Routed(good=0, then=""), RunRequest(out=tmp_path / "run"))
    found = score(tmp_path / "run", Scoring(draws=0))["routing"]
    assert (found["escalation_rate"], found["rescues"], found["regressions"]) == (0.75, 1, 1)
    assert (found["accuracy_fast_alone"], found["accuracy"]) == (0.75, 0.75)
