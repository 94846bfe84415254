"""Policies from the library or from a file, and back to a file."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from guard.errors import InvalidPolicy, PolicyNotFound
from guard.types import Policy, Rule
from policies import schema, views, yamlfile
from policies.canonical import make_policy, rules_to_plain
from policies.compose import Layer, compose

MAX_BASES = 4
"""Longest chain of `base` policies; the library's own chains have one link."""


def library() -> tuple[str, ...]:
    """Return the names of the policies that come with the package, sorted."""
    names = (file.name for file in resources.files("policies").joinpath("library").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_policy(name_or_path: str | Path) -> Policy:
    """Return a policy of the library by name, one from a YAML file by path, or a stored layer by `layer:<name>`.

    A name of the library comes first; a file of that name is meant by `./default.yaml`. A layer comes with everything
    that it lies on, from the store that `GUARD_POLICY_STORE` names.

    Raises:
        PolicyNotFound: neither the library nor the disk has it; the message lists the library and the closest name.
        InvalidPolicy: the file says something that a policy cannot say; the message has file, line and what is allowed.
    """
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in library():
        return _from_library(name)
    if name.startswith("layer:"):
        from policies import store  # the store loads what layers lie on, so it imports this module

        return store.effective(name.removeprefix(store.PREFIX)).policy
    path = Path(name)
    if path.is_file():
        return parse_policy(_read(path), where=name)
    if path.exists():
        raise PolicyNotFound(f"{name!r} is not a regular file; a policy is a YAML file or a name of the library.")
    raise PolicyNotFound(_not_found(name))


def parse_policy(text: str | bytes, *, where: str = "policy") -> Policy:
    """Return the policy that a YAML text describes. Raises `InvalidPolicy`; `where` is how messages call the text."""
    return _build(text, where, ())


def dump_policy(policy: Policy) -> str:
    """Return the policy as a YAML file that `load_policy` reads back with the same hash."""
    document = {
        "schema": schema.SCHEMA,
        "name": policy.name,
        "version": policy.version,
        "description": policy.description,
        "rules": rules_to_plain(policy.rules),
    }
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return text


@cache
def library_words(category: str) -> dict[str, str]:
    """Return what the library's policies say of a category (`name`, `core_value`, `definition`), as far as they do.

    A rule of its own is preferred to a line among the subcategories of another, and the default policy to the packs.
    """
    rules = [rule for name in ("default", *library()) for rule in load_policy(name).rules.values()]
    own = next((rule for rule in rules if rule.category == category and rule.definition), None)
    if own is not None:
        return {key: value for key in ("name", "core_value", "definition") if (value := getattr(own, key))}
    line = next((rule.subcategories[category] for rule in rules if category in rule.subcategories), "")
    return {"definition": line} if line else {}


@cache
def _from_library(name: str) -> Policy:
    return _build(_library_text(name), f"library policy {name!r}", (name,))


def _library_text(name: str) -> bytes:
    return resources.files("policies").joinpath("library", f"{name}.yaml").read_bytes()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(yamlfile.MAX_BYTES + 1)
    except OSError as error:
        raise PolicyNotFound(f"The policy file {str(path)!r} cannot be read: {error.strerror}.") from error


def _build(text: str | bytes, where: str, bases: tuple[str, ...]) -> Policy:
    model = schema.parse(yamlfile.read(text, where=where), where=where)
    rules = _base_rules(model, where, bases)
    if model.view is not None:
        rules = views.view_rules(rules, model.view)
    patches = {category: schema.to_patch(category, rule) for category, rule in model.rules.items()}
    start = make_policy(name=model.base or model.name, version=model.version, rules=rules)
    composed = compose(start, [Layer(name=where, patches=patches)]).policy
    return make_policy(name=model.name, version=model.version, rules=composed.rules, description=model.description)


def _base_rules(model: schema.PolicyModel, where: str, bases: tuple[str, ...]) -> dict[str, Rule]:
    base = model.base
    if base is None:
        if model.view is not None:
            raise InvalidPolicy(f"{where}: 'view' needs a 'base' whose words it uses, such as base: default.")
        return {}
    if base not in library():
        close = difflib.get_close_matches(base, library(), n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise InvalidPolicy(f"{where}: there is no base {base!r}; the library has {', '.join(library())}.{guess}")
    if base in bases or len(bases) >= MAX_BASES:
        raise InvalidPolicy(f"{where}: the bases {' -> '.join((*bases, base))} form a circle or are too many.")
    return dict(_build(_library_text(base), f"library policy {base!r}", (*bases, base)).rules)


def _not_found(name: str) -> str:
    known = library()
    close = difflib.get_close_matches(Path(name).stem if name.endswith((".yaml", ".yml")) else name, known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no policy {name!r}, neither as a file nor in the library, which has: {', '.join(known)}.{guess}"
