"""Load a pretrained model from the Hugging Face hub or a local folder, and prepare frames for it.

Weights come from safetensors only and no code of a repository is run. Frames are prepared with torch, because the
fast image processors need torchvision; the numbers (size, mean, deviation) come from the model's own
`preprocessor_config.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from guard.errors import InvalidConfig
from guard.plugins import missing_extra
from guard.types import Float32Array, UInt8Array, require

Fit = Literal["squash", "crop"]
T = TypeVar("T")

_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SAMPLE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model comes from and how it runs."""

    model: str
    """Hub name such as `google/siglip2-base-patch16-224`, or a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; pin a commit in production."""
    device: str = "auto"
    """`auto` (a CUDA device if there is one), `cpu`, `cuda`, `cuda:1`."""
    dtype: str = "float32"
    """`float32`, `bfloat16` or `float16`: of weights and activations; embeddings are float32 always."""

    def torch_dtype(self) -> torch.dtype:
        """Return the dtype. Raises `InvalidConfig` for an unknown one."""
        if self.dtype not in _DTYPES:
            raise InvalidConfig(f"dtype must be one of {', '.join(_DTYPES)}; got {self.dtype!r}.")
        return _DTYPES[self.dtype]

    def torch_device(self) -> torch.device:
        """Return the device. Raises `InvalidConfig` for one that is not there."""
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except Exception as error:  # torch raises several untyped errors for devices that are not there
            raise InvalidConfig(f"device {self.device!r} cannot be used: {error}.") from error
        return device


def transformers_class(name: str) -> Any:
    """Return a class of transformers. Raises `MissingExtra` where it is not installed."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise missing_extra("This encoder", error.name or "transformers") from error
    return getattr(transformers, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars and reports of tensors that another task's head left over."""
    logging = transformers_class("logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def fetch(source: Source, what: str, load: Callable[..., T], **options: Any) -> T:
    """Call a `from_pretrained`-like function.

    Raises:
        InvalidConfig: there is no such model, it is damaged, or the hub is out of reach.
    """
    try:
        with quiet():
            return load(source.model, revision=source.revision, **options)
    except Exception as error:  # OSError, ValueError, SafetensorError and the hub's own, depending on what is wrong
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        where = "The hub may not be asked (HF_HUB_OFFLINE is set). " if offline else ""
        raise InvalidConfig(
            f"No usable {what} in {source.model!r}: {where}{_first_line(error)}",
            hint="Give a local folder, or download the model once where the hub can be reached: "
            f"hf download {source.model}",
        ) from error


def fetch_config(source: Source, allowed: Mapping[str, str]) -> Any:
    """Return a model's config. Raises `InvalidConfig` where its type is not in `allowed` (type to class name)."""
    config = fetch(source, "model config", transformers_class("AutoConfig").from_pretrained)
    if config.model_type not in allowed:
        raise InvalidConfig(
            f"{source.model!r} is a {config.model_type!r} model; allowed are {', '.join(sorted(allowed))}."
        )
    return config


def fetch_model(source: Source, class_name: str) -> Any:
    """Return a model in evaluation mode, without gradients, on its device."""
    cls = transformers_class(class_name)
    dtype, device = source.torch_dtype(), source.torch_device()
    model, info = fetch(
        source, "model", cls.from_pretrained, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    missing = sorted(info["missing_keys"])
    if missing:  # transformers fills them with random numbers and goes on
        raise InvalidConfig(f"{source.model!r} lacks {len(missing)} tensors of {class_name}, such as {missing[0]!r}.")
    return model.eval().requires_grad_(False).to(device)


def fingerprint(model: nn.Module, settings: Mapping[str, Any]) -> str:
    """Return 16 hex digits over settings, and over names, shapes and a sample of the values of every tensor.

    Reading all of several gigabytes at every start would cost more than it tells: 64 evenly spaced values of each
    tensor change with any training.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How frames become pixel values."""

    side_px: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bicubic: bool
    fit: Fit = "squash"
    """`squash` keeps all of the frame and not its shape; `crop` keeps the shape and cuts what is beyond the middle
    square."""

    def apply(self, images: UInt8Array, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Map uint8 [B, H, W, 3] to pixel values [B, 3, side, side]."""
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
        height, width = pixels.shape[-2:]
        size = (self.side_px, self.side_px)
        if self.fit == "crop":
            scale = self.side_px / min(height, width)
            size = (max(self.side_px, round(height * scale)), max(self.side_px, round(width * scale)))
        mode = "bicubic" if self.bicubic else "bilinear"
        pixels = nn.functional.interpolate(pixels, size=size, mode=mode, antialias=True).round().clamp(0, 255)
        top, left = (size[0] - self.side_px) // 2, (size[1] - self.side_px) // 2
        pixels = pixels[..., top : top + self.side_px, left : left + self.side_px] / 255
        mean, deviation = (torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (self.mean, self.deviation))
        return ((pixels - mean) / deviation).to(dtype)


def fetch_preprocessing(source: Source, side_px: int, fit: str) -> Preprocessing:
    """Return the model's own mean, deviation and interpolation at the side that its config gives."""
    if fit not in ("squash", "crop"):
        raise InvalidConfig(f"fit must be squash or crop; got {fit!r}.")
    mixin = transformers_class("ImageProcessingMixin")
    stored, _ = fetch(source, "preprocessor config", mixin.get_image_processor_dict)
    return Preprocessing(
        side_px=side_px,
        mean=_triple(stored.get("image_mean")),
        deviation=_triple(stored.get("image_std")),
        bicubic=int(stored.get("resample", 2)) == 3,  # PIL's numbers: 2 bilinear, 3 bicubic
        fit="crop" if fit == "crop" else "squash",
    )


class Frozen:
    """What a pretrained encoder adds to be trained upon: `prepare` is all of it, and there is nothing left to learn.

    Implements the rest of `fast_path.interfaces.TrainableEncoder` for a class with `embed`, `fingerprint` and `config`.
    """

    config: Any
    fingerprint: str
    network: nn.Module

    def embed(self, clips: UInt8Array) -> Float32Array:
        """Return float32 [N, D] for uint8 [N, L, H, W, 3] RGB."""
        raise NotImplementedError

    @property
    def front_fingerprint(self) -> str:
        """Identifies what `prepare` computes: all of it."""
        return self.fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that rebuild the encoder, and the fingerprint that it must have then; the device is not among
        them."""
        own = {name: value for name, value in asdict(self.config).items() if name not in ("device", "untrained_seed")}
        return {**own, "expected_fingerprint": self.fingerprint}

    def prepare(self, clips: UInt8Array) -> Float32Array:
        """Return the embeddings float32 [N, D]."""
        return self.embed(clips)

    def augment(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the features as they are: frames are what can be changed without changing their meaning."""
        del rng
        return features.clone()


def check_expected(encoder: Frozen, expected: str | None) -> None:
    """Raise `InvalidConfig` where a model is not the one that a head was trained on."""
    if expected is not None and encoder.fingerprint != expected:
        raise InvalidConfig(
            f"{encoder.config.model!r} now has the fingerprint {encoder.fingerprint}; what was trained on it expects "
            f"{expected}.",
            hint="Pin the revision that was trained on, or train again.",
        )


def check_clips(clips: UInt8Array, frames: int) -> None:
    """Raise `ValueError` unless `clips` is uint8 [N, frames, H, W, 3]."""
    fits = clips.ndim == 5 and clips.shape[1] == frames and clips.shape[4] == 3 and str(clips.dtype) == "uint8"
    require(fits, "clips", f"uint8 [N, {frames}, H, W, 3]", f"{clips.dtype} {clips.shape}")


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = values if values is not None else (0.5, 0.5, 0.5)
    return float(red), float(green), float(blue)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
