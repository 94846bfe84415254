"""`guard policy`: look at the policies."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from serve.terminal import print_facts, print_json, print_rows

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Look at the policies.")
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="policy")


def list_(as_json: AsJson = False) -> None:
    """List the policies of the library."""
    from policies.load import library, load_policy

    policies = [load_policy(name) for name in library()]
    if as_json:
        print_json(
            [
                {
                    "name": p.name,
                    "version": p.version,
                    "hash": p.hash,
                    "active_rules": len(p.active()),
                    "description": p.description.strip(),
                }
                for p in policies
            ]
        )
    else:
        print_rows(
            ("policy", "rules", "what for"), [(p.name, len(p.active()), p.description.strip()) for p in policies]
        )


def show(
    name: Annotated[str, typer.Argument(help="Name of a policy, or a policy file.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show what a policy blocks and flags."""
    from policies.load import load_policy

    policy = load_policy(name)
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


def _plain(policy: Any) -> Any:
    from pydantic import TypeAdapter

    from guard.types import Policy

    return TypeAdapter(Policy).dump_python(policy, mode="json")
