"""What a run was started with, compared with what it shall go on with, in words a person can act on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from guard.errors import ResumeMismatch

_CALLED: Mapping[str, str] = MappingProxyType(
    {
        "policy_hash": "--policy",
        "max_gap_seconds": "--max-gap",
        "seed": "--seed",
        "slow_url": "--slow",
        "paths": "the PATHs",
        "list": "the list on stdin",
        "directory": "the working directory",
        "include": "--include",
        "exclude": "--exclude",
        "shard": "--shard",
        "limit": "--limit",
    }
)
"""Key of the signature to what a user knows it by."""
_SHOWN = 4
_LONGEST = 60


def require_same(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ResumeMismatch` where two `run.json` have signatures that differ; the message names each difference."""
    differing = list(differences(earlier, json.loads(json.dumps(now))))  # tuples read back as lists
    if differing:
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise ResumeMismatch(f"The run was started with other settings: {'; '.join(differing[:_SHOWN])}{more}.")


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield one clause for each thing that differs, such as `--max-gap was 2.0, now is 1.0`."""
    before, after = _flat(earlier.get("signature", {})), _flat(now["signature"])
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if old != new:
            name = _CALLED.get(key) or _part(key)
            if key == "policy_hash":
                old, new = _policy(earlier), _policy(now)
            yield f"{name} was {_words(old)}, now is {_words(new)}"


def _flat(signature: Mapping[str, Any]) -> dict[str, Any]:
    """Return the signature with the entries of its tables side by side: `limits.max_seconds`, `versions.python`."""
    flat: dict[str, Any] = {}
    for key, value in signature.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    return flat


def _part(key: str) -> str:
    """Return the name of a key that no option stands for: `versions.detector:tiny` is the detector tiny."""
    kind, _, name = key.removeprefix("versions.").partition(":")
    return f"the {kind} {name}" if name else key.removeprefix("versions.")


def _policy(run: Mapping[str, Any]) -> str:
    policy = run.get("policy", {})
    return f"{policy.get('name')} {policy.get('version')} ({str(policy.get('hash'))[:12]})"


def _words(value: object) -> str:
    if value is None or value == []:
        return "none"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
