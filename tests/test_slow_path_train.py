from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guard.errors import InvalidConfig, ResumeMismatch
from slow_path import rendered_examples, tiny_vlm, warmup
from slow_path.chat import IGNORED, Encoder, load_model
from slow_path.train import TrainSettings, _loss, fit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHAPE = tiny_vlm.Shape(hidden=64, layers=2, heads=2, vision_hidden=32, vision_layers=1, vocabulary=700)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm.make(tmp_path_factory.mktemp("vlm"), rendered_examples.corpus(60), SHAPE)


def settings(**changes: object) -> TrainSettings:
    base = {"steps": 8, "batch": 2, "learning_rate": 1e-2, "warmup_steps": 1, "lora_rank": 4, "save_every": 4}
    return TrainSettings(**{**base, **changes})  # type: ignore[arg-type]


def test_only_the_answer_counts_and_every_image_has_its_tokens(model: Path) -> None:
    encoder = Encoder(model)
    made = [rendered_examples.example(seed) for seed in (1, 2)]
    batch = encoder.batch(made)
    for row, example in enumerate(made):
        counted = batch["labels"][row] != IGNORED
        text = encoder.tokenizer.decode(batch["labels"][row][counted])
        assert text == example.answer + "<|im_end|>"
    assert int(batch["mm_token_type_ids"].sum()) == 2 * 6 * 4, "six frames of 56 px, four tokens each"
    assert batch["image_grid_thw"].shape == (12, 3)
    assert bool((batch["input_ids"][batch["labels"] != IGNORED] == batch["labels"][batch["labels"] != IGNORED]).all())


def test_a_label_is_a_token_of_its_own(model: Path) -> None:
    tokenizer = Encoder(model).tokenizer
    pieces = [tokenizer.decode([i]) for i in tokenizer(rendered_examples.example(4).answer)["input_ids"]]
    assert {"yes", "no"} & set(pieces)
    assert {"red", "blue", "green", "yellow"} & set(pieces), "the words of a rule's name are tokens of their own"


def test_with_a_loss_per_example_a_word_weighs_as_much_as_a_whole_answer(model: Path) -> None:
    encoder, network = Encoder(model), load_model(model)
    long, short = rendered_examples.example(4), rendered_examples.example(7)
    assert short.answer in ("yes", "no")
    with torch.no_grad():
        alone = [float(_loss(network, encoder.batch([one]), settings(loss_per="token"))) for one in (long, short)]
        by_example = float(_loss(network, encoder.batch([long, short]), settings(loss_per="example")))
        by_token = float(_loss(network, encoder.batch([long, short]), settings(loss_per="token")))
    assert by_example == pytest.approx(sum(alone) / 2, rel=1e-4)
    assert abs(by_token - alone[0]) < abs(by_example - alone[0])


def test_a_run_out_of_time_saves_itself_and_goes_on(model: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out, chosen = tmp_path / "out", settings(steps=3)
    first = fit(model, rendered_examples.example, out, chosen, budget_seconds=0.0)
    assert (first.steps, (out / "model.safetensors").exists()) == (1, False)
    second = fit(model, rendered_examples.example, out, chosen, progress=lambda *step: told.append(step))
    assert (second.steps, len(second.losses), told) == (3, 2, [(2, 3), (3, 3)])
    assert (out / "adapter_model.safetensors").exists()


def test_an_adapter_learns_and_leaves_the_model_alone(model: Path, tmp_path: Path) -> None:
    before = load_file(model / "model.safetensors")
    trained = fit(
        model, lambda n: rendered_examples.example(n % 2), tmp_path / "out", settings(steps=30, learning_rate=3e-3)
    )
    assert sum(trained.losses[-5:]) < 0.95 * sum(trained.losses[:5])
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert names
    assert not [name for name in names if "visual" in name]
    after = load_file(model / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_full_training_writes_a_model_that_loads(model: Path, tmp_path: Path) -> None:
    fit(model, rendered_examples.example, tmp_path / "out", settings(steps=2, lora_rank=0))
    loaded = load_model(tmp_path / "out")
    assert type(loaded).__name__ == "Qwen2VLForConditionalGeneration"
    assert {f.name for f in model.glob("*.json")} <= {f.name for f in (tmp_path / "out").iterdir()}, "as vLLM wants it"
    assert Encoder(tmp_path / "out").tokenizer.chat_template == tiny_vlm.CHAT_TEMPLATE


def test_a_run_that_stopped_ends_where_an_unbroken_one_does(model: Path, tmp_path: Path) -> None:
    whole = fit(model, rendered_examples.example, tmp_path / "whole", settings())

    def breaking(number: int) -> rendered_examples.Example:
        if number >= 10:  # in step 5, after the state of step 4 was saved
            raise KeyboardInterrupt
        return rendered_examples.example(number)

    with pytest.raises(KeyboardInterrupt):
        fit(model, breaking, tmp_path / "broken", settings())
    resumed = fit(model, rendered_examples.example, tmp_path / "broken", settings())
    assert len(resumed.losses) == 4
    assert resumed.losses[-1] == pytest.approx(whole.losses[-1], rel=1e-4)


def test_an_unfinished_run_with_other_settings_is_not_continued(model: Path, tmp_path: Path) -> None:
    fit(model, rendered_examples.example, tmp_path / "out", settings(steps=4))
    with pytest.raises(ResumeMismatch, match="other settings"):
        fit(model, rendered_examples.example, tmp_path / "out", settings(steps=5))


def test_settings_must_make_sense() -> None:
    with pytest.raises(InvalidConfig, match="at least one step"):
        settings(steps=0)


def test_warming_up_teaches_the_tower_to_see(tmp_path: Path) -> None:
    folder = tiny_vlm.make(tmp_path / "m", rendered_examples.corpus(20), SHAPE)
    accuracy = warmup.warm_vision(folder, steps=60, batch=32, learning_rate=2e-3)
    assert accuracy > 3 / len(warmup.CLASSES), "three times chance"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_vl"
