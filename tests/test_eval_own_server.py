"""The moderation endpoint as a system, against this project's own server: the same answers as asking it directly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import serving

from eval.benchmarks import hatecheck
from eval.run_dir import read_predictions
from eval.runner import RunRequest, run
from eval.score import Scoring, score
from eval.systems import moderations
from eval.types import Sample


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Running]:
    with serving.running(tmp_path_factory.mktemp("serve"), max_json_bytes=1 << 22, max_inputs=8) as made:
        yield made


@pytest.fixture
def config(server: serving.Running) -> moderations.Config:
    return moderations.Config(base_url=f"{server.url}/v1", api_key=server.key("submit"), frames=2, longest_side_px=64)


def test_texts_are_answered_like_the_server_answers(config: moderations.Config) -> None:
    texts = ("you stupid worthless idiot", "have a nice day")
    samples = [Sample(id=f"{i:016x}", kind="text", text=text) for i, text in enumerate(texts)]
    system = moderations.build(config)
    insult, kind = system.predict(samples, {"": hatecheck.tiny().policies[""]})
    system.close()
    assert "harassment" in insult.flagged
    assert insult.scores["harassment"] > 0.8 > kind.scores["harassment"]
    assert kind.flagged == ()


def test_a_whole_run_without_the_key_in_any_file(config: moderations.Config, tmp_path: Path) -> None:
    run(hatecheck.tiny(), moderations.build(config), RunRequest(out=tmp_path / "run"))
    assert all(p.status == "ok" for p in read_predictions(tmp_path / "run"))
    found = score(tmp_path / "run", Scoring(draws=0))
    assert found["coverage"]["answered"] == 3
    assert config.api_key
    for path in (tmp_path / "run").iterdir():
        assert config.api_key not in path.read_text()


def test_a_wrong_key_is_a_coded_failure(config: moderations.Config, server: serving.Running) -> None:
    wrong = moderations.Config(base_url=config.base_url, api_key="sk-wrong")
    system = moderations.build(wrong)
    sample = Sample(id="0" * 16, kind="text", text="hello")
    (found,) = system.predict([sample], {"": hatecheck.tiny().policies[""]})
    system.close()
    assert (found.status, found.code, found.valid) == ("generation_error", "http_401", False)
