"""What ordinary clips look like to one encoder, on disk: the ruler that few-shot scores are read on.

A background belongs to the encoder that made it; with another one it is refused, since the same numbers would mean
something else. The one that the package ships is of the embedded encoder and of clips without any harm.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from guard.errors import InvalidConfig
from guard.types import Float32Array
from policies import few_shot

POOLING = f"mean-peak-{few_shot.Config().window_moments}"
"""How moments become one vector: part of what a background and an example's embedding are of."""

SHIPPED = Path(__file__).parent / "backgrounds"
HINT = "Fit one on ordinary clips of yours: guard policy background DIR --out FILE, then set `background = FILE`."


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BackgroundFile:
    """The windows of ordinary clips, as one encoder embeds them."""

    vectors: Float32Array
    """float32 [N, 2 D], pooled."""
    encoder: str
    """Fingerprint of the encoder."""
    clips: int
    pooling: str = POOLING

    def __repr__(self) -> str:
        return f"BackgroundFile({self.clips} clips, {len(self.vectors)} windows, encoder {self.encoder})"

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Half precision is enough: the spread of clips is far wider."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.savez_compressed(
                file,
                vectors=self.vectors.astype(np.float16),
                encoder=np.array(self.encoder),
                clips=np.array(self.clips),
                pooling=np.array(self.pooling),
            )
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)

    @classmethod
    def load(cls, path: Path) -> BackgroundFile:
        """Read a file. Raises `InvalidConfig` where it is not there or no background."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return cls(
                    vectors=archive["vectors"].astype(np.float32),
                    encoder=str(archive["encoder"]),
                    clips=int(archive["clips"]),
                    pooling=str(archive["pooling"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidConfig(f"{str(path)!r} is no background of ordinary clips: {error}.", hint=HINT) from error


def background_for(encoder: str, path: Path | None = None) -> few_shot.Background:
    """Return the background of `encoder` (a fingerprint): that of the file `path`, or the shipped one that fits.

    Raises:
        InvalidConfig: there is none for this encoder; the hint is the command that fits one.
    """
    if path is None:
        path = SHIPPED / f"{encoder}.npz"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.npz"))) or "none"
            raise InvalidConfig(
                f"Examples cannot be compared: there is no background of ordinary clips for the encoder {encoder}; "
                f"those shipped are for {known}.",
                hint=HINT,
            )
    return _fitted(path, encoder)


@cache
def _fitted(path: Path, encoder: str) -> few_shot.Background:
    stored = BackgroundFile.load(path)
    if (stored.encoder, stored.pooling) != (encoder, POOLING):
        raise InvalidConfig(
            f"The background {str(path)!r} is of the encoder {stored.encoder} ({stored.pooling}); the one in use is "
            f"{encoder} ({POOLING}).",
            hint=HINT,
        )
    return few_shot.fit_background(stored.vectors)
