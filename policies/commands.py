"""What `guard policy ...` and the API do, as plain functions that return values. Callers parse and print."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guard.errors import InputNotFound, InputUnreadable, InvalidPolicy, PolicyNotFound, UsageError
from guard.types import Exemplar, Policy, RuleState
from policies import describe, golden, load, personalize, text
from policies import diff as differences
from policies import lint as linting
from policies.compose import Composed, compose
from policies.edits import Edit, History, Kind
from policies.personalize import By, Outcome
from policies.store import PREFIX, PolicyStore, default_path

DEFAULT_LAYER = "local"
"""The layer that edits go to where none is named."""
_EDITED = "-edited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an edit goes."""

    layer: str | None = DEFAULT_LAYER
    """Layer of the store, made on its first edit. None edits no layer: the result goes to `out` only."""
    below: str = "default"
    """What a new layer lies on: a policy's name or file, or `layer:<name>`. Without a layer: what to start from."""
    kind: Kind = "user"
    store: Path | None = None
    """The store's file; None takes the one of this process (`GUARD_POLICY_STORE`)."""
    out: Path | None = None
    """Write the effective policy here, for `--policy FILE`."""
    golden: Path | None = None
    """Golden set that the new version must not break."""
    force: bool = False
    """Publish even where it does; the history says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of `guard policy list`."""

    name: str
    """What `--policy` takes."""
    version: str
    hash: str
    active_rules: int
    description: str
    kind: str
    """`library`, or the kind of a stored layer."""
    problem: str = ""
    """Why a layer cannot be used at present, such as a lock that came later; empty where it can."""


def list_policies(store: Path | None = None) -> tuple[Listed, ...]:
    """Return the policies of the library, then the layers of the store. A missing store has none."""
    found = [_listed(load.load_policy(name), name, "library") for name in load.library()]
    where = store or default_path()
    if where.exists():
        layers = PolicyStore(where)
        found += [_listed_layer(layers, layer) for layer in layers.layers()]
    return tuple(found)


def show(name: str, store: Path | None = None) -> Composed:
    """Return a policy and who decided what in it. `name` is a library name, a file, or `layer:<name>`."""
    if name.startswith(PREFIX):
        return PolicyStore(store or default_path()).effective(name.removeprefix(PREFIX))
    return compose(load.load_policy(name))


def why(name: str, rule: str, store: Path | None = None) -> str:
    """Return in plain sentences which layer decided what about one rule: `guard policy show --why RULE`."""
    from policies.names import resolve

    composed = show(name, store)
    return composed.why(resolve(rule, composed.policy.rules, by_part=True).category)


def lint(
    name: str, configured: linting.Configured | None = None, store: Path | None = None
) -> tuple[linting.Finding, ...]:
    """Return what is wrong with a policy; with `configured`, also the rules that none of those stages can judge."""
    return linting.lint(show(name, store).policy, configured)


def diff(before: str, after: str, store: Path | None = None) -> tuple[differences.Difference, ...]:
    """Return what differs from policy `before` to policy `after`."""
    return differences.diff(show(before, store).policy, show(after, store).policy)


def example(value: str, *, rationale: str = "", violates: bool = True) -> Exemplar:
    """Return an example from a command line: a file (hashed, never copied), or else the text itself.

    Raises:
        InputNotFound: it looks like a path, and there is no such file.
        InputUnreadable: the file is no regular file or cannot be read.
        InvalidPolicy: it is empty or holds control characters.
    """
    path = Path(value)
    if _exists(path):
        return Exemplar(
            rule="", violates=violates, rationale=_clean(rationale), source=_clean(str(path)), sha256=_sha256(path)
        )
    if _looks_like_a_path(value):
        raise InputNotFound(f"There is no file {value!r}.", hint="Check the path; a text example has no file ending.")
    if not value.strip():
        raise InvalidPolicy("An example is a clip, an image or a text; the one given is empty.")
    return Exemplar(rule="", violates=violates, text=_clean(value), rationale=_clean(rationale))


def block(
    name: str,
    target: Target,
    by: By,
    *,
    definition: str = "",
    examples: Sequence[Exemplar] = (),
    state: RuleState = "block",
    judge: golden.Judge | None = None,
) -> Outcome:
    """Block (or flag) a category: see `policies.personalize.block`. A golden set in `target` needs a `judge`."""

    def edit(history: History, below: Composed, who: By) -> Outcome:
        return personalize.block(
            history, name, below=below, by=who, definition=definition, examples=examples, state=state
        )

    return _publish(edit, target, by, judge)


def unblock(name: str, target: Target, by: By, *, judge: golden.Judge | None = None) -> Outcome:
    """Switch a category off: see `policies.personalize.unblock`."""
    return _publish(lambda h, below, who: personalize.unblock(h, name, below=below, by=who), target, by, judge)


def extend(
    name: str,
    target: Target,
    by: By,
    *,
    variants: Sequence[str] = (),
    definition: str = "",
    examples: Sequence[Exemplar] = (),
    judge: golden.Judge | None = None,
) -> Outcome:
    """Make a rule cover more: see `policies.personalize.extend`."""

    def edit(history: History, below: Composed, who: By) -> Outcome:
        return personalize.extend(
            history, name, below=below, by=who, variants=variants, definition=definition, examples=examples
        )

    return _publish(edit, target, by, judge)


def lock(name: str, target: Target, by: By) -> Outcome:
    """Keep layers above from loosening a rule."""
    return _publish(lambda h, below, who: personalize.lock(h, name, below=below, by=who), target, by, None)


def add_examples(name: str, examples: Sequence[Exemplar], target: Target, by: By) -> Outcome:
    """Add demonstrations to a rule, such as a reviewer's confirmed override with the rationale that was typed."""
    return _publish(
        lambda h, below, who: personalize.add_examples(h, name, examples, below=below, by=who), target, by, None
    )


def revert(number: int, target: Target, by: By, *, judge: golden.Judge | None = None) -> Outcome:
    """Take back one edit of the layer."""
    if target.layer is None:
        raise InvalidPolicy("Only a layer has edits to take back; name one.")
    return _publish(lambda h, below, who: personalize.revert(h, number, below=below, by=who), target, by, judge)


def history(layer: str = DEFAULT_LAYER, store: Path | None = None) -> tuple[Edit, ...]:
    """Return the edits of a layer, the first one first."""
    return PolicyStore(store or default_path()).history(layer).edits


def run_golden(
    name: str, golden_set: Path, judge: golden.Judge, *, against: str | None = None, store: Path | None = None
) -> golden.Comparison:
    """Run a golden set under policy `name` and under `against` (by default the same): which rules regress.

    Args:
        name: the policy to test.
        golden_set: JSONL of cases, see `policies.golden.Case`.
        judge: gives verdicts for paths under a policy.
        against: the version it is compared with, such as the one in service.
        store: the store's file.
    """
    cases, root = golden.read_golden(golden_set), golden_set.parent
    after = golden.run(cases, show(name, store).policy, judge, root=root)
    before = golden.run(cases, show(against, store).policy, judge, root=root) if against else after
    return golden.compare(before, after)


def _publish(
    edit: Callable[[History, Composed, By], Outcome], target: Target, by: By, judge: golden.Judge | None
) -> Outcome:
    """Make the edit where it belongs, past the golden set if there is one, and write the effective policy if asked."""
    if target.layer is None and target.out is None:
        raise InvalidPolicy("An edit needs a layer to be kept in, or a file to write the policy to.")

    def gated(history: History, below: Composed) -> Outcome:
        outcome = edit(history, below, by)
        if target.golden is None or not outcome.changed:
            return outcome
        note = _past_golden(compose(below, [history.layer()]).policy, outcome.policy, target, judge)
        return edit(history, below, replace(by, note="; ".join(filter(None, (by.note, note)))))

    if target.layer is None:
        below = show(target.below, target.store)
        outcome = gated(History(name="edit"), below)
    else:
        store = PolicyStore(target.store or default_path())
        _ensure(store, target)
        outcome = store.update(target.layer, gated)
        below = show(outcome.history.below, target.store)
    policy = _named(outcome.policy, below.policy, target)
    if target.out is not None:
        write_policy(policy, target.out)
    return replace(outcome, composed=replace(outcome.composed, policy=policy))


def _past_golden(before: Policy, after: Policy, target: Target, judge: golden.Judge | None) -> str:
    if judge is None or target.golden is None:
        raise InvalidPolicy("A golden set needs a guard that judges its cases; none was given.")
    cases, root = golden.read_golden(target.golden), target.golden.parent
    reports = [golden.run(cases, policy, judge, root=root) for policy in (before, after)]
    return golden.check(golden.compare(*reports), force=target.force)


def _ensure(store: PolicyStore, target: Target) -> None:
    """Make the layer on its first edit. One that is there keeps what it lies on."""
    if target.layer is None:
        return
    try:
        store.history(target.layer)
    except PolicyNotFound:
        store.create(target.layer, kind=target.kind, below=target.below)


def _named(policy: Policy, below: Policy, target: Target) -> Policy:
    """A policy that was edited says so; one that only a file holds in its name too, since it has no layer to name."""
    name = policy.name
    if target.layer is None:
        name = below.name if policy.hash == below.hash else f"{below.name.removesuffix(_EDITED)}{_EDITED}"
    return replace(policy, name=name, description=describe.description(below, policy))


def write_policy(policy: Policy, file: Path) -> None:
    """Write a policy as YAML, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        temporary.write_text(load.dump_policy(policy), encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _listed_layer(store: PolicyStore, layer: History) -> Listed:
    """A layer that cannot be used is listed all the same, with the reason: whoever mends it must find it."""
    name, version = f"{PREFIX}{layer.name}", str(layer.version)
    try:
        return _listed(store.effective(layer.name).policy, name, layer.kind)
    except UsageError as error:
        return Listed(
            name=name, version=version, hash="", active_rules=0, description="", kind=layer.kind, problem=error.message
        )


def _listed(policy: Policy, name: str, kind: str) -> Listed:
    return Listed(
        name=name,
        version=policy.version,
        hash=policy.hash,
        active_rules=len(policy.active()),
        description=policy.description,
        kind=kind,
    )


_MEDIA = frozenset(".mp4 .mov .mkv .webm .avi .gif .jpg .jpeg .png .webp .bmp .m4v .mpg .mpeg .ts .txt".split())  # noqa: SIM905


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text may be too long for a file name, or hold a NUL
        return False


def _looks_like_a_path(value: str) -> bool:
    return " " not in value.strip() and ("/" in value or Path(value).suffix.lower() in _MEDIA)


def _clean(value: str) -> str:
    try:
        return text.clean(value)
    except ValueError as error:
        raise InvalidPolicy(f"The example {value[:60]!r}: {error}.") from error


def _sha256(path: Path) -> str:
    import hashlib

    if not path.is_file():
        raise InputUnreadable(f"{str(path)!r} is not a regular file.")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputUnreadable(f"{str(path)!r} cannot be read: {error.strerror}.") from error
