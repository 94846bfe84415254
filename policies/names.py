"""From what somebody calls a category to its id."""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from guard import taxonomy
from guard.errors import InvalidPolicy
from guard.types import Rule
from policies.text import clean

MAX_NAME = 200
"""Characters; longer text belongs in the definition."""
_IDENTIFIER = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a name stands for."""

    category: str
    given: str
    """The name as it was given, without surrounding space."""
    known: bool
    """True for a built-in category, or one that the policy already has."""
    close: str | None = None
    """Of a new name: the known category that it resembles, for a hint."""

    @property
    def label(self) -> str | None:
        """The name to keep on the rule: what was given, unless that is an id or the taxonomy's own name."""
        return None if self.given == self.category or self.category in taxonomy.categories() else self.given


def resolve(name: str, rules: Mapping[str, Rule], *, by_part: bool = False) -> Resolved:
    """Return the category that `name` means: an id, the name of a category or rule, or else a new `custom.<slug>`.

    With `by_part`, the last part of a built-in id will do where it is the only one: `smoke` for `illegal.fire.smoke`.
    Not so by default, or a new category "Fall", defined as a season, would be taken for people falling.

    Raises:
        InvalidPolicy: the name is empty, too long, not encodable, or looks like an id but is none (a likely typo).
    """
    given = checked(name)
    if given in rules or taxonomy.is_known(given):
        return Resolved(category=given, given=given, known=given in rules or given in taxonomy.categories())
    if _is_mistyped(given):
        raise InvalidPolicy(f"There is no category {given!r}.{_guess(given, rules)}")
    key = _canonical(given)
    for category, label in _labels(rules):
        if _canonical(label) == key:
            return Resolved(category=category, given=given, known=True)
    ending = [known for known in taxonomy.categories() if _canonical(known.rpartition(".")[2]) == key]
    if by_part and len(ending) == 1:
        return Resolved(category=ending[0], given=given, known=True)
    category = f"{taxonomy.CUSTOM_ROOT}.{slug(given)}"
    return Resolved(category=category, given=given, known=category in rules, close=_closest(given, rules))


def _is_mistyped(name: str) -> bool:
    """Whether a name looks like an id of ours but is none: `violence.figthing`, `voilence.fighting`, not `node.js`."""
    roots = [c.id for c in taxonomy.categories().values() if c.parent is None]
    is_id = _IDENTIFIER.fullmatch(name) is not None
    return is_id and bool(
        difflib.get_close_matches(name.partition(".")[0], [*roots, taxonomy.CUSTOM_ROOT], n=1, cutoff=0.8)
    )


def checked(name: str) -> str:
    """Return the name on one line, without surrounding space. Raises `InvalidPolicy` for one that cannot be kept."""
    try:
        given = clean(name)
    except ValueError as error:
        raise InvalidPolicy(f"The name {name!r}: {error}.") from error
    if not given:
        raise InvalidPolicy("A name is needed; the one given is empty.")
    if len(given) > MAX_NAME:
        raise InvalidPolicy(f"A name has at most {MAX_NAME} characters, this one {len(given)}; the rest is definition.")
    return given


def slug(name: str) -> str:
    """Return an ASCII id for any name, one to one up to case, width, spaces and hyphens.

    What ASCII can spell stays readable ("Road rage" gives road_rage). Where letters or signs are lost, eight hex digits
    of the name's hash keep names apart: "C++" gives c_ and its digits, a Cyrillic name gives u_ and its digits.
    """
    canonical = _canonical(name)
    plain = re.sub(r"[^a-z0-9]+", "_", canonical).strip("_")
    if plain.replace("_", " ") == canonical and len(plain) <= 60:
        return plain
    digest = hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:8]
    return f"{plain[:51].strip('_') or 'u'}_{digest}"


def _canonical(name: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(re.sub(r"[\s_-]+", " ", folded).split()) or name


def _labels(rules: Mapping[str, Rule]) -> list[tuple[str, str]]:
    own = [(category, rule.name) for category, rule in rules.items() if rule.name]
    return own + [(category.id, category.name) for category in taxonomy.categories().values()]


def _closest(name: str, rules: Mapping[str, Rule]) -> str | None:
    labels = {_canonical(label): category for category, label in reversed(_labels(rules))}
    parts = {known.rpartition(".")[2].replace("_", " "): known for known in taxonomy.categories()}
    close = difflib.get_close_matches(_canonical(name), labels | parts, n=1, cutoff=0.75)
    return (labels | parts)[close[0]] if close else None


def _guess(name: str, rules: Mapping[str, Rule]) -> str:
    close = difflib.get_close_matches(name, [*taxonomy.categories(), *rules], n=1, cutoff=0.6)
    own = f" A category of your own is named in plain words, or as {taxonomy.CUSTOM_ROOT}.<name>."
    return f" Did you mean {close[0]!r}?" if close else own


def unknown(name: str, resolved: Resolved) -> InvalidPolicy:
    """Return the error for a new name about which nothing else was said."""
    guess = f" Did you mean {resolved.close!r}?" if resolved.close else ""
    return InvalidPolicy(
        f"There is no category called {name!r}.{guess} A new one needs a definition or at least one example.",
        hint="Add --definition TEXT or --example CLIP|IMAGE|TEXT.",
    )
