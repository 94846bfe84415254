"""The audit log: one chain of hashes per tenant. Who did what to what, when; ids and hashes, never content.

Each link holds the hash of the one before, so an edit, a deletion in the middle or a change of order breaks the chain
at that place. What a chain cannot show by itself is that its end was cut off, or that all of it was written anew by
somebody who may write to the database. That takes a note kept elsewhere: an *anchor*, the number and hash of a link at
some time, signed with the service's secret. `guard verify-audit --anchors FILE` compares.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from guard.errors import InvalidConfig
from serve.signing import Signer
from serve.store.people import AuditEntry
from serve.store.session import Database

_FORM = "video-guard/audit/1"
_BATCH = 1000

ProblemKind = Literal["edited", "missing", "reordered", "truncated", "rewritten", "forged_anchor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One entry as it is hashed."""

    tenant_id: str
    number: int
    at: str
    actor: str
    action: str
    subject: str
    details: str
    """Canonical JSON."""
    previous_hash: str
    hash: str
    row: int = 0
    """Order in which the database got it; 0 where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What a link was at some time, kept outside the database."""

    tenant_id: str
    number: int
    hash: str
    at: str
    signature: str


_ANCHORS = TypeAdapter(Anchor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a chain."""

    tenant_id: str
    number: int
    kind: ProblemKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of checking one chain."""

    tenant_id: str
    entries: int
    head: str
    """Hash of the last link: note it down, and a later check can be held against it."""
    anchors: int
    problems: tuple[Problem, ...]


def genesis(tenant_id: str) -> str:
    """Return what stands for the hash before the first link: another one for each tenant."""
    return hashlib.sha256(f"{_FORM}/{tenant_id}".encode()).hexdigest()


def canonical(details: Mapping[str, Any]) -> str:
    """Return `details` as JSON in one form only: sorted keys, no blanks, ASCII."""
    return json.dumps(details, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def link_hash(link: Link) -> str:
    """Return the SHA-256 over everything else in a link, as a JSON array, so that no two links share a form."""
    content = [_FORM, link.tenant_id, link.number, link.at, link.actor, link.action, link.subject, link.details,
               link.previous_hash]  # fmt: skip
    return hashlib.sha256(json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def next_link(
    last: Link | None, *, tenant_id: str, at: str, actor: str, action: str, subject: str, details: Mapping[str, Any]
) -> Link:
    """Return the link that follows `last`, or the first one."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "number": 1 if last is None else last.number + 1,
        "at": at,
        "actor": actor,
        "action": action,
        "subject": subject,
        "details": canonical(details),
        "previous_hash": genesis(tenant_id) if last is None else last.hash,
    }
    return Link(**values, hash=link_hash(Link(**values, hash="")))


def check(
    tenant_id: str, links: Iterable[Link], anchors: Iterable[Anchor] = (), signer: Signer | None = None
) -> Report:
    """Walk one chain, in order of number, and say everything that is wrong with it.

    Args:
        tenant_id: whose chain.
        links: its entries.
        anchors: notes kept elsewhere; those of other tenants are passed over.
        signer: checks that the anchors are ours; None takes them as they are.
    """
    own = [anchor for anchor in anchors if anchor.tenant_id == tenant_id]
    problems = [_problem(a, "forged_anchor", "this anchor was not signed here") for a in own if not _is_ours(a, signer)]
    trusted = {a.number: a for a in own if _is_ours(a, signer)}
    previous, number, row, count = genesis(tenant_id), 0, 0, 0
    for link in links:
        count += 1
        problems += _step(link, previous, number, row)
        anchor = trusted.pop(link.number, None)
        if anchor is not None and not hmac.compare_digest(anchor.hash, link.hash):
            problems.append(_problem(link, "rewritten", f"it is not the entry that was noted at {anchor.at}"))
        previous, number, row = link.hash, link.number, max(row, link.row)
    for anchor in trusted.values():
        kind: ProblemKind = "truncated" if anchor.number > number else "missing"
        problems.append(_problem(anchor, kind, f"it was noted at {anchor.at} and is gone"))
    return Report(tenant_id=tenant_id, entries=count, head=previous, anchors=len(own), problems=tuple(problems))


def append(
    session: Session, tenant_id: str, *, actor: str, action: str, subject: str, details: Mapping[str, Any] | None = None
) -> AuditEntry:
    """Add a link in the transaction of `session`, so that what is done and what is said of it stand or fall together.

    `session` must be a writing one: on SQLite it then holds the only write lock; on PostgreSQL an advisory lock lets
    one transaction per tenant at a time add links.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"audit/{tenant_id}"})
    newest = select(AuditEntry).where(AuditEntry.tenant_id == tenant_id).order_by(AuditEntry.number.desc()).limit(1)
    row = session.scalar(newest)
    link = next_link(
        None if row is None else _link(row),
        tenant_id=tenant_id,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        actor=actor,
        action=action,
        subject=subject,
        details=details or {},
    )
    names = ("tenant_id", "number", "at", "actor", "action", "subject", "details", "previous_hash", "hash")
    entry = AuditEntry(**{name: getattr(link, name) for name in names})
    session.add(entry)
    session.flush()
    return entry


def links_of(session: Session, tenant_id: str) -> Iterator[Link]:
    """Yield the links of one tenant by number, in batches, so that a long log needs no more memory than a short one."""
    after = -(2**31)
    while True:
        query = select(AuditEntry).where(AuditEntry.tenant_id == tenant_id, AuditEntry.number > after)
        rows = session.scalars(query.order_by(AuditEntry.number).limit(_BATCH)).all()
        if not rows:
            return
        for row in rows:
            yield _link(row)
        after = rows[-1].number
        session.expunge_all()


def tenants(session: Session) -> list[str]:
    """Return the tenants that have a chain."""
    return list(session.scalars(select(AuditEntry.tenant_id).distinct().order_by(AuditEntry.tenant_id)))


def verify(database: Database, *, anchors: Iterable[Anchor] = (), signer: Signer | None = None) -> list[Report]:
    """Check the chain of every tenant that has entries or anchors."""
    noted = list(anchors)
    with database.read() as session:
        names = sorted({*tenants(session), *(anchor.tenant_id for anchor in noted)})
        return [check(name, links_of(session, name), noted, signer) for name in names]


def write_anchors(database: Database, path: Path, signer: Signer) -> int:
    """Note the present end of every chain in `path`, one JSON line each, and return how many were new."""
    known = {(anchor.tenant_id, anchor.number) for anchor in read_anchors(path)} if path.exists() else set()
    newest = select(func.max(AuditEntry.id)).group_by(AuditEntry.tenant_id)
    with database.read() as session:
        ends = [_link(row) for row in session.scalars(select(AuditEntry).where(AuditEntry.id.in_(newest)))]
    at = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [
        canonical(asdict(_anchor(link, at, signer))) for link in ends if (link.tenant_id, link.number) not in known
    ]
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
    return len(lines)


def read_anchors(path: Path) -> list[Anchor]:
    """Return the anchors in a file. Raises `InvalidConfig` with the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidConfig(f"The anchors {str(path)!r} cannot be read: {error.strerror}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_ANCHORS.validate_json(line, strict=True))
        except ValidationError as error:
            raise InvalidConfig(f"Line {number} of {str(path)!r} is no anchor.") from error
    return found


def _step(link: Link, previous: str, number: int, row: int) -> list[Problem]:
    found = []
    if link_hash(link) != link.hash:
        found.append(_problem(link, "edited", "its content does not give its hash"))
    if link.number != number + 1:
        found.append(_problem(link, "missing", f"entry {number + 1} should come before it"))
    elif link.previous_hash != previous:
        found.append(_problem(link, "reordered", "it does not follow from the entry before it"))
    if link.row and link.row < row:
        found.append(_problem(link, "reordered", "it was written before the entry in front of it"))
    return found


def _problem(where: Link | Anchor, kind: ProblemKind, message: str) -> Problem:
    return Problem(tenant_id=where.tenant_id, number=where.number, kind=kind, message=message)


def _is_ours(anchor: Anchor, signer: Signer | None) -> bool:
    if signer is None:
        return True
    wanted = _anchor_signature(signer, anchor.tenant_id, anchor.number, anchor.hash, anchor.at)
    return hmac.compare_digest(wanted, str(anchor.signature))


def _anchor(link: Link, at: str, signer: Signer) -> Anchor:
    signature = _anchor_signature(signer, link.tenant_id, link.number, link.hash, at)
    return Anchor(tenant_id=link.tenant_id, number=link.number, hash=link.hash, at=at, signature=signature)


def _anchor_signature(signer: Signer, tenant: str, number: int, digest: str, at: str) -> str:
    content = json.dumps([tenant, number, digest, at]).encode()
    return hmac.new(signer.key("audit-anchor"), content, hashlib.sha256).hexdigest()


def _link(row: AuditEntry) -> Link:
    return Link(
        tenant_id=row.tenant_id, number=row.number, at=row.at, actor=row.actor, action=row.action, subject=row.subject,
        details=row.details, previous_hash=row.previous_hash, hash=row.hash, row=row.id,
    )  # fmt: skip
