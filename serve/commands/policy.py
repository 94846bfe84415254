"""`guard policy list`, `show`, `lint`, `diff`, `test`, `history`: look at policies. The edits are in `policy_edit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from serve.commands import policy_background, policy_edit
from serve.failures import Exit
from serve.terminal import print_facts, print_json, print_rows, safe

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str, typer.Argument(help="Name of a policy, a policy file, or layer:NAME of the store.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Look at policies and change them: block, unblock, extend.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("lint")(lint)
    group.command("diff")(diff)
    policy_edit.register(group)
    group.command("test")(run_golden)
    group.command("history")(history)
    policy_background.register(group)
    app.add_typer(group, name="policy")


def list_(as_json: AsJson = False) -> None:
    """List the policies of the library and the layers of the store."""
    from policies.commands import list_policies

    listed = list_policies()
    if as_json:
        print_json([{**asdict(p), "description": p.description.strip()} for p in listed])
    else:
        print_rows(
            ("policy", "kind", "rules", "what for"),
            [
                (p.name, p.kind, p.active_rules, f"cannot be used: {p.problem}" if p.problem else p.description.strip())
                for p in listed
            ],
        )


def show(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Name of a policy, a policy file, or layer:NAME of the store; each is laid over those before it.",
            show_default=False,
        ),
    ],
    why: Annotated[str | None, typer.Option(help="Say which layer decided what about this rule.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a policy, or several together, block and flag; with --why, who decided so."""
    from policies.names import resolve
    from serve.policy_layers import composed

    found = composed(names)
    policy = found.policy
    if why is not None:
        said = found.why(resolve(why, policy.rules, by_part=True).category)
        if as_json:
            print_json({"policy": " ".join(names), "rule": why, "why": said.splitlines()})
        else:
            print("\n".join(safe(line) for line in said.splitlines()))
        return
    if as_json:
        print_json(_plain(policy))
        return
    print_facts(
        {"name": policy.name, "version": policy.version, "hash": policy.hash, "about": policy.description.strip()}
    )
    print()
    print_rows(
        ("category", "state", "name", "definition"),
        [
            (r.category, r.state + (" (locked)" if r.locked else ""), r.name, r.definition)
            for r in policy.rules.values()
        ],
    )


def lint(
    name: Name,
    alone: Annotated[
        bool, typer.Option("--alone", help="Do not ask whether the stages configured here can judge every rule.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a policy; exits with 1 where something is an error."""
    from guard.config import load_settings
    from policies import commands
    from serve.policy_judging import configured

    policy = commands.show(name).policy
    findings = commands.lint(name, None if alone else configured(load_settings(), policy))
    broken = [finding for finding in findings if finding.level == "error"]
    if as_json:
        print_json({"ok": not broken, "findings": [asdict(finding) for finding in findings]})
    elif findings:
        print_rows(("level", "code", "what"), [(f.level, f.code, f.message) for f in findings])
    else:
        print("Nothing to say against it.")
    raise typer.Exit(Exit.FAIL_ON_MATCHED if broken else Exit.OK)


def diff(
    before: Annotated[str, typer.Argument(help="The policy that it was.", show_default=False)],
    after: Annotated[str, typer.Argument(help="The policy that it is.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two policies, and which way: stricter, looser, or for a person to say."""
    from policies import commands

    found = commands.diff(before, after)
    if as_json:
        print_json([asdict(difference) for difference in found])
    elif found:
        print("\n".join(safe(difference) for difference in found))
    else:
        print("No difference that could change a decision.")


def run_golden(
    name: Name,
    golden: Annotated[Path, typer.Option(help="Golden set: JSONL of path with labels, decision, or both.")],
    against: Annotated[
        str | None, typer.Option(help="The version to compare with, such as the one in service.")
    ] = None,
    slow: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible VLM server.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a golden set under a policy. Exits with 1 where a case is wrong; with --against, where one got worse."""
    from guard.config import load_settings
    from policies import commands
    from serve.policy_judging import judge

    result = commands.run_golden(name, golden, judge(load_settings(slow_url=slow)), against=against)
    wrong = [answer for answer in result.after.answers if answer.wrong]
    failed = result.regresses if against is not None else bool(wrong)
    if as_json:
        print_json(
            {
                "ok": not failed,
                "cases": len(result.after.answers),
                "right": result.after.right,
                "right_before": result.before.right if against is not None else None,
                "unanswered": result.after.unanswered,
                "broken": dict(result.broken),
                "mended": dict(result.mended),
                "wrong": [asdict(answer) for answer in wrong],
            }
        )
    else:
        _print_golden(result, wrong, against)
    raise typer.Exit(Exit.FAIL_ON_MATCHED if failed else Exit.OK)


def history(
    layer: Annotated[str, typer.Argument(help="Layer of the store.")] = "local",
    as_json: AsJson = False,
) -> None:
    """Show who changed what in a layer, when and why. Take one back with `guard policy revert NUMBER`."""
    from policies import commands
    from policies.edits import Edit

    edits = commands.history(layer)

    def touched(edit: Edit) -> list[str]:
        return [change.category for change in edit.changes]

    if as_json:
        print_json(
            [
                {
                    "number": e.number,
                    "action": e.action,
                    "categories": touched(e),
                    "author": e.author,
                    "at": e.at,
                    "note": e.note,
                    "reverts": e.reverts,
                }
                for e in edits
            ]
        )
        return
    rows = [
        (e.number, f"{e.action} {e.reverts or ''}".strip(), ", ".join(touched(e)), e.author, e.at[:19], e.note)
        for e in edits
    ]
    print_rows(("edit", "what", "rules", "who", "when (UTC)", "why"), rows)


def _print_golden(result: Any, wrong: list[Any], against: str | None) -> None:
    after, total = result.after, len(result.after.answers)
    before = f"{result.before.right} -> " if against is not None else ""
    print(f"{before}{after.right} of {total} right, {after.unanswered} unanswered")
    for title, found in (("broken", result.broken), ("mended", result.mended)):
        for rule, paths in found.items():
            print(f"{title}: {safe(rule)}: {', '.join(safe(path) for path in paths)}")
    if wrong:
        print()
        print_rows(
            ("wrong", "decision", "flagged", "wrong about"),
            [(a.path, a.decision, ", ".join(a.flagged), ", ".join(a.wrong)) for a in wrong],
        )


def _plain(policy: Any) -> Any:
    from pydantic import TypeAdapter

    from guard.types import Policy

    return TypeAdapter(Policy).dump_python(policy, mode="json")
