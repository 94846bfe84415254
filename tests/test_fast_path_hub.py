"""Encoders and detectors over pretrained models: real loading of real layouts, in miniature."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fast_path import hub
from fast_path.detectors import open_vocabulary, probe
from fast_path.encoders import siglip, videomae, vlm_probe
from fast_path.tiny_models import make
from guard.errors import InvalidConfig, MissingExtra
from guard.types import DEFAULT_THRESHOLDS, Rule


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    kinds = ("siglip", "clip", "videomae", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    return {kind: make(kind, root / kind) for kind in kinds}


def clips(count, frames, size=(40, 70), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, *size, 3), dtype=np.uint8)


def broken_copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_both_towers_equal_the_library_itself(folders, kind):
    """Against transformers' own PIL image processor and model, end to end."""
    import transformers

    encoder = siglip.build(siglip.Config(model=str(folders[kind]), device="cpu"))
    given = clips(3, 1, size=(32, 32))  # no resizing, so that only the arithmetic is compared
    processor = {"siglip": transformers.SiglipImageProcessorPil, "clip": transformers.CLIPImageProcessorPil}[kind]
    pixels = processor.from_pretrained(folders[kind], do_center_crop=False)(
        images=list(given[:, 0]), return_tensors="pt"
    )
    model = {"siglip": transformers.SiglipModel, "clip": transformers.CLIPModel}[kind]
    with hub.quiet(), torch.inference_mode():
        features = model.from_pretrained(folders[kind]).get_image_features(**pixels).pooler_output
    expected = torch.nn.functional.normalize(features, dim=-1).numpy()
    np.testing.assert_allclose(encoder.embed(given), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_logits_equal_those_of_the_library(folders, kind):
    import transformers

    encoder = siglip.build(siglip.Config(model=str(folders[kind]), device="cpu"))
    texts = ["a fire in a house", "a weapon"]
    given = clips(2, 1, size=(32, 32))
    with hub.quiet(), torch.inference_mode():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
        tokens = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
        model = transformers.AutoModel.from_pretrained(folders[kind])
        pixels = encoder._preprocessing.apply(given[:, 0], model.device, model.dtype)
        mask = {"attention_mask": tokens["attention_mask"]} if kind == "clip" else {}
        expected = model(input_ids=tokens["input_ids"], pixel_values=pixels, **mask).logits_per_image.numpy()
    np.testing.assert_allclose(encoder.text_logits(given, encoder.embed_text(texts)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bicubic", [True, False])
def test_resizing_is_that_of_pil(bicubic):
    from PIL import Image

    image = clips(1, 1, size=(90, 160))[0, 0]
    done = hub.Preprocessing(side_px=32, mean=(0, 0, 0), deviation=(1, 1, 1), bicubic=bicubic)
    ours = done.apply(image[None], torch.device("cpu"), torch.float32)[0].permute(1, 2, 0).numpy() * 255
    how = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    theirs = np.asarray(Image.fromarray(image).resize((32, 32), how), np.float32)
    assert np.abs(ours - theirs).max() <= 2  # PIL rounds between its two passes


def test_crop_keeps_the_shape_and_squash_keeps_the_borders():
    image = np.zeros((1, 40, 80, 3), np.uint8)
    image[:, :, :15] = 255  # a white bar at the left edge
    how = {"mean": (0, 0, 0), "deviation": (1, 1, 1), "bicubic": False, "side_px": 40}
    squash, crop = (
        hub.Preprocessing(fit=fit, **how).apply(image, torch.device("cpu"), torch.float32) for fit in ("squash", "crop")
    )
    assert squash.max() == 1
    assert crop.max() == 0
    assert squash.shape == crop.shape == (1, 3, 40, 40)


def test_videomae_equals_the_library_itself(folders):
    import transformers

    encoder = videomae.build(videomae.tiny_config(folders["videomae"]))
    given = clips(2, 4, size=(32, 32))
    processor = transformers.VideoMAEImageProcessorPil.from_pretrained(folders["videomae"], do_center_crop=False)
    pixels = processor([list(clip) for clip in given], return_tensors="pt")
    with hub.quiet(), torch.inference_mode():
        model = transformers.VideoMAEModel.from_pretrained(folders["videomae"])
        expected = model(**pixels).last_hidden_state.mean(1).numpy()
    np.testing.assert_allclose(encoder.embed(given), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_vlm_states_depend_on_the_frames(folders, kind, pool):
    config = vlm_probe.Config(
        model=str(folders[kind]), device="cpu", dtype="float32", side_px=64, pool=pool, batch_clips=2
    )
    encoder = vlm_probe.build(config)
    given = clips(3, 2)
    together = encoder.embed(given)
    assert together.shape == (3, 64)
    singles = np.concatenate([encoder.embed(clip[None]) for clip in given])
    np.testing.assert_allclose(together, singles, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 1e-4


def test_vlm_layers_and_pools_differ_and_are_fingerprinted(folders):
    base = vlm_probe.tiny_config(folders["qwen2_vl"])
    given = clips(1, 2)
    variants = [{}, {"pool": "last"}, {"layer": 1}, {"question": "What is shown?"}]
    encoders = [vlm_probe.build(vlm_probe.Config(**{**hub.asdict(base), **change})) for change in variants]
    assert len({encoder.fingerprint for encoder in encoders}) == 4
    results = [encoder.embed(given) for encoder in encoders[:3]]
    assert np.abs(results[0] - results[1]).max() > 1e-4
    assert np.abs(results[0] - results[2]).max() > 1e-4


@pytest.mark.parametrize("change", [{"pool": "max"}, {"layer": 7}, {"layer": -4}])
def test_vlm_settings_out_of_range_are_refused(folders, change):
    with pytest.raises(InvalidConfig, match=next(iter(change))):
        vlm_probe.build(vlm_probe.Config(**{**hub.asdict(vlm_probe.tiny_config(folders["qwen2_vl"])), **change}))


@pytest.mark.parametrize("part", [siglip, videomae, vlm_probe])
def test_a_model_that_is_not_there_names_the_next_step(part, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, perhaps before this test
    with pytest.raises(InvalidConfig, match="HF_HUB_OFFLINE") as caught:
        part.build(part.Config(model="nobody/nothing-of-that-name"))
    assert "local folder" in caught.value.hint


@pytest.mark.parametrize(("part", "kind"), [(siglip, "videomae"), (videomae, "siglip"), (vlm_probe, "clip")])
def test_another_architecture_is_refused(folders, part, kind):
    with pytest.raises(InvalidConfig, match="allowed are"):
        part.build(part.Config(model=str(folders[kind]), dtype="float32"))


def test_missing_tensors_are_not_filled_with_random_ones(folders, tmp_path):
    folder = broken_copy(folders["videomae"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "layer" in name and name.endswith("weight")))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidConfig, match="lacks 1 tensors"):
        videomae.build(videomae.Config(model=str(folder)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_damaged_and_absent_files_are_typed_errors(folders, tmp_path, name):
    folder = broken_copy(folders["siglip"], tmp_path)
    (folder / name).write_bytes(b"\x00junk")
    with pytest.raises(InvalidConfig):
        siglip.build(siglip.Config(model=str(folder)))
    (folder / name).unlink()
    with pytest.raises(InvalidConfig):
        siglip.build(siglip.Config(model=str(folder)))


def test_pickled_weights_are_not_opened(folders, tmp_path):
    folder = broken_copy(folders["videomae"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(InvalidConfig):
        videomae.build(videomae.Config(model=str(folder)))


@pytest.mark.parametrize("change", [{"dtype": "int4"}, {"device": "abacus"}, {"device": "cuda:77"}, {"fit": "stretch"}])
def test_settings_that_cannot_be_are_refused(folders, change):
    with pytest.raises(InvalidConfig, match=next(iter(change))):
        siglip.build(siglip.Config(**{"model": str(folders["siglip"]), "device": "cpu", **change}))


def test_half_precision_is_close(folders):
    full = siglip.build(siglip.Config(model=str(folders["siglip"]), device="cpu"))
    half = siglip.build(siglip.Config(model=str(folders["siglip"]), device="cpu", dtype="bfloat16"))
    given = clips(2, 1)
    assert half.embed(given).dtype == np.float32
    assert half.fingerprint != full.fingerprint
    np.testing.assert_allclose(half.embed(given), full.embed(given), atol=0.03)


def test_fingerprint_sees_weights_and_not_the_folder(folders, tmp_path):
    moved = broken_copy(folders["siglip"], tmp_path)
    first = siglip.build(siglip.Config(model=str(folders["siglip"]), device="cpu"))
    assert siglip.build(siglip.Config(model=str(moved), device="cpu")).fingerprint == first.fingerprint
    other = make("siglip", tmp_path / "other", seed=1)
    assert siglip.build(siglip.Config(model=str(other), device="cpu")).fingerprint != first.fingerprint


def test_a_missing_library_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match="transformers") as caught:
        siglip.build(siglip.Config())
    assert "[hub]" in caught.value.hint


def test_a_probe_comes_back_from_its_checkpoint(folders, tmp_path):
    encoder = siglip.build(siglip.tiny_config(folders["siglip"]))
    probe.write_untrained(tmp_path / "head", "siglip", encoder.settings, encoder.dimension)
    detector = probe.build(probe.Config(weights=tmp_path / "head", device="cpu"))
    assert detector.encoder.fingerprint == encoder.fingerprint
    assert detector.needs.burst_frames == encoder.clip_frames
    probe.write_untrained(tmp_path / "other", "siglip", encoder.settings, encoder.dimension, seed=1)
    assert probe.build(probe.Config(weights=tmp_path / "other", device="cpu")).fingerprint != detector.fingerprint


def test_a_probe_refuses_another_encoder_than_it_was_trained_on(folders, tmp_path):
    encoder = siglip.build(siglip.tiny_config(folders["siglip"]))
    other = make("siglip", tmp_path / "model", seed=1)
    settings = {**encoder.settings, "model": str(other)}
    probe.write_untrained(tmp_path / "head", "siglip", settings, encoder.dimension)
    with pytest.raises(InvalidConfig, match="fingerprint"):
        probe.build(probe.Config(weights=tmp_path / "head", device="cpu"))


def test_a_probe_needs_a_checkpoint_that_fits(folders, tmp_path):
    with pytest.raises(InvalidConfig, match="none was given"):
        probe.build(probe.Config())
    encoder = siglip.build(siglip.tiny_config(folders["siglip"]))
    probe.write_untrained(tmp_path / "head", "siglip", encoder.settings, encoder.dimension + 1)
    with pytest.raises(InvalidConfig, match="embeddings of 33"):
        probe.build(probe.Config(weights=tmp_path / "head", device="cpu"))


def test_a_probe_loads_the_shipped_checkpoint_too():
    from importlib import resources
    from pathlib import Path

    folder = Path(str(resources.files("fast_path"))) / "weights" / "tiny"
    detector = probe.build(probe.Config(weights=folder))
    assert detector.categories == tuple(json.loads((folder / "config.json").read_text())["head"]["categories"])


@pytest.fixture(scope="module")
def words():
    return open_vocabulary.tiny()


def test_open_vocabulary_scores_are_the_softmax_against_ordinary_scenes(words):
    logits = np.array([[2.0, -1.0, *([0.0] * len(words.config.neutral))]], np.float32)
    count = len(words.config.neutral)
    plain = [np.exp(value) / (np.exp(value) + count) for value in (2.0, -1.0)]
    np.testing.assert_allclose(words.moment_scores(logits)[0], [0.1 + 0.79 * p for p in plain], rtol=1e-5)


def test_several_prompts_of_a_category_count_by_the_best():
    encoder = siglip.tiny()
    config = open_vocabulary.Config(prompts={"custom.a": ("one", "two"), "custom.b": ("three",)}, neutral=("none",))
    detector = open_vocabulary.Detector(config, encoder)
    logits = np.array([[0.0, 3.0, 1.0, 0.0]], np.float32)
    swapped = np.array([[3.0, 0.0, 1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(detector.moment_scores(logits), detector.moment_scores(swapped))
    assert detector.moment_scores(logits)[0, 0] > detector.moment_scores(logits)[0, 1]


def test_words_alone_neither_clear_nor_block(words):
    hopeless = np.full((1, len(words.categories) + len(words.config.neutral)), 40.0, np.float32)
    hopeless[:, : len(words.categories)] = -40.0
    assert np.all(words.moment_scores(hopeless) >= DEFAULT_THRESHOLDS.clear_below)
    certain = -hopeless
    assert np.all(words.moment_scores(certain) < DEFAULT_THRESHOLDS.block_at)
    assert np.all(words.moment_scores(certain) > words.moment_scores(hopeless))


def test_prompts_come_from_policy_rules():
    rules = [
        Rule(category="custom.parkour", state="block", name="Parkour", definition="Jumping", blocked=("on roofs",)),
        Rule(category="custom.empty", state="block"),
    ]
    assert open_vocabulary.prompts_of(rules) == {"custom.parkour": ("Parkour", "Jumping", "on roofs")}
    assert "violence.fighting" in open_vocabulary.default_prompts()
    assert "spam" not in open_vocabulary.default_prompts()


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"prompts": {}}, "needs a prompt"),
        ({"prompts": {"violence": ()}}, "needs a prompt"),
        ({"neutral": ()}, "neutral"),
        ({"prompts": {"violense": ("x",)}}, "Did you mean 'violence'"),
        ({"encoder": {"modle": "x"}}, "modle"),
    ],
)
def test_open_vocabulary_refuses_what_cannot_be(config, match):
    with pytest.raises(InvalidConfig, match=match):
        open_vocabulary.build(open_vocabulary.Config(**config))
