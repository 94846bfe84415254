"""The one JSON form of a `Verdict`, used alike by CLI, API, store and webhooks, and the schema that describes it."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from guard.types import Verdict

SCHEMA_ID = "https://video-guard.invalid/schemas/verdict-1.json"
"""Names the schema; `.invalid` never resolves, by RFC 2606."""


@cache
def _adapter() -> TypeAdapter[Verdict]:
    return TypeAdapter(Verdict)


def to_dict(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as plain JSON values. Raises `ValueError` if a number in it is not finite."""
    plain: dict[str, Any] = _adapter().dump_python(verdict, mode="json")
    _require_finite(plain, "verdict")
    return plain


def from_dict(plain: dict[str, Any]) -> Verdict:
    """Rebuild a verdict. Raises `ValueError` that names the first field that does not fit."""
    try:
        verdict = _adapter().validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"Not a verdict: {where or 'top level'}: {first['msg']}") from error
    unknown = _first_unknown(plain, to_dict(verdict), "")
    if unknown is not None:
        raise ValueError(f"Not a verdict: it has the unknown key {unknown!r}")
    return verdict


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the form that `to_dict` gives."""
    body = _adapter().json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **body}


def _require_finite(value: object, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot carry")
    if isinstance(value, dict):
        for key, item in value.items():
            _require_finite(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_finite(item, f"{where}[{index}]")


def _first_unknown(given: object, known: object, where: str) -> str | None:
    """Return the path of the first key of `given` that is not in `known`, its own form written again."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, item in given.items():
            path = f"{where}.{key}".lstrip(".")
            found = path if key not in known else _first_unknown(item, known[key], path)
            if found is not None:
                return found
    return None
