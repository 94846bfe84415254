"""Embeddings kept on disk, so that training a head twice costs one pass of the encoder.

A key is the content hash of the video, the fingerprint of the encoder and whatever else shaped the clips (sampling,
augmentation). Writes are atomic: a killed run leaves whole files or none, and two runs may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCache:
    """A folder of `.npz` files, one per video and encoder."""

    folder: Path

    def key(self, sha256: str, fingerprint: str, settings: Mapping[str, Any] | None = None) -> str:
        """Return the file stem for one video: equal inputs give equal keys, and any difference another one."""
        text = json.dumps([sha256, fingerprint, dict(settings or {})], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def path(self, key: str) -> Path:
        """Return where `key` is kept; two letters of it make the sub-folder, so that none grows too long."""
        return self.folder / key[:2] / f"{key}.npz"

    def load(self, key: str) -> Arrays | None:
        """Return the arrays of `key`, or None where they are absent or damaged (a damaged file is made anew)."""
        try:
            with self.path(key).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def save(self, key: str, arrays: Arrays) -> None:
        """Write the arrays of `key` atomically."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own flag
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of `key`, made and saved where they were not there."""
        found = self.load(key)
        if found is None:
            found = make()
            self.save(key, found)
        return found
