"""The one plain form of a policy: what is hashed, stored and written to files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from guard.types import Exemplar, Policy, Rule, Thresholds
from policies.patch import Patch, given, to_patches


def rules_to_plain(rules: Mapping[str, Rule]) -> dict[str, dict[str, Any]]:
    """Return what each rule says, without empty fields and without what follows from another rule."""
    return {category: patch_to_plain(patch) for category, patch in to_patches(rules).items()}


def patch_to_plain(patch: Patch) -> dict[str, Any]:
    """Return what a patch says, as JSON values, without the fields it does not set."""
    return {name: _plain(value) for name, value in given(patch).items()}


def content_hash(rules: Mapping[str, Rule]) -> str:
    """Return the SHA-256 over what decides: two policies with one hash decide alike.

    Formatting, the order of rules, of subcategories and of examples, and the policy's name, version and description do
    not count. The order of blocked and allowed lines does: a prompt shows them in that order. Of a rule that is off,
    only that it is off (and whether it is locked) counts.
    """
    plain = {category: _hashed(rules[category], said) for category, said in rules_to_plain(rules).items()}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def make_policy(*, name: str, version: str, rules: Mapping[str, Rule], description: str = "") -> Policy:
    """Return a policy with its hash; rules keep their order."""
    return Policy(name=name, version=version, hash=content_hash(rules), rules=dict(rules), description=description)


def _hashed(rule: Rule, said: Mapping[str, Any]) -> dict[str, Any]:
    if rule.state == "off":
        return {"state": "off", "locked": rule.locked}
    plain = {**said, "state": rule.state, "locked": rule.locked}
    if "exemplars" in plain:
        plain["exemplars"] = sorted(plain["exemplars"], key=lambda e: json.dumps(e, sort_keys=True))
    return plain


def _plain(value: object) -> Any:
    if isinstance(value, Thresholds):
        return {"clear_below": value.clear_below, "block_at": value.block_at}
    if isinstance(value, Exemplar):
        fields = {"violates": value.violates, "text": value.text, "rationale": value.rationale, "source": value.source}
        fields |= {"sha256": value.sha256}
        return {key: item for key, item in fields.items() if item not in ("", None)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
