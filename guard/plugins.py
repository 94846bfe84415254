"""Find parts by kind and name.

A part is a file: its name is its registry key, and the module offers `Config`, `build(config)` and `tiny()`. No list to
edit."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from guard.errors import MissingExtra, UnknownPart

FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "reader": "guard.video.readers",
        "encoder": "fast_path.encoders",
        "detector": "fast_path.detectors",
        "engine": "slow_path.engines",
        "scorer": "data_filter.scorers",
        "selector": "data_filter.selectors",
        "benchmark": "eval.benchmarks",
        "system": "eval.systems",
    }
)
"""Kind of part to the package that holds its files. Strings only: `guard` imports no upper layer."""


def names(kind: str) -> tuple[str, ...]:
    """Return the registry keys of every part of `kind`, sorted; nothing is imported but the folder."""
    package = importlib.import_module(_folder(kind))
    found = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return tuple(sorted(found | {point.name for point in _outside(kind)}))


def module(kind: str, name: str) -> ModuleType:
    """Import and return the module of one part.

    Raises:
        UnknownPart: there is no such part; the message lists those there are.
        MissingExtra: the part needs a package that is not installed; the message names the extra.
    """
    known = names(kind)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownPart(f"No {kind} is called {name!r}; there are: {', '.join(known) or 'none'}.{guess}")
    path = next((point.value for point in _outside(kind) if point.name == name), f"{_folder(kind)}.{name}")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise missing_extra(f"The {kind} {name!r}", error.name or str(error)) from error


def load(kind: str, name: str, **settings: Any) -> Any:
    """Build one part with `settings` for its `Config`; the caller narrows the type to its Protocol."""
    part = module(kind, name)
    try:
        config = part.Config(**settings)
    except TypeError as error:
        fields = ", ".join(getattr(part.Config, "__dataclass_fields__", {})) or "none"
        raise UnknownPart(f"The {kind} {name!r} takes the settings {fields}; {error}.") from error
    try:
        return part.build(config)
    except ModuleNotFoundError as error:  # heavy packages are imported when a part is built
        raise missing_extra(f"The {kind} {name!r}", error.name or str(error)) from error


_EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "accelerate": "train", "peft": "train", "sklearn": "train", "transformers": "hub", "decord": "decord",
        "alembic": "serve", "fastapi": "serve", "sqlalchemy": "serve", "uvicorn": "serve", "psycopg": "postgres",
        "openai": "slow", "vllm": "vllm", "pyarrow": "parquet", "rapidocr": "ocr", "onnxruntime": "ocr",
    }
)  # fmt: skip
"""Import name of an optional package to the extra of `video-guard` that installs it."""


def missing_extra(what: str, package: str) -> MissingExtra:
    """Return the error for an optional package that is not installed, with the command that installs it."""
    root = package.partition(".")[0]
    extra = _EXTRAS.get(root)
    command = install_command(extra) if extra else f"{_pip()} install {root}"
    return MissingExtra(f"{what} needs the package {root!r}, which is not installed.", hint=f"Run: {command}")


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation, for this interpreter.

    A clone names itself: the distribution is on no index, and another `pip` than that of the running interpreter would
    look for it there.
    """
    clone = Path(__file__).resolve().parents[1]
    if not (clone / "pyproject.toml").is_file():
        return f"{_pip()} install 'video-guard[{extra}]'"
    where = "." if clone == Path.cwd() else str(clone)
    return f"{_pip()} install -e {shlex.quote(f'{where}[{extra}]')}"


def _pip() -> str:
    """Return how to call the pip of the running interpreter."""
    same = Path(shutil.which("pip") or "/nowhere").parent == Path(sys.executable).parent
    return "pip" if same else f"{shlex.quote(sys.executable)} -m pip"


def _folder(kind: str) -> str:
    if kind not in FOLDERS:
        raise UnknownPart(f"No kind of part is called {kind!r}; there are: {', '.join(FOLDERS)}.")
    return FOLDERS[kind]


def _outside(kind: str) -> tuple[Any, ...]:
    return tuple(entry_points(group=f"video_guard.{kind}"))
