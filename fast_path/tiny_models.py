"""Pretrained models in miniature: real architectures and file layouts with random weights, written in a moment.

The hub encoders load these exactly as they load a downloaded model; tests and demos need no network.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from fast_path.hub import quiet, transformers_class

T = TypeVar("T")

WORDS = (
    "a person fighting in the street", "a fire in a house", "people walking in a park", "an ordinary scene", "a weapon",
    "someone doing parkour on a roof", "does this video break the content policy user assistant",
)  # fmt: skip
"""What the tokenizers are trained on."""

_QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


def built(kind: str, build: Callable[[Path], T], *, seed: int = 0) -> T:
    """Make a model of `kind` in a folder that is gone afterwards, and return what `build` loads from it."""
    with tempfile.TemporaryDirectory() as folder:
        return build(make(kind, Path(folder), seed=seed))


def make(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a model of `kind` (`siglip`, `clip`, `videomae`, `qwen2_vl`, `qwen2_5_vl` or `qwen3_vl`) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        _MAKERS[kind](folder)
    return folder


def _siglip(folder: Path) -> None:
    ids = _tokenizer(folder, ("<pad>", "</s>"), pad="<pad>", eos="</s>", length=16)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": ids["size"], "max_position_embeddings": 16, "projection_size": 32}
    text |= {"pad_token_id": ids["<pad>"], "bos_token_id": ids["</s>"], "eos_token_id": ids["</s>"]}
    config = transformers_class("SiglipConfig")(
        text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}
    )
    model = transformers_class("SiglipModel")(config)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-1.0)
    model.save_pretrained(folder)
    _preprocessor(folder, "SiglipImageProcessor", {"height": 32, "width": 32}, resample=3)


def _clip(folder: Path) -> None:
    ids = _tokenizer(folder, ("<pad>", "<s>", "</s>"), pad="<pad>", eos="</s>", length=16)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": ids["size"], "max_position_embeddings": 16}
    text |= {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
    config = transformers_class("CLIPConfig")(
        text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=24
    )
    transformers_class("CLIPModel")(config).save_pretrained(folder)
    _preprocessor(folder, "CLIPImageProcessor", {"shortest_edge": 32}, resample=3)


def _videomae(folder: Path) -> None:
    config = transformers_class("VideoMAEConfig")(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=48,
    )  # fmt: skip
    transformers_class("VideoMAEModel")(config).save_pretrained(folder)
    _preprocessor(folder, "VideoMAEImageProcessor", {"shortest_edge": 32}, resample=2)


def _qwen(folder: Path, kind: str) -> None:
    ids = _tokenizer(folder, _QWEN_TOKENS, pad="<|endoftext|>", eos="<|im_end|>", length=4096)
    patch = 16 if kind == "qwen3_vl" else 14
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    text = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": ids["size"], "max_position_embeddings": 4096,
        "rope_parameters": rope, "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 2, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
    if kind == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 56}
    if kind == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    config = transformers_class(f"{names[kind]}Config")(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    # saved with its language head, as such models are published
    transformers_class(f"{names[kind]}ForConditionalGeneration")(config).save_pretrained(folder)
    extra = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 28 * 28, "longest_edge": 224 * 224}
    _preprocessor(folder, "Qwen2VLImageProcessor", size, resample=3, **extra)


_MAKERS: Mapping[str, Callable[[Path], None]] = {
    "siglip": _siglip,
    "clip": _clip,
    "videomae": _videomae,
    "qwen2_vl": lambda folder: _qwen(folder, "qwen2_vl"),
    "qwen2_5_vl": lambda folder: _qwen(folder, "qwen2_5_vl"),
    "qwen3_vl": lambda folder: _qwen(folder, "qwen3_vl"),
}


def _tokenizer(folder: Path, special: tuple[str, ...], *, pad: str, eos: str, length: int) -> dict[str, int]:
    """Train a small byte-level BPE on `WORDS`; return the ids of the special tokens, and the size of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    if "</s>" in special:
        at = tokenizer.token_to_id("</s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", at)])
    fast = transformers_class("PreTrainedTokenizerFast")(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=eos, model_max_length=length
    )
    fast.save_pretrained(folder)
    return {name: int(fast.convert_tokens_to_ids(name)) for name in special} | {"size": len(fast)}


def _preprocessor(folder: Path, name: str, size: Mapping[str, int], *, resample: int, **extra: int) -> None:
    content = {
        "image_processor_type": name, "do_resize": True, "do_rescale": True, "do_normalize": True, "size": dict(size),
        "resample": resample, "image_mean": [0.5, 0.45, 0.4], "image_std": [0.5, 0.25, 0.2], **extra,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
