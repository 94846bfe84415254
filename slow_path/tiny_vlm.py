"""Makes a very small VLM of the Qwen2-VL architecture on the spot: random weights, a tokenizer trained on given text.

It is a real model to every engine (config, tokenizer, chat template, processor, safetensors), made in seconds and
without a download. Tests and benchmarks run vLLM on it, and `slow_path.train` can train it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from guard.plugins import missing_extra

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

PATCH_PX = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Size of the model. The default has about a million parameters."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vision_hidden: int = 64
    vision_layers: int = 2
    vocabulary: int = 1024
    context: int = 8192
    side_px: int = 56
    """Images are brought to this side."""
    merge: int = 2
    """Patches of 14 px along each side of the square that becomes one token: at 2, 56 px cost 4 tokens; at 4, one.
    vLLM 0.32 serves this family with 2 alone."""


def make(
    folder: Path, corpus: Iterable[str], shape: Shape = Shape(), *, phrases: Sequence[str] = (), seed: int = 0
) -> Path:
    """Write a model with random weights to `folder` and return it.

    Args:
        folder: made where it does not exist.
        corpus: text that the tokenizer is trained on, such as prompts and answers.
        shape: size of the model.
        phrases: wording that is always the same, each made one token: what a large model writes in its sleep would
            otherwise fill most of a small one's answer.
        seed: fixes the weights.

    Raises:
        MissingExtra: transformers is not installed.
    """
    try:
        import torch
        from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
    except ModuleNotFoundError as error:
        raise missing_extra("Making a VLM", error.name or "transformers") from error
    folder.mkdir(parents=True, exist_ok=True)
    ids, vocabulary = _write_tokenizer(folder, corpus, shape, phrases)
    _write_processor(folder, shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**_config(shape, ids, vocabulary)))
        _attend_to_like(model)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    return folder


def _attend_to_like(model: Any) -> None:
    """Begin with keys like the queries, so that each token attends to tokens like itself.

    Looking up where a word was said before is what small models learn last; started like this they have it at once
    (after the mimetic initialisation of arXiv 2305.09828).
    """
    for layer in model.model.language_model.layers:
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight.data)


def _config(shape: Shape, ids: dict[str, int], vocabulary: int) -> dict[str, Any]:
    width = shape.hidden // shape.heads
    # The sections of multimodal rotary positions (time, height, width) fill half of a head.
    sections = [width // 2 - 2 * (width * 3 // 16), width * 3 // 16, width * 3 // 16]
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": sections, "rope_theta": 10_000.0}
    text = {
        "model_type": "qwen2_vl_text", "hidden_size": shape.hidden, "intermediate_size": 3 * shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads,
        "vocab_size": vocabulary, "max_position_embeddings": shape.context, "rope_parameters": rope,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
        # 0.02, which suits thousands of dimensions, leaves the attention of so few all but uniform for a long time.
        "initializer_range": shape.hidden**-0.5,
    }  # fmt: skip
    vision = {
        "depth": shape.vision_layers, "embed_dim": shape.vision_hidden, "hidden_size": shape.hidden,
        "num_heads": 4, "mlp_ratio": 2, "patch_size": PATCH_PX, "spatial_merge_size": shape.merge,
        "temporal_patch_size": 2,
    }  # fmt: skip
    return {
        "text_config": text, "vision_config": vision, "tie_word_embeddings": True,
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip


def _write_tokenizer(
    folder: Path, corpus: Iterable[str], shape: Shape, phrases: Sequence[str]
) -> tuple[dict[str, int], int]:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Digits stay single and words split from signs and from underscores: a time, a label or a word of a rule's name is
    # then made of the same tokens wherever it stands.
    pieces = Regex(r"\d| ?[A-Za-z]+|_|[^A-Za-z_\d]+?(?= ?[A-Za-z_\d]|$)|[^A-Za-z_\d]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without(corpus, phrases), trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in dict.fromkeys(phrases)])
    fast: Any = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106 - a special token, no secret
        pad_token="<|endoftext|>",  # noqa: S106
        model_max_length=shape.context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return {token: int(fast.convert_tokens_to_ids(token)) for token in SPECIAL}, len(fast)


def _without(corpus: Iterable[str], phrases: Sequence[str]) -> Iterable[str]:
    """Yield the stretches of text between the phrases: what the tokenizer has to learn."""
    longest_first = sorted(phrases, key=len, reverse=True)
    between = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    return (piece for line in corpus for piece in between.split(line) if piece)


def _write_processor(folder: Path, shape: Shape) -> None:
    pixels = shape.side_px * shape.side_px
    image = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
        "min_pixels": pixels, "max_pixels": pixels, "patch_size": PATCH_PX,
        "temporal_patch_size": 2, "merge_size": shape.merge, "size": {"shortest_edge": pixels, "longest_edge": pixels},
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    video = {**image, "video_processor_type": "Qwen2VLVideoProcessor"}
    del video["image_processor_type"]
    for name, content in (
        ("preprocessor_config.json", image),
        ("video_preprocessor_config.json", video),
        ("processor_config.json", {"processor_class": "Qwen2VLProcessor"}),
        ("chat_template.json", {"chat_template": CHAT_TEMPLATE}),
    ):
        (folder / name).write_text(json.dumps(content, indent=1))
