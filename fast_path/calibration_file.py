"""`calibration.json`: what was fitted, on what, for which model, and what is proven of it.

The file is checked on load: its id is a hash of its content, so an edited threshold is noticed, and it names the
model that it was fitted for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fast_path.scaling import Method, Scaling
from guard.errors import CalibrationMismatch
from guard.types import Thresholds

NEVER_CLEAR, NEVER_BLOCK = 0.0, 1.0 + 1e-9
"""No probability is below the first or reaches the second."""

Guarantee = Literal["expected", "high_probability", "estimate"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Side(_Strict):
    """One threshold and what is known of it."""

    threshold: float = Field(ge=0.0, le=NEVER_BLOCK)
    proven: bool
    """False with a budget, and where a side is closed (too few groups to prove the target, or by request): the slow
    path is then asked."""
    target: float | None = Field(default=None, gt=0.0, lt=1.0)
    """The risk asked for; None with a budget."""
    bound: float = Field(ge=0.0, le=1.0)
    """With a target, at most it: (loss + 1) / (groups + 1) at this threshold, or its like with high probability. What
    is proven is the target, which was fixed before the clips were looked at; the threshold was not. For a closed side
    the least that so few groups could prove."""
    clips: int = Field(ge=0)
    groups: int = Field(ge=0)


class CategoryCalibration(_Strict):
    """One category."""

    method: Method
    slope: float = Field(default=1.0, gt=0.0)
    offset: float = 0.0
    knots_raw: tuple[float, ...] = ()
    knots_probability: tuple[float, ...] = ()
    clear: Side
    """Miss rate: violating clips below the threshold. `clips` and `groups` count violating ones."""
    block: Side
    """False-block rate: other clips at or above the threshold. `clips` and `groups` count those."""
    log_loss_raw: float | None = None
    log_loss_calibrated: float | None = None
    """On the clips that the map was fitted on; the map itself was chosen by cross-validation over groups."""

    def scaling(self) -> Scaling:
        """Return the map. Raises `ValueError` for knots that do not fit."""
        return Scaling(
            method=self.method,
            slope=self.slope,
            offset=self.offset,
            knots_raw=self.knots_raw,
            knots_probability=self.knots_probability,
        )

    def thresholds(self) -> Thresholds:
        """Return the two thresholds."""
        return Thresholds(clear_below=self.clear.threshold, block_at=self.block.threshold)


class CalibrationFile(_Strict):
    """A whole calibration of one detector."""

    format: Literal[1] = 1
    detector: str
    fingerprint: str
    """Of the detector whose scores were calibrated."""
    guarantee: Guarantee
    delta: float | None = Field(default=None, gt=0.0, lt=1.0)
    """With `high_probability`: how likely the calibration may be misled."""
    budget: float | None = None
    """Largest share of videos to escalate, where that was asked for."""
    max_gap_seconds: float | None = Field(default=None, gt=0.0)
    """How densely the videos were sampled; None for texts, and where it was not written down."""
    escalation: float = Field(ge=0.0, le=1.0)
    """Share of the calibration videos that these thresholds send to the slow path (mean over groups)."""
    clips: int = Field(ge=1)
    groups: int = Field(ge=1)
    data_hash: str
    """SHA-256 over scores, labels and groups, independent of their order."""
    created: str
    """Date and time, ISO 8601, UTC."""
    categories: Mapping[str, CategoryCalibration]

    @property
    def id(self) -> str:
        """Twelve hex digits over the content, the date left out: the same data and settings give the same id."""
        unset = {"max_gap_seconds"} if self.max_gap_seconds is None else set()  # files without it keep their id
        content = self.model_dump(mode="json", exclude={"created", *unset})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def serves(self, max_gap_seconds: float | None) -> bool:
        """Whether it speaks of videos sampled this densely; None on either side: nothing is known against it."""
        return None in (max_gap_seconds, self.max_gap_seconds) or max_gap_seconds == self.max_gap_seconds

    def thresholds(self) -> dict[str, Thresholds]:
        """Return the thresholds of every category."""
        return {name: entry.thresholds() for name, entry in self.categories.items()}

    def save(self, path: Path) -> None:
        """Write the file in one step: a reader sees the old one or the new one."""
        content = {"id": self.id, **self.model_dump(mode="json")}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a file.

        Raises:
            CalibrationMismatch: it cannot be read, is not a calibration, or was changed after it was written.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stated = content.pop("id")
            loaded = cls.model_validate(content)
            for entry in loaded.categories.values():
                entry.scaling()
                entry.thresholds()
        except (OSError, ValueError, ValidationError, KeyError, AttributeError, TypeError) as error:
            raise CalibrationMismatch(f"{path} is not a readable calibration: {error}.") from error
        if stated != loaded.id:
            raise CalibrationMismatch(
                f"{path} was changed after it was written: it says {stated!r}, its content has the id {loaded.id!r}.",
                hint="Set thresholds in a policy instead, or run `guard calibrate` again.",
            )
        return loaded
