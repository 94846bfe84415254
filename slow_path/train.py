"""Fine-tunes a VLM of the Qwen-VL family on answers, by LoRA (arXiv 2106.09685) or in full, with peft and accelerate.

The loss counts the tokens of the answer alone. Examples come from a function of their number, so that rules can be
drawn, shuffled and renumbered anew for each, and a run that stopped goes on where it was with the same examples.
"""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from guard.errors import InvalidConfig, ResumeMismatch
from guard.plugins import missing_extra
from slow_path.chat import IGNORED, Encoder, Example, load_model

ExampleSource: TypeAlias = Callable[[int], Example]
"""Number of an example, 0 and up, to the example; the same number gives the same one."""
Progress: TypeAlias = Callable[[int, int], None]

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Every linear layer of the language model. The vision tower stays as it is: vLLM serves adapters of the former."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How long and how hard to train."""

    steps: int
    batch: int = 16
    learning_rate: float = 2e-4
    warmup_steps: int = 20
    weight_decay: float = 0.01
    lora_rank: int = 16
    """0 trains every weight and writes a whole model instead of an adapter."""
    lora_alpha: int = 32
    clip_norm: float = 1.0
    save_every: int = 200
    seed: int = 0
    bf16: bool = False
    loss_per: Literal["token", "example"] = "token"
    """What counts equally: every token of an answer, or every answer. With `example` the one token of a one-word
    answer weighs as much as a hundred tokens of a reasoned one."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.lora_rank < 0:
            given = f"steps {self.steps}, batch {self.batch}, rank {self.lora_rank}"
            raise InvalidConfig(
                f"Training needs at least one step and one example per batch, and no negative rank: {given}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training run made."""

    folder: Path
    """Adapter (LoRA) or model (full)."""
    steps: int
    """Steps done in all: fewer than were asked for where the time was up."""
    losses: tuple[float, ...]
    """Mean loss in nats per answer token, one per step of this process."""


def fit(
    model: Path | str,
    source: ExampleSource,
    out: Path,
    settings: TrainSettings,
    *,
    progress: Progress | None = None,
    budget_seconds: float = math.inf,
) -> Trained:
    """Train `model` and write the result to `out`; goes on with an unfinished run that it finds there.

    Args:
        model: hub name or folder.
        source: the examples.
        out: where the result and the state of an unfinished run are kept.
        settings: how long and how hard.
        progress: told the steps done and the steps in all.
        budget_seconds: stop after the step that passes it, with the state saved; the same call then goes on.

    Raises:
        MissingExtra: accelerate, peft or transformers is missing.
        ResumeMismatch: `out` holds an unfinished run with other settings.
    """
    try:
        import torch
        from accelerate import Accelerator
        from accelerate.utils import set_seed
    except ModuleNotFoundError as error:
        raise missing_extra("Fine-tuning a VLM", error.name or "accelerate") from error
    set_seed(settings.seed)
    accelerator: Any = Accelerator(mixed_precision="bf16" if settings.bf16 else "no")
    encoder = Encoder(model)
    network = _trainable(load_model(model), settings)
    decayed = [p for p in network.parameters() if p.requires_grad]
    optimizer: Any = torch.optim.AdamW(decayed, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    start = _resume(accelerator, out, settings)
    losses: list[float] = []
    network.train()
    until = time.monotonic() + budget_seconds
    for step in range(start, settings.steps):
        batch = encoder.batch([source(step * settings.batch + i) for i in range(settings.batch)])
        loss = _loss(network, {key: value.to(accelerator.device) for key, value in batch.items()}, settings)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step + 1, settings.steps)
        late = time.monotonic() >= until
        if late or (step + 1) % settings.save_every == 0:
            _save_state(accelerator, out, step + 1, settings)
            _log(out, step + 1, losses[-settings.save_every :])
        if late and step + 1 < settings.steps:
            return Trained(folder=out, steps=step + 1, losses=tuple(losses))
    _write(accelerator.unwrap_model(network), encoder, out)
    if settings.lora_rank == 0:
        _copy_rest(Path(model), out)
    return Trained(folder=out, steps=settings.steps, losses=tuple(losses))


def _loss(network: Any, batch: dict[str, Any], settings: TrainSettings) -> Any:
    if settings.loss_per == "token":
        return network(**batch).loss
    import torch

    labels = batch.pop("labels")[:, 1:]
    logits = network(**batch).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none")
    counted = (labels != IGNORED).sum(dim=1).clamp(min=1)
    return (each.sum(dim=1) / counted).mean()


def _trainable(network: Any, settings: TrainSettings) -> Any:
    if settings.lora_rank == 0:
        return network
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise missing_extra("Training an adapter", error.name or "peft") from error
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=LORA_TARGETS, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5 has renamed; nothing that a user could change.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(network, config)


def _rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, share))


def _signature(settings: TrainSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if key != "save_every"}


def _save_state(accelerator: Any, out: Path, step: int, settings: TrainSettings) -> None:
    folder = out / "state"
    accelerator.save_state(str(folder))
    # Written last: a state without this line is one that was being written when the run stopped.
    (folder / "run.json").write_text(json.dumps({"step": step, "settings": _signature(settings)}))


def _resume(accelerator: Any, out: Path, settings: TrainSettings) -> int:
    note = out / "state" / "run.json"
    if not note.exists():
        return 0
    saved = json.loads(note.read_text())
    if saved["settings"] != _signature(settings):
        raise ResumeMismatch(f"{str(out)!r} holds an unfinished training run with other settings: {saved['settings']}.")
    accelerator.load_state(str(out / "state"))
    return int(saved["step"])


def _log(out: Path, step: int, losses: list[float]) -> None:
    with (out / "losses.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": step, "loss": round(sum(losses) / len(losses), 5)}) + "\n")


def _write(network: Any, encoder: Encoder, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(str(out))
    encoder.tokenizer.save_pretrained(str(out))
    encoder.images.save_pretrained(str(out))


def _copy_rest(model: Path, out: Path) -> None:
    """Copy the small files that servers want beside a whole model and that nothing here changes."""
    for file in model.glob("*.json") if model.is_dir() else ():
        if not (out / file.name).exists() and not file.name.endswith(".index.json"):
            shutil.copy(file, out / file.name)
