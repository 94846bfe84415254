"""Teaches the vision tower of a new VLM to see before it learns to speak: a linear reading of colour and shape.

From random weights a language model learns to ignore frames long before they mean anything; a tower whose tokens
already tell shapes apart is used at once. Pictures and labels are drawn by the rendered task.
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
    processor: Any = transformers.AutoImageProcessor
    images = processor.from_pretrained(str(folder))
    tower = model.model.visual
    tokens = images.size["longest_edge"] // (images.patch_size * images.merge_size) ** 2
    head = torch.nn.Linear(tokens * model.config.text_config.hidden_size, len(CLASSES))
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=learning_rate)
    right: list[float] = []
    for step in range(steps):
        drawn = [picture(seed * 1_000_003 + step * batch + i) for i in range(batch)]
        labels = torch.tensor([label for _, label in drawn])
        pixels = images([image for image, _ in drawn], return_tensors="pt")
        seen = tower(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
        seen = seen if isinstance(seen, torch.Tensor) else seen.pooler_output
        logits = head(seen.reshape(batch, -1))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        right.append(float((logits.argmax(dim=-1) == labels).float().mean()))
    model.save_pretrained(str(folder))
    last = right[-max(1, steps // 10) :]
    return sum(last) / len(last)
