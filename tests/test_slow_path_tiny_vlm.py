from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slow_path import rendered_examples, tiny_vlm
from slow_path.chat import Encoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SHAPE = tiny_vlm.Shape(hidden=64, layers=1, heads=2, vision_hidden=32, vision_layers=1, vocabulary=400)


def test_one_seed_makes_one_model_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    corpus = rendered_examples.corpus(10)
    first = load_file(tiny_vlm.make(tmp_path / "a", corpus, SHAPE, seed=1) / "model.safetensors")
    second = load_file(tiny_vlm.make(tmp_path / "b", corpus, SHAPE, seed=1) / "model.safetensors")
    other = load_file(tiny_vlm.make(tmp_path / "c", corpus, SHAPE, seed=2) / "model.safetensors")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_any_text_survives_the_tokenizer(tmp_path: Path) -> None:
    encoder = Encoder(tiny_vlm.make(tmp_path / "m", rendered_examples.corpus(10), SHAPE))
    for text in ('{"a":1.25}', "Grüße 墻 😀", "  two  spaces\n\n", "a_b yes no"):
        assert encoder.tokenizer.decode(encoder.tokenizer(text)["input_ids"]) == text


def test_a_phrase_is_one_token_and_a_picture_costs_what_the_shape_says(tmp_path: Path) -> None:
    shape = replace(SHAPE, merge=4)
    folder = tiny_vlm.make(tmp_path / "m", rendered_examples.corpus(10), shape, phrases=rendered_examples.PHRASES)
    encoder = Encoder(folder)
    made = rendered_examples.example(0)
    pieces = [encoder.tokenizer.decode([i]) for i in encoder.tokenizer(made.answer)["input_ids"]]
    assert "".join(pieces) == made.answer
    assert pieces[0] == '{"observations":[{"start_seconds":"'
    assert len(pieces) < 140
    ids, _ = encoder.prompt(made.request)
    assert ids.count(encoder.image_id) == made.request.images == 6
