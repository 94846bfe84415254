"""`guard policy block`, `unblock`, `extend`, `example`, `lock` and `revert`: one command changes what a policy says."""

from __future__ import annotations

import getpass
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from guard.errors import GuardError, UsageError
from serve.terminal import print_json, safe

if TYPE_CHECKING:
    from guard.types import Exemplar
    from policies.commands import Target
    from policies.golden import Judge
    from policies.personalize import By, Outcome

_MANY = 4
_FEW = "So few settle hardly any video: without a slow path most go to review, the most alike ones first."
_ENOUGH = "What they do not settle goes to the slow path, or to review."

KINDS = ("platform", "community", "user")

Category = Annotated[str, typer.Argument(help="A category or rule, by id or in words.", show_default=False)]
Definition = Annotated[str, typer.Option(help="What it is, in a sentence or two.")]
Examples = Annotated[
    list[str] | None, typer.Option("--example", help="A clip, an image or a text that shows it. Repeatable.")
]
Counters = Annotated[
    list[str] | None, typer.Option("--not-example", help="One that looks like it and is allowed. Repeatable.")
]
Rationale = Annotated[str, typer.Option(help="What in the examples decides.")]
Layer = Annotated[
    str | None, typer.Option(help="Layer of the store to edit. Default: local; with --out alone, none is edited.")
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="What a new layer lies on: name, file, or layer:NAME of a policy. Default: what `guard scan` takes here.",
    ),
]
KindOf = Annotated[str, typer.Option(help="Of a new layer: platform, community or user.")]
Out = Annotated[Path | None, typer.Option(help="Write the effective policy to this file, for --policy FILE.")]
Author = Annotated[str | None, typer.Option(help="Who does it. Default: the user of this process.")]
Note = Annotated[str, typer.Option(help="Why; kept in the history.")]
Golden = Annotated[Path | None, typer.Option(help="Golden set that the change must not break.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Publish although the golden set breaks (the history says so); write over the file that --out names.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(group: typer.Typer) -> None:
    """Add the commands to `group`."""
    group.command("block")(block)
    group.command("unblock")(unblock)
    group.command("extend")(extend)
    group.command("example")(example)
    group.command("lock")(lock)
    group.command("revert")(revert)


def block(
    name: Category,
    definition: Definition = "",
    example: Examples = None,
    not_example: Counters = None,
    rationale: Rationale = "",
    flag: Annotated[bool, typer.Option("--flag", help="Send to review rather than block.")] = False,
    layer: Layer = None,
    base: Base = None,
    kind: KindOf = "user",
    out: Out = None,
    author: Author = None,
    note: Note = "",
    golden: Golden = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Block a category. A new one needs a definition or one example; nothing is trained."""
    from policies import commands

    target = target_of(layer, base, kind, out, golden, force=force)
    outcome = commands.block(
        name,
        target,
        by(author, note),
        definition=definition,
        examples=examples_of(example, not_example, rationale),
        state="flag" if flag else "block",
        judge=judge_of(golden),
    )
    tell(outcome, target, as_json=as_json)


def unblock(
    name: Category,
    layer: Layer = None,
    base: Base = None,
    kind: KindOf = "user",
    out: Out = None,
    author: Author = None,
    note: Note = "",
    golden: Golden = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Allow a category again: it violates nothing, unless a more specific rule says so."""
    from policies import commands

    target = target_of(layer, base, kind, out, golden, force=force)
    tell(commands.unblock(name, target, by(author, note), judge=judge_of(golden)), target, as_json=as_json)


def extend(
    name: Category,
    variant: Annotated[list[str] | None, typer.Option(help="A category or words to cover too. Repeatable.")] = None,
    definition: Definition = "",
    example: Examples = None,
    rationale: Rationale = "",
    layer: Layer = None,
    base: Base = None,
    kind: KindOf = "user",
    out: Out = None,
    author: Author = None,
    note: Note = "",
    golden: Golden = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a rule cover more: further categories, variants in words, or what an example shows."""
    from policies import commands

    target = target_of(layer, base, kind, out, golden, force=force)
    outcome = commands.extend(
        name,
        target,
        by(author, note),
        variants=tuple(variant or ()),
        definition=definition,
        examples=examples_of(example, None, rationale),
        judge=judge_of(golden),
    )
    tell(outcome, target, as_json=as_json)


def example(
    name: Category,
    example: Examples = None,
    not_example: Counters = None,
    rationale: Rationale = "",
    layer: Layer = None,
    base: Base = None,
    kind: KindOf = "user",
    out: Out = None,
    author: Author = None,
    note: Note = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Add examples to a rule; its state stays as it is."""
    from policies import commands

    given = examples_of(example, not_example, rationale)
    if not given:
        raise UsageError("Give at least one --example or --not-example.")
    target = target_of(layer, base, kind, out, None, force=force)
    tell(commands.add_examples(name, given, target, by(author, note)), target, as_json=as_json)


def lock(
    name: Category,
    layer: Layer = None,
    base: Base = None,
    kind: KindOf = "user",
    out: Out = None,
    author: Author = None,
    note: Note = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Keep the layers above from loosening a rule."""
    from policies import commands

    target = target_of(layer, base, kind, out, None, force=force)
    tell(commands.lock(name, target, by(author, note)), target, as_json=as_json)


def revert(
    number: Annotated[int, typer.Argument(min=1, help="Number of the edit, from `guard policy history`.")],
    layer: Annotated[str, typer.Option(help="Layer of the store.")] = "local",
    out: Out = None,
    author: Author = None,
    note: Note = "",
    golden: Golden = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Take back one edit of a layer; the taking back is an edit too."""
    from policies import commands

    commands.history(layer)  # a typo must not make a new layer
    target = target_of(layer, None, "user", out, golden, force=force)
    tell(commands.revert(number, target, by(author, note), judge=judge_of(golden)), target, as_json=as_json)


def target_of(
    layer: str | None, base: str | None, kind: str, out: Path | None, golden: Path | None, *, force: bool
) -> Target:
    """Return where an edit goes: the layer named; else `local`, unless it is for a file alone."""
    from policies.commands import DEFAULT_LAYER, Target

    if kind not in KINDS:
        raise UsageError(f"--kind takes {', '.join(KINDS)}; got {kind!r}.")
    if force and golden is None and out is None:
        raise UsageError("--force speaks of a golden set or a file; give --golden FILE or --out FILE with it.")
    below = base or _base_in_use()
    if out is not None and not force:
        _check_out(out, layer, below)
    return Target(
        layer=layer or (None if out is not None else DEFAULT_LAYER),
        below=below,
        kind=cast("Literal['platform', 'community', 'user']", kind),
        out=out,
        golden=golden,
        force=force,
    )


def _check_out(out: Path, layer: str | None, below: str) -> None:
    """Refuse to write over a file whose content the edit does not start from: what it says would be lost.

    The file that an edit starts from may be written over, and an earlier copy of the same layer, which keeps its edits.
    """
    if not out.exists() or (layer is None and _is_file(below, out)) or (layer is not None and _holds(out, layer)):
        return
    raise UsageError(
        f"--out {str(out)!r} is there already, and this edit starts from {f'layer:{layer}' if layer else below!r}: "
        "what the file says would be lost.",
        hint=(
            "Take another name, or --force to write over it."
            if layer
            else f"Give --base {shlex.quote(str(out))} to build on it, take another name, or --force to write over it."
        ),
    )


def _is_file(name: str, file: Path) -> bool:
    from policies.load import library

    return name not in library() and Path(name).exists() and Path(name).samefile(file)


def _holds(file: Path, layer: str) -> bool:
    """Whether `file` holds an earlier version of the layer."""
    from policies.commands import show

    try:
        return show(str(file)).policy.name == show(f"layer:{layer}").policy.name
    except UsageError:
        return False


def _base_in_use() -> str:
    """Return the policy that a scan takes where none is named: an edit then changes what is in use."""
    from guard.api import policy_name
    from guard.config import load_settings

    return policy_name(load_settings())


def by(author: str | None, note: str) -> By:
    """Return who edits, and why."""
    from policies.personalize import By

    return By(author=author or _user(), note=note)


def examples_of(given: list[str] | None, counter: list[str] | None, rationale: str) -> tuple[Exemplar, ...]:
    """Return examples of the rule and of what only looks like it, from files or texts."""
    from policies import commands

    return tuple(
        commands.example(value, rationale=rationale, violates=violates)
        for violates, values in ((True, given), (False, counter))
        for value in values or ()
    )


def judge_of(golden: Path | None) -> Judge | None:
    """Return the guard of this installation where a golden set asks for one."""
    if golden is None:
        return None
    from guard.config import load_settings
    from serve.policy_judging import judge

    return judge(load_settings())


def tell(outcome: Outcome, target: Target, *, as_json: bool) -> None:
    """Print what an edit led to, and how to use it."""
    policy = outcome.policy
    use = str(target.out) if target.out is not None else f"layer:{target.layer}"
    notes = [*outcome.notes, *_example_notes(outcome), *_unjudged_notes(outcome)]
    below = target.below if target.layer is None else outcome.history.below
    if as_json:
        print_json(
            {
                "changed": list(outcome.changed),
                "notes": notes,
                "layer": target.layer,
                "below": below,
                "edit": outcome.history.version if target.layer is not None and outcome.changed else None,
                "file": None if target.out is None else str(target.out),
                "policy": {"name": policy.name, "version": policy.version, "hash": policy.hash},
                "use": use,
            }
        )
        return
    states = ", ".join(f"{name} is {_state(outcome, name)}" for name in outcome.changed)
    print(safe(f"Changed: {states}." if states else "Nothing changed."))
    for note in notes:
        print(safe(note))
    print(safe(f"It lies on: {below}"))
    print(f"Use it with: --policy {safe(use)}")


def _example_notes(outcome: Outcome) -> list[str]:
    """Embed the examples of the rules that were changed while their clips are there; say what they are good for."""
    from guard.config import load_settings
    from serve.policy_judging import prepare

    touched = {name: rule for name in outcome.changed if (rule := outcome.policy.rules.get(name)) is not None}
    try:
        found = prepare(load_settings(), replace(outcome.policy, rules=touched))
    except GuardError as error:  # the edit is made and kept; what it is good for here is another matter
        return [f"The examples are kept, and cannot be compared with here: {error.message} {error.hint}"]
    counted = [
        f"{name}: {count} example{'s' if count > 1 else ''} to compare with. {_FEW if count < _MANY else _ENOUGH}"
        for name, count in found.counted
    ]
    settled = {*found.categories, *(name for name in touched if any(name in problem for problem in found.problems))}
    trained = [
        f"{name}: a trained detector judges it; its examples are shown to a slow path only."
        for name, rule in touched.items()
        if name not in settled and rule.state != "off" and any(e.sha256 and e.violates for e in rule.exemplars)
    ]
    return [*counted, *trained, *found.problems]


def _unjudged_notes(outcome: Outcome) -> list[str]:
    """Say of the rules that were changed which ones nobody can judge here: it would else be met at the first scan."""
    from guard.config import load_settings
    from policies.lint import lint
    from serve.policy_judging import configured

    on = {
        name for name in outcome.changed if name in outcome.policy.rules and outcome.policy.rules[name].state != "off"
    }
    if not on:
        return []
    try:
        found = lint(outcome.policy, configured(load_settings(), outcome.policy))
    except GuardError:  # `_example_notes` has said it, or the next scan does
        return []
    return [f.message for f in found if f.category in on and f.code in {"unjudgeable", "text_only"}]


def _state(outcome: Outcome, name: str) -> str:
    rule = outcome.policy.rules.get(name)
    return rule.state if rule is not None else "as the policy below has it"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return "unknown"
