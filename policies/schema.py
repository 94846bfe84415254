"""What a policy file may say. Pydantic stands here, where outside text enters; inside, `guard.types.Policy` is used."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from guard import taxonomy
from guard.errors import InvalidPolicy
from guard.types import Exemplar, RuleState, Thresholds
from policies.patch import Patch
from policies.text import clean
from policies.yamlfile import Document, Path

SCHEMA = 1
"""Version of the file format. A file of another version is refused, not guessed at."""

MAX_RULES = 500
MAX_EXEMPLARS = 1000
"""Of one rule; a few-shot scorer gains nothing beyond some dozens."""

Scheme = Literal["openai", "mlcommons", "dsa"]


def _clean(value: object) -> object:
    return clean(value) if isinstance(value, str) else value


def _text(limit: int, *, least: int = 0) -> Any:
    return StringConstraints(min_length=least, max_length=limit)


Name = Annotated[str, BeforeValidator(_clean), _text(200)]
Line = Annotated[str, BeforeValidator(_clean), _text(2000, least=1)]
Paragraph = Annotated[str, BeforeValidator(_clean), _text(8000)]
Lines = Annotated[tuple[Line, ...], Field(max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ThresholdsModel(_Strict):
    """The two numbers that override the calibrated ones for one rule."""

    clear_below: float = Field(ge=0, le=1, allow_inf_nan=False)
    block_at: float = Field(ge=0, le=1, allow_inf_nan=False)

    @field_validator("block_at")
    @classmethod
    def _ordered(cls, value: float, info: Any) -> float:
        low = info.data.get("clear_below")
        if low is not None and value < low:
            raise ValueError(f"block_at must not be below clear_below, which is {low}")
        return value


class ExemplarModel(_Strict):
    """One worked example."""

    violates: bool
    text: Paragraph = ""
    rationale: Paragraph = ""
    source: Annotated[str, BeforeValidator(_clean), _text(1000)] = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.text or self.source or self.sha256):
            raise ValueError("an example needs a text, a source or a sha256")
        return self


class RuleModel(_Strict):
    """What a file says of one category. Everything absent is inherited from the layer below, or empty."""

    state: RuleState | None = None
    name: Name | None = None
    core_value: Paragraph | None = None
    definition: Paragraph | None = None
    subcategories: dict[str, Line] = Field(default_factory=dict)
    blocked: Lines = ()
    allowed: Lines = ()
    severity: Annotated[tuple[Line, ...], Field(min_length=3, max_length=3)] | None = None
    thresholds: ThresholdsModel | None = None
    exemplars: Annotated[tuple[ExemplarModel, ...], Field(max_length=MAX_EXEMPLARS)] = ()
    locked: bool | None = None
    extends: Name = ""


class PolicyModel(_Strict):
    """A policy file."""

    schema_version: Literal[1] = Field(alias="schema", default=1)
    name: Annotated[str, BeforeValidator(_clean), _text(200, least=1)]
    version: Annotated[str, BeforeValidator(_clean), _text(200, least=1)]
    description: Paragraph = ""
    base: Name | None = None
    """Policy of the library that this one starts from; the rules then say only what differs."""
    view: Scheme | None = None
    """Make one rule per key of this scheme first, from the taxonomy; the rules then say only what differs."""
    rules: dict[str, RuleModel] = Field(default_factory=dict, max_length=MAX_RULES)

    @field_validator("schema_version", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value


def parse(document: Document, *, where: str) -> PolicyModel:
    """Return the checked content of a policy file.

    Raises:
        InvalidPolicy: names the file, the line, the key or category at fault, what is allowed, and the closest that is.
    """
    if not isinstance(document.value, dict):
        shown = type(document.value).__name__ if document.value is not None else "nothing"
        raise InvalidPolicy(f"{where}: a policy file is a mapping with name, version and rules; got {shown}.")
    try:
        model = PolicyModel.model_validate(document.value)
    except ValidationError as error:
        raise InvalidPolicy(_explain(error, document, where)) from error
    for category, rule in model.rules.items():
        check_category(category, _place(document, ("rules", category), where))
        if rule.extends:
            check_category(rule.extends, _place(document, ("rules", category, "extends"), where))
        for child in rule.subcategories:
            check_subcategory(category, child, _place(document, ("rules", category, "subcategories", child), where))
    return model


def check_category(category: str, place: str) -> None:
    """Raise `InvalidPolicy` unless `category` is built in or well-formed below `custom`."""
    if taxonomy.is_known(category):
        return
    close = taxonomy.suggestion(category) or _by_last_part(category)
    guess = f" Did you mean {close!r}?" if close else ""
    own = f"a category of your own is written {taxonomy.CUSTOM_ROOT}.<name>, with a-z, 0-9 and _"
    roots = ", ".join(c.id for c in taxonomy.categories().values() if c.parent is None)
    raise InvalidPolicy(f"{place}: there is no category {category!r}; the roots are {roots}; {own}.{guess}")


def check_subcategory(category: str, child: str, place: str) -> None:
    """Raise `InvalidPolicy` unless `child` is a known category below `category`."""
    check_category(child, place)
    if child == category or not taxonomy.covers(category, child):
        raise InvalidPolicy(f"{place}: {child!r} is not below {category!r}; give it a rule of its own.")


def _by_last_part(category: str) -> str | None:
    """Return the known id whose last part is closest to that of `category`: `crime.fighting` to `violence.fighting`."""
    parts = {known.rpartition(".")[2]: known for known in taxonomy.categories()}
    close = difflib.get_close_matches(category.rpartition(".")[2], parts, n=1, cutoff=0.8)
    return parts[close[0]] if close else None


def _place(document: Document, path: Path, where: str) -> str:
    line = document.line(path)
    return f"{where}, line {line}" if line else where


def _explain(error: ValidationError, document: Document, where: str) -> str:
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])  # a typo explains the missing key
    path = tuple(first["loc"])
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{_place(document, path, where)}: {_message(first, path)}{more}"


_MODELS: Sequence[tuple[str, type[BaseModel]]] = (
    ("thresholds", ThresholdsModel),
    ("exemplars", ExemplarModel),
    ("rules", RuleModel),
)


def _message(first: ErrorDetails, path: Path) -> str:
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        allowed = _allowed_keys(path)
        close = difflib.get_close_matches(str(path[-1]), allowed, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        return f"there is no key {path[-1]!r} here; there are: {', '.join(allowed)}.{guess}"
    if first["type"] == "missing":
        return f"the key {key!r} is missing; it must be given."
    given = repr(first["input"])
    shown = given if len(given) <= 80 else f"{given[:77]}..."
    reason = _reason(first)
    return f"{key!r} is {shown}: {reason}{'?' if 'Did you mean' in reason else '.'}"


def _reason(first: ErrorDetails) -> str:
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    expected = str((first.get("ctx") or {}).get("expected", ""))
    allowed = expected.replace("'", "").replace(" or ", ", ").split(", ")
    close = difflib.get_close_matches(str(first["input"]).lower(), allowed, n=1)
    return f"{reason}. Did you mean {close[0]!r}" if expected and close else reason


def _allowed_keys(path: Path) -> list[str]:
    model = next((model for name, model in _MODELS if name in path[:-1]), PolicyModel)
    return [field.alias or name for name, field in model.model_fields.items()]


def to_patch(category: str, rule: RuleModel) -> Patch:
    """Return the checked rule as the patch of a layer."""
    limits = rule.thresholds
    return Patch(
        category=category,
        state=rule.state,
        name=rule.name,
        core_value=rule.core_value,
        definition=rule.definition,
        severity=rule.severity,
        thresholds=Thresholds(clear_below=limits.clear_below, block_at=limits.block_at) if limits else None,
        locked=rule.locked,
        extends=rule.extends,
        subcategories=rule.subcategories,
        blocked=rule.blocked,
        allowed=rule.allowed,
        exemplars=tuple(Exemplar(rule=category, **e.model_dump()) for e in rule.exemplars),
    )
