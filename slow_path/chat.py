"""From a `Request` to the tensors of a Qwen-VL model in transformers: for training and for the in-process engine.

Assembled from the tokenizer and the image processor alone: transformers' ready-made processor of this family also wants
torchvision, for videos that are never sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from guard.plugins import missing_extra
from guard.types import UInt8Array
from slow_path.engine import ImagePart, Request

IGNORED = -100
"""Label of a position that has no part in the loss (the default of torch's cross-entropy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A request and the answer that a model should learn to give."""

    request: Request
    answer: str
    given: str = ""
    """Beginning of the answer that is told and not learned; `answer` is what follows it."""


class Encoder:
    """Turns requests into token ids and pixels."""

    def __init__(self, model: str | Path) -> None:
        """Load tokenizer and image processor of `model`. Raises `MissingExtra` without transformers."""
        try:
            import transformers
        except ModuleNotFoundError as error:
            raise missing_extra("Running a VLM in this process", error.name or "transformers") from error
        library: Any = transformers
        self.tokenizer: Any = library.AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
        self.images: Any = library.AutoImageProcessor.from_pretrained(str(model), trust_remote_code=False)
        self.image_id = int(self.tokenizer.convert_tokens_to_ids("<|image_pad|>"))

    def prompt(self, request: Request) -> tuple[list[int], dict[str, Any]]:
        """Return token ids up to the model's turn, and `pixel_values` and `image_grid_thw` where there are images."""
        content = [
            {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
            for part in request.parts
        ]
        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        pictures = [decode(part.jpeg) for part in request.parts if isinstance(part, ImagePart)]
        if not pictures:
            return ids, {}
        pixels = dict(self.images(pictures, return_tensors="pt"))
        merged = pixels["image_grid_thw"].prod(dim=-1) // self.images.merge_size**2
        return self._expanded(ids, merged.tolist()), pixels

    def batch(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return padded model inputs with `labels` that count the answer's tokens alone."""
        import torch

        rows, labels, pixels = [], [], []
        for example in examples:
            ids, picture = self.prompt(example.request)
            if example.given:
                ids += list(self.tokenizer(example.given, add_special_tokens=False)["input_ids"])
            answer = list(self.tokenizer(example.answer, add_special_tokens=False)["input_ids"])
            answer.append(int(self.tokenizer.eos_token_id))
            rows.append(torch.tensor(ids + answer))
            labels.append(torch.tensor([IGNORED] * len(ids) + answer))
            pixels += [picture] if picture else []
        pad = torch.nn.utils.rnn.pad_sequence
        inputs = pad(rows, batch_first=True, padding_value=int(self.tokenizer.pad_token_id))
        mask = pad([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        made = {
            "input_ids": inputs,
            "attention_mask": mask,
            "labels": pad(labels, batch_first=True, padding_value=IGNORED),
            "mm_token_type_ids": (inputs == self.image_id).int(),
        }
        for key in ("pixel_values", "image_grid_thw") if pixels else ():
            made[key] = torch.cat([picture[key] for picture in pixels])
        return made

    def _expanded(self, ids: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Repeat each image placeholder as often as its image has tokens."""
        remaining = iter(counts)
        made: list[int] = []
        for token in ids:
            made += [token] * (next(remaining) if token == self.image_id else 1)
        return made


def decode(jpeg: bytes) -> UInt8Array:
    """Return the picture of a JPEG that this program encoded, uint8 [H, W, 3], RGB."""
    picture = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("a frame that was encoded here cannot be decoded")
    return np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8)


def load_model(model: str | Path) -> Any:
    """Return a vision-language model of transformers. Raises `MissingExtra` without it."""
    try:
        from transformers import AutoModelForImageTextToText
    except ModuleNotFoundError as error:
        raise missing_extra("Running a VLM in this process", error.name or "transformers") from error
    return AutoModelForImageTextToText.from_pretrained(str(model), trust_remote_code=False)
