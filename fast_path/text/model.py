"""The weights of the text classifier: one 8-bit linear layer over hashed n-grams, and how they are kept on disk.

Only numpy. A weight is stored as the signed root of its share of the largest one, in 127 steps: most weights are small,
and even steps would round them all to nothing. Sums are float32 over one text's own features in a fixed order, so a
score does not depend on the batch it came in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fast_path.text.features import Bags, FeatureConfig, word_hashes
from guard.errors import InvalidConfig
from guard.types import Float32Array, require

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "MODEL_CARD.md"
CALIBRATION = "calibration.json"
VOCABULARY_BITS_LOG2 = 20
_LEVELS = 127
_IDF_STEP = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LinearModel:
    """Weights of C categories over 2 x B buckets (characters, then words)."""

    categories: tuple[str, ...]
    features: FeatureConfig
    weights: NDArray[np.int8]
    """int8 [2B, C]: companded, see `expand`."""
    scales: Float32Array
    """float32 [C]: the largest absolute weight of each category."""
    bias: Float32Array
    """float32 [C]."""
    idf: NDArray[np.uint8]
    """uint8 [2B]: inverse document frequency in steps of 0.05; 0 for a bucket too rare to be kept."""
    slope: Float32Array
    """float32 [C]: Platt calibration, probability = sigmoid(slope * logit + offset)."""
    offset: Float32Array
    """float32 [C]."""
    vocabulary: NDArray[np.uint8]
    """uint8 [2**17]: one bit for each hash of a word that several training texts share."""

    def __post_init__(self) -> None:
        width, rows = len(self.categories), 2 * self.features.buckets
        require(self.weights.shape == (rows, width), "weights", f"int8 {(rows, width)}", self.weights.shape)
        require(self.idf.shape == (rows,), "idf", f"uint8 {(rows,)}", self.idf.shape)
        for name in ("scales", "bias", "slope", "offset"):
            require(getattr(self, name).shape == (width,), name, f"float32 {(width,)}", getattr(self, name).shape)
        require(len(self.vocabulary) * 8 == 1 << VOCABULARY_BITS_LOG2, "vocabulary", "2**17", len(self.vocabulary))

    def logits(self, bags: Bags) -> Float32Array:
        """Return float32 [N, C] of N texts; a text without known features gets the bias."""
        found = [self._logit(bags, index) for index in range(len(bags))]
        return np.stack(found) if found else np.empty((0, len(self.categories)), np.float32)

    def probability(self, logits: Float32Array) -> Float32Array:
        """Return calibrated probabilities, float32 in [0, 1], of `logits` [..., C]."""
        z = np.clip(self.slope * logits + self.offset, -30.0, 30.0)
        result: Float32Array = (1.0 / (1.0 + np.exp(-z))).astype(np.float32)
        return result

    def known(self, words: str) -> NDArray[np.bool_]:
        """Return bool [W]: whether each word occurs in the training vocabulary (a hash test: 2 to 4 % false hits)."""
        return has_bits(self.vocabulary, words)

    def _logit(self, bags: Bags, index: int) -> Float32Array:
        row = bags.row(index)
        total = self.bias.copy()
        for kind in (0, 1):
            at = bags.indices[row][bags.kinds[row] == kind] + kind * self.features.buckets
            idf = self.idf[at].astype(np.float32) * np.float32(_IDF_STEP)
            length = np.sqrt(np.sum(idf * idf, dtype=np.float32))
            if length > 0:
                total += (idf / length) @ expand(self.weights[at], self.scales)
        return total


def compand(weights: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int8], Float32Array]:
    """Return int8 [R, C] and the scale of each column: the inverse of `expand`, up to rounding."""
    scales = np.maximum(np.abs(weights).max(axis=0), 1e-12).astype(np.float32)
    return np.rint(np.sign(weights) * np.sqrt(np.abs(weights) / scales) * _LEVELS).astype(np.int8), scales


def expand(stored: NDArray[np.int8], scales: Float32Array) -> Float32Array:
    """Return float32 weights: a stored 64 of 127 is a quarter of the largest weight."""
    root = stored.astype(np.float32) / np.float32(_LEVELS)
    result: Float32Array = np.sign(root) * root * root * scales
    return result


def quantise_idf(idf: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return uint8 steps of 0.05; 12.75 is the ceiling, reached past exp(12) texts."""
    result: NDArray[np.uint8] = np.clip(np.rint(idf / _IDF_STEP), 0, 255).astype(np.uint8)
    return result


def idf_values(stored: NDArray[np.uint8]) -> Float32Array:
    """Return the float32 values of `quantise_idf`."""
    return stored.astype(np.float32) * np.float32(_IDF_STEP)


def bit_positions(words: str) -> NDArray[np.int64]:
    """Return the vocabulary bit of each word, int64 [W]."""
    return (word_hashes(words) >> np.uint64(64 - VOCABULARY_BITS_LOG2)).astype(np.int64)


def has_bits(vocabulary: NDArray[np.uint8], words: str) -> NDArray[np.bool_]:
    """Return bool [W]: whether the bit of each word is set."""
    bits = bit_positions(words)
    hits: NDArray[np.bool_] = (vocabulary[bits >> 3] >> (bits & 7).astype(np.uint8) & 1).astype(bool)
    return hits


def save(folder: Path, model: LinearModel, *, extra: Mapping[str, Any], card: str) -> str:
    """Write weights, settings and model card, each file whole or not at all; return the fingerprint."""
    names = ("weights", "scales", "bias", "idf", "slope", "offset", "vocabulary")
    tensors = {name: np.ascontiguousarray(getattr(model, name)) for name in names}
    config = {"format": FORMAT, "categories": list(model.categories), "features": asdict(model.features), **extra}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors(tensors)
    for name, data in ((WEIGHTS, weights), (CONFIG, text.encode()), (CARD, card.encode())):
        part = folder / f"{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)
    return hashlib.sha256(weights + text.encode()).hexdigest()[:16]


def load(folder: Path | None = None) -> tuple[LinearModel, str]:
    """Read a checkpoint folder; None reads the one that the package ships. Returns the model and its fingerprint.

    Raises:
        InvalidConfig: a file is absent or damaged, or of another format.
    """
    root = resources.files("fast_path").joinpath("weights", "text") if folder is None else folder
    try:
        data, text = root.joinpath(WEIGHTS).read_bytes(), root.joinpath(CONFIG).read_bytes()
        config, tensors = json.loads(text), load_tensors(data)
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']!r}; this version reads {FORMAT}")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["features"].items()}
        model = LinearModel(categories=tuple(config["categories"]), features=FeatureConfig(**settings), **tensors)
    except Exception as error:  # safetensors raises its own untyped error for damaged files
        raise InvalidConfig(
            f"No usable text model in {root}: {error}.", hint="Train one with `python -m fast_path.text.train`."
        ) from error
    return model, hashlib.sha256(data + text).hexdigest()[:16]
