"""Teaches the vision tower of a new VLM to see before it learns to speak: frames become words.

From random weights a language model learns to ignore frames long before they mean anything. Here the tower learns to
put each frame where the embedding of the word for what it shows lies, so that the model reads it as it reads words.
Pictures and labels are drawn by the rendered task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slow_path import rendered
from slow_path.chat import decode, load_model
from slow_path.frames import FrameBudget, encode
from slow_path.rendered import Clip, Event

CLASSES = (*rendered.KINDS, "nothing")


def picture(seed: int, *, side: int = 56) -> tuple[Any, int]:
    """Return one picture (uint8 [side, side, 3], through JPEG as in use) and the index of what it shows in
    `CLASSES`."""
    rng = np.random.default_rng((seed, 3))
    label = int(rng.integers(len(CLASSES)))
    events: tuple[Event, ...] = ()
    if CLASSES[label] != "nothing":
        colour, shape = CLASSES[label].split("_")
        radius = float(rng.uniform(0.2, 0.3))
        x, y = (float(v) for v in rng.uniform(radius, 1 - radius, size=2))
        events = (Event(colour=colour, shape=shape, first=0, last=0, centre=(x, y), radius=radius),)
    text = str(rng.choice(rendered.CLUTTER)) if rng.random() < 0.25 else ""
    clip = Clip(seed=seed, times_seconds=(0.0,), events=events, text=text)
    drawn = rendered.picture(clip, 0, side, np.random.default_rng((seed, 6)))
    return decode(encode(drawn, FrameBudget(longest_side_px=side))), label


def warm_vision(folder: Path, *, steps: int, batch: int = 48, learning_rate: float = 1e-3, seed: int = 0) -> float:
    """Train the vision tower of the model in `folder`, in place; return the accuracy over the last tenth of the
    steps."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = load_model(folder)
    library: Any = transformers
    images: Any = library.AutoImageProcessor.from_pretrained(str(folder))
    tower, words = model.model.visual, _Words(folder, model)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    right: list[float] = []
    for step in range(steps):
        drawn = [picture(seed * 1_000_003 + step * batch + i) for i in range(batch)]
        pixels = images([image for image, _ in drawn], return_tensors="pt")
        seen = tower(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
        seen = seen if isinstance(seen, torch.Tensor) else seen.pooler_output
        loss, hits = words.loss(seen.reshape(batch, -1, seen.shape[-1]).mean(dim=1), [label for _, label in drawn])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        right.append(hits)
    model.save_pretrained(str(folder))
    last = right[-max(1, steps // 10) :]
    return sum(last) / len(last)


class _Words:
    """The embeddings of the words for what a frame can show."""

    def __init__(self, folder: Path, model: Any) -> None:
        import transformers

        library: Any = transformers
        tokenizer: Any = library.AutoTokenizer.from_pretrained(str(folder))
        table = model.get_input_embeddings().weight.detach()
        self.words = table[[tokenizer(word)["input_ids"][0] for word in CLASSES]]

    def loss(self, seen: Any, labels: list[int]) -> tuple[Any, float]:
        """Return how far `seen` [B, D] is from the words for `labels`, and the share that is nearest to its word."""
        import torch

        # Scaled so that a frame as long as its word is a confident one.
        scale = 8.0 / float(self.words.pow(2).sum(dim=1).mean())
        logits, wanted = scale * seen @ self.words.T, torch.tensor(labels)
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        return loss, float((logits.argmax(dim=1) == wanted).float().mean())
