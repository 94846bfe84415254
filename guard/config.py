"""Settings: one TOML file, overridden by the environment, overridden by the command line. Read once, at start."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from guard.errors import InvalidConfig


class Settings(BaseModel):
    """Everything that changes what a run does. Unknown keys are errors; every key has a default that works."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".local" / "share" / "video-guard")
    """State that outlives a run: policy layers, caches, the database."""
    policy: str | None = None
    """Name of a policy in the library, or the path of a policy file; None picks by what is configured."""
    detectors: tuple[str, ...] = ("tiny", "flash")
    """Detectors to load; one that no active rule of the policy needs is left out. In the environment with commas."""
    fast_checkpoint: Path | None = None
    """Folder of `guard train fast` that takes the place of the embedded classifier; None takes the shipped weights."""
    calibration: Path | None = None
    """A `calibration.json`; None takes the one shipped beside the embedded weights."""
    background: Path | None = None
    """What ordinary clips look like to the encoder, from `guard policy background`; None takes the shipped one. Rules
    given by examples are read against it."""
    slow_url: str | None = None
    """Base URL of an OpenAI-compatible VLM server, such as `http://127.0.0.1:8000/v1`."""
    slow_model: str | None = None
    """Model name at that server; None takes the only one it serves."""
    max_gap_seconds: float = Field(default=2.0, gt=0, le=60)
    """Largest stretch of video without a scored frame."""
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256)
    """Decoder processes."""
    reader: str = "pyav"
    limits: dict[str, float] = Field(default_factory=dict)
    """Overrides of `guard.limits.Limits`, by field name."""
    database_url: str | None = None
    policy_store: str | None = None
    api_keys: str | None = None

    @field_validator("detectors", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, (name.strip() for name in value.split(",")))) if isinstance(value, str) else value


_ENVIRONMENT = {
    "GUARD_HOME": "home",
    "GUARD_POLICY": "policy",
    "GUARD_SLOW_URL": "slow_url",
    "GUARD_SLOW_MODEL": "slow_model",
    "GUARD_DETECTORS": "detectors",
    "GUARD_WORKERS": "workers",
    "GUARD_MAX_GAP_SECONDS": "max_gap_seconds",
    "GUARD_SEED": "seed",
    "GUARD_FAST_CHECKPOINT": "fast_checkpoint",
    "GUARD_CALIBRATION": "calibration",
    "GUARD_BACKGROUND": "background",
    "GUARD_DATABASE_URL": "database_url",
    "GUARD_POLICY_STORE": "policy_store",
    "GUARD_API_KEYS": "api_keys",
}
"""Environment variable to setting. `GUARD_CONFIG` names the TOML file."""


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings of this process.

    Args:
        file: TOML file; by default the one that `GUARD_CONFIG` names, if any.
        overrides: values from the command line; None means not given.

    Raises:
        InvalidConfig: the file is missing or malformed, or a key or value is not allowed.
    """
    named = file or (Path(os.environ["GUARD_CONFIG"]) if os.environ.get("GUARD_CONFIG") else None)
    values: dict[str, Any] = _read(named) if named else {}
    values |= {key: os.environ[name] for name, key in _ENVIRONMENT.items() if os.environ.get(name)}
    values |= {key: value for key, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise InvalidConfig(_explain(error)) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"The settings file {str(file)!r} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"The settings file {str(file)!r} is not TOML: {error}.") from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, Settings.model_fields, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        return f"There is no setting {key!r}; there are: {', '.join(Settings.model_fields)}.{guess}"
    return f"The setting {key!r} is {first['input']!r}: {first['msg']}."
