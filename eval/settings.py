"""From `--set name=value` to the `Config` of a benchmark or a system."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from guard import plugins
from guard.errors import UsageError

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def parse(pairs: Sequence[str], option: str) -> dict[str, str]:
    """Return `name=value` texts as a mapping. Raises `UsageError` for a text without an equals sign."""
    made = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} takes name=value; got {pair!r}.")
        made[name] = value
    return made


def build(kind: str, name: str, given: Mapping[str, str], **fixed: Any) -> Any:
    """Build a part of `kind` from settings as text, and values that are set already.

    Raises:
        UsageError: there is no such part or setting, a value is not of its type, or a setting that it needs is absent.
    """
    module = plugins.module(kind, name)
    hints = typing.get_type_hints(module.Config)
    known = {field.name: field for field in fields(module.Config)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        allowed = ", ".join(n for n in known if n != "data") or "none"
        raise UsageError(f"The {kind} {name!r} has no setting {unknown[0]!r}; it has {allowed}.")
    values = {key: _typed(text, hints[key], f"{name}: {key}") for key, text in given.items()}
    values |= {key: value for key, value in fixed.items() if key in known and value is not None}
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING and n not in values]
    if needed:
        how = "--data" if needed[0] == "data" else f"--{'set' if kind == 'benchmark' else 'system-set'} {needed[0]}=..."
        raise UsageError(f"The {kind} {name!r} needs {how}.")
    return module.build(module.Config(**values))


def _typed(text: str, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in options and text == "":
        return None
    wanted = next(option for option in options if option is not type(None))
    if wanted is bool:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise UsageError(f"{where} is {text!r}; it must be true or false.")
    try:
        return wanted(text) if wanted in (int, float, Path) else text
    except ValueError:
        raise UsageError(f"{where} is {text!r}; it must be of the type {wanted.__name__}.") from None
