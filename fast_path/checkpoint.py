"""Read and write a checkpoint folder: `model.safetensors` (encoder and head), `config.json`, `MODEL_CARD.md`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from guard.errors import InvalidConfig

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "MODEL_CARD.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    fingerprint: str
    """First 16 hex digits of the SHA-256 over both files."""


def load(folder: Path | None) -> Checkpoint:
    """Read a checkpoint; None reads the one that the package ships.

    Raises:
        InvalidConfig: a file is absent or damaged, or the format is of another version.
    """
    root = resources.files("fast_path").joinpath("weights", "tiny") if folder is None else folder
    try:
        data, text = root.joinpath(WEIGHTS).read_bytes(), root.joinpath(CONFIG).read_bytes()
        config, tensors = json.loads(text), load_tensors(data)
    except Exception as error:  # safetensors raises its own untyped error for damaged files
        raise InvalidConfig(
            f"No usable checkpoint in {root}: {error}.", hint="Train one with `guard train fast`."
        ) from error
    form = config.get("format") if isinstance(config, dict) else None
    if form != FORMAT:
        raise InvalidConfig(f"The checkpoint in {root} has format {form!r}; this version reads {FORMAT}.")
    encoder = config.get("encoder")
    whole = isinstance(encoder, dict) and isinstance(encoder.get("name"), str) and isinstance(config.get("head"), dict)
    if not whole or not isinstance(encoder.get("settings"), dict):
        raise InvalidConfig(f"{CONFIG} in {root} must hold an encoder (name, settings) and a head.")
    return Checkpoint(config=config, tensors=tensors, fingerprint=hashlib.sha256(data + text).hexdigest()[:16])


def save(folder: Path, *, config: Mapping[str, Any], modules: Mapping[str, nn.Module], card: str) -> None:
    """Write a checkpoint, each file atomically; the tensors of `modules` are stored under their name as prefix."""
    tensors = {
        f"{prefix}.{name}": value.detach().contiguous()
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    text = json.dumps({"format": FORMAT, **config}, indent=2, sort_keys=True) + "\n"
    for name, data in ((WEIGHTS, save_tensors(tensors)), (CONFIG, text.encode()), (CARD, card.encode())):
        write_atomically(folder / name, data)


def fill(module: nn.Module, stored: Checkpoint, *, prefix: str) -> None:
    """Load the tensors under `prefix` into `module`, all of them and no others.

    Raises:
        InvalidConfig: names or shapes do not fit.
    """
    own = {name.removeprefix(prefix): value for name, value in stored.tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise InvalidConfig(f"The checkpoint does not fit its own settings: {error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old or its new content whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
