"""The audit log finds every edit, deletion, change of order and cut."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import databases
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from guard.errors import InvalidConfig
from serve import audit
from serve.audit import Link
from serve.signing import Signer
from serve.store.migrate import migrate
from serve.store.session import Database

SIGNER = Signer(b"s" * 32)


def chain(length: int, tenant: str = "a") -> list[Link]:
    links: list[Link] = []
    for number in range(length):
        last = links[-1] if links else None
        made = audit.next_link(
            last, tenant_id=tenant, at=f"2026-01-01T00:00:{number:02d}", actor="ana", action="review",
            subject=f"job_{number}", details={"n": number},
        )  # fmt: skip
        links.append(replace(made, row=number + 1))
    return links


def kinds(links: list[Link], anchors: list[audit.Anchor] | None = None, signer: Signer | None = None) -> set[str]:
    return {problem.kind for problem in audit.check("a", links, anchors or [], signer).problems}


def anchored(link: Link) -> audit.Anchor:
    return audit._anchor(link, "2026-01-02", SIGNER)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/audit.sqlite3")
    migrate(made)
    yield made
    made.close()


def test_a_whole_chain_is_right_and_names_its_head() -> None:
    links = chain(20)
    report = audit.check("a", links)
    assert (report.entries, report.head, report.problems) == (20, links[-1].hash, ())
    assert audit.check("a", []).head == audit.genesis("a")


@given(st.integers(0, 9), st.sampled_from(["at", "actor", "action", "subject", "details", "previous_hash", "hash"]))
def test_any_edited_field_is_found(place: int, name: str) -> None:
    links = chain(10)
    links[place] = replace(links[place], **{name: "f" * 64})
    assert kinds(links)


@given(st.data())
def test_an_edit_that_mends_its_own_hash_breaks_the_next_link(data: st.DataObject) -> None:
    links, place = chain(10), data.draw(st.integers(0, 8))
    edited = replace(links[place], actor="eve", hash="")
    links[place] = replace(edited, hash=audit.link_hash(edited))
    assert kinds(links) == {"reordered"}


@given(st.integers(0, 8))
def test_a_deletion_is_found(place: int) -> None:
    links = chain(10)
    del links[place]
    assert "missing" in kinds(links)


@given(st.permutations(range(8)))
def test_a_change_of_order_is_found(order: list[int]) -> None:
    links = chain(8)
    shuffled = [links[n] for n in order]
    assert bool(kinds(shuffled)) == (order != list(range(8)))


def test_two_entries_that_swap_their_numbers_are_found() -> None:
    links = chain(5)
    links[1], links[2] = replace(links[2], number=2), replace(links[1], number=3)
    assert kinds(links) == {"edited", "reordered"}


def test_a_cut_end_is_found_by_an_anchor_only() -> None:
    links = chain(10)
    anchor = anchored(links[-1])
    assert kinds(links[:7]) == set()
    assert kinds(links[:7], [anchor], SIGNER) == {"truncated"}
    assert kinds([], [anchor], SIGNER) == {"truncated"}


def test_a_chain_written_anew_is_found_by_an_anchor() -> None:
    links = chain(10)
    anew = []
    for link in links:
        anew.append(
            audit.next_link(
                anew[-1] if anew else None, tenant_id="a", at=link.at, actor="eve", action=link.action,
                subject=link.subject, details=json.loads(link.details),
            )
        )  # fmt: skip
    assert kinds(anew) == set()
    assert kinds(anew, [anchored(links[4])], SIGNER) == {"rewritten"}


def test_an_anchor_that_was_not_signed_here_is_named_and_proves_nothing() -> None:
    links = chain(10)
    forged = replace(anchored(links[4]), hash=links[5].hash)
    assert kinds(links, [forged], SIGNER) == {"forged_anchor"}
    assert kinds(links, [replace(anchored(links[4]), tenant_id="b")], SIGNER) == set()


def test_a_chain_of_another_tenant_does_not_pass_for_this_ones() -> None:
    moved = [replace(link, tenant_id="a") for link in chain(3, tenant="b")]
    assert "edited" in kinds(moved)


def test_entries_are_added_with_what_they_speak_of_or_not_at_all(database: Database) -> None:
    with database.write() as session:
        audit.append(session, "a", actor="ana", action="x", subject="1", details={"b": 1, "a": "ü"})
    with pytest.raises(ZeroDivisionError), database.write() as session:
        1 / audit.append(session, "a", actor="ana", action="x", subject="2").number.__sub__(2)
    with database.write() as session:
        assert audit.append(session, "a", actor="ana", action="x", subject="3").number == 2
    (report,) = audit.verify(database)
    assert (report.entries, report.problems) == (2, ())


@pytest.mark.parametrize("kind", databases.KINDS)
def test_many_writers_make_one_chain(kind: str, tmp_path: Path) -> None:
    database = databases.fresh(kind, tmp_path)

    def write(tenant: str) -> None:
        for _ in range(10):
            with database.write() as session:
                audit.append(session, tenant, actor="t", action="x", subject=str(random.random()))

    threads = [threading.Thread(target=write, args=(tenant,)) for tenant in ("a", "a", "a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(r.tenant_id, r.entries, r.problems) for r in audit.verify(database)] == [("a", 30, ()), ("b", 10, ())]
    database.close()


def _tamper(database: Database, *statements: str) -> None:
    """As somebody would who may do everything: without the triggers."""
    with database.write() as session:
        triggers = session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all()
        for name in triggers:
            session.execute(text(f"DROP TRIGGER {name}"))
        for statement in statements:
            session.execute(text(statement))


def test_tampering_with_the_real_table_is_found(database: Database, tmp_path: Path) -> None:
    for number in range(6):
        with database.write() as session:
            audit.append(session, "a", actor="ana", action="x", subject=str(number))
    anchors = tmp_path / "anchors.jsonl"
    assert audit.write_anchors(database, anchors, SIGNER) == 1
    assert audit.write_anchors(database, anchors, SIGNER) == 0
    noted = audit.read_anchors(anchors)
    assert audit.verify(database, anchors=noted, signer=SIGNER)[0].problems == ()
    _tamper(database, "UPDATE audit_log SET actor = 'eve' WHERE number = 3")
    assert {(p.number, p.kind) for p in audit.verify(database)[0].problems} == {(3, "edited")}
    _tamper(database, "UPDATE audit_log SET actor = 'ana' WHERE number = 3", "DELETE FROM audit_log WHERE number = 6")
    assert audit.verify(database)[0].problems == ()
    assert {p.kind for p in audit.verify(database, anchors=noted, signer=SIGNER)[0].problems} == {"truncated"}
    _tamper(database, "DELETE FROM audit_log")
    assert {p.kind for p in audit.verify(database, anchors=noted, signer=SIGNER)[0].problems} == {"truncated"}


def test_the_database_itself_refuses_changes(database: Database) -> None:
    with database.write() as session:
        audit.append(session, "a", actor="ana", action="x", subject="1")
    for statement in ("UPDATE audit_log SET actor = 'eve'", "DELETE FROM audit_log"):
        with pytest.raises(SQLAlchemyError), database.write() as session:
            session.execute(text(statement))


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"tenant_id": "a"}', '{"tenant_id":"a","number":"1","hash":"","at":"","signature":""}']
)
def test_a_line_that_is_no_anchor_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    path.write_text(f"{audit.canonical(vars_of(anchored(chain(1)[0])))}\n{line}\n")
    with pytest.raises(InvalidConfig, match="Line 2"):
        audit.read_anchors(path)


def vars_of(anchor: audit.Anchor) -> dict[str, object]:
    return {name: getattr(anchor, name) for name in anchor.__slots__}
