"""`guard keys create`, `list`, `revoke`, and `guard verify-audit`: who may come in, and whether the log is whole."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.failures import Exit
from serve.terminal import fail_line, print_facts, print_json, print_rows, safe

if TYPE_CHECKING:
    from serve.store.session import Database

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tenant = Annotated[str, typer.Option(help="Whose jobs the key opens.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Make and end API keys of the service.")
    group.command("create")(create)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys")
    app.command("verify-audit")(verify_audit)


def create(
    name: Annotated[str, typer.Argument(help="Who holds it; reviews and the audit log show this.", show_default=False)],
    scopes: Annotated[str, typer.Option(help="Among submit, read, review and admin, by commas.")] = "submit,read",
    tenant: Tenant = "default",
    days: Annotated[int | None, typer.Option(help="End it after so many days.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once: only its hash is kept."""
    database = _database()
    from serve import keys
    from serve.store.tables import utc_now

    ends = None if days is None else utc_now() + timedelta(days=days)
    with database.write() as session:
        made = keys.create(
            session, name=name, scopes=scopes.split(","), tenant=tenant, expires_at=ends, by="command line"
        )
    database.close()
    if as_json:
        print_json(asdict(made))
    else:
        print_facts({"key": made.key, "id": made.id, "tenant": made.tenant_id, "scopes": ", ".join(made.scopes)})
        fail_line("keep the key now; it cannot be shown again")


def list_(
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant.")] = None, as_json: AsJson = False
) -> None:
    """List keys: who holds them and what they may do, never the keys themselves."""
    database = _database()
    from serve import keys

    with database.read() as session:
        found = keys.listed(session, tenant)
    database.close()
    rows = [
        {
            "id": row.id,
            "tenant": row.tenant_id,
            "name": row.name,
            "scopes": list(row.scopes),
            "created_at": row.created_at.isoformat(timespec="seconds"),
            "last_used_at": row.last_used_at.isoformat(timespec="seconds") if row.last_used_at else None,
            "state": keys.state(row),
        }
        for row in found
    ]
    if as_json:
        print_json(rows)
    else:
        heads = ("id", "tenant", "name", "scopes", "last used (UTC)", "state")
        print_rows(
            heads,
            [
                (
                    r["id"],
                    r["tenant"],
                    r["name"],
                    ", ".join(r["scopes"] or ()),
                    (r["last_used_at"] or "")[:16],
                    r["state"],
                )
                for r in rows
            ],
        )


def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `guard keys list` shows it.", show_default=False)],
) -> None:
    """End a key for good. A running service refuses it within five seconds."""
    database = _database()
    from serve import keys

    with database.write() as session:
        keys.revoke(session, key_id, by="command line")
    database.close()
    print(f"{safe(key_id)} is revoked.")


def verify_audit(
    anchors: Annotated[
        Path | None, typer.Option(help="Anchors kept elsewhere: shows a cut end, or a log written anew.")
    ] = None,
    write_anchors: Annotated[
        Path | None, typer.Option(help="Then note the present end of every chain in this file; keep a copy elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Walk the audit log and name every entry that was edited, deleted, moved or cut off. Exits with 1 for any."""
    database = _database()
    from guard.config import load_settings
    from serve import audit
    from serve.settings import load_serve_settings
    from serve.signing import Signer, load_secret

    secret = load_serve_settings().secret or load_settings().home / "serve.secret"
    signer = Signer(load_secret(secret)) if anchors or write_anchors else None
    reports = audit.verify(database, anchors=audit.read_anchors(anchors) if anchors else (), signer=signer)
    whole = not any(report.problems for report in reports)
    if write_anchors is not None and signer is not None and whole:
        audit.write_anchors(database, write_anchors, signer)
    database.close()
    if as_json:
        print_json({"ok": whole, "chains": [asdict(report) for report in reports]})
    else:
        heads = ("tenant", "entries", "anchors", "head", "state")
        print_rows(
            heads, [(r.tenant_id, r.entries, r.anchors, r.head, "broken" if r.problems else "whole") for r in reports]
        )
        for problem in (p for report in reports for p in report.problems):
            fail_line(f"{problem.tenant_id}, entry {problem.number}: {problem.kind}: {problem.message}")
    raise typer.Exit(Exit.OK if whole else Exit.FAIL_ON_MATCHED)


def _database() -> Database:
    from guard import plugins
    from guard.config import load_settings

    try:
        from serve.store.migrate import migrate
        from serve.store.session import Database, database_url
    except ModuleNotFoundError as error:
        raise plugins.missing_extra("The service's database", error.name or "sqlalchemy") from error
    database = Database(database_url(load_settings()))
    migrate(database)
    return database
