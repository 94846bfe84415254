"""The queue and what people decide: one at a time, most urgent first, undone without a trace, private."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import databases
import pytest
from builders import policy
from review_cases import FIGHT, add_job, item_of, person, sha, verdict
from sqlalchemy import select

from guard.errors import GuardError, UsageError
from guard.types import Rule
from serve import audit
from serve.keys import Principal
from serve.request_errors import Conflict, NotFound
from serve.review import appeals, decisions, overrides, queue
from serve.review.decisions import Choice, Decided
from serve.store.people import Appeal, Delivery, Override, Review, ReviewItem
from serve.store.session import Database
from serve.store.tables import Job, utc_now

POLICY = policy(Rule(category=FIGHT, state="block"), Rule(category="sexual", state="flag"))


BOTH = pytest.mark.parametrize("database", databases.KINDS, indirect=True)
"""For what depends on locks and on the order that a database gives; the rest runs on SQLite."""


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made = databases.fresh(getattr(request, "param", "sqlite"), tmp_path)
    yield made
    made.close()


@pytest.fixture
def ana(database: Database) -> Principal:
    return person(database, "ana")


@pytest.fixture
def bo(database: Database) -> Principal:
    return person(database, "bo")


def take(database: Database, who: Principal, job_id: str) -> ReviewItem:
    with database.write() as session:
        return queue.claim(session, who, item_of(database, job_id).id)


def decide(database: Database, who: Principal, job_id: str, choice: Choice, **changes: Any) -> Review:
    with database.write() as session:
        return decisions.decide(session, who, job_id, Decided(choice=choice, **changes), POLICY)


def word(database: Database, number: int = 1, tenant: str = "acme") -> str | None:
    with database.read() as session:
        found = overrides.active_override(session, tenant, sha(number))
        return found.decision if found else None


@BOTH
def test_risk_goes_first_and_waiting_counts(database: Database, ana: Principal) -> None:
    ages = {"new and risky": (0.9, 0), "old": (0.3, 3), "new": (0.3, 0), "ancient": (0.0, 10)}
    for number, (name, (score, days)) in enumerate(ages.items()):
        add_job(database, verdict({FIGHT: score}, source=name, number=number), age=timedelta(days=days))
    with database.read() as session:
        order = [line.job.source for line in queue.waiting(session, ana, utc_now())]
    assert order == ["ancient", "old", "new and risky", "new"]


@BOTH
def test_people_get_different_items_and_nobody_waits_for_a_closed_browser(
    database: Database, ana: Principal, bo: Principal
) -> None:
    first, second = (add_job(database, verdict({FIGHT: s}, number=n)) for n, s in enumerate((0.8, 0.5)))
    now = utc_now()
    with database.write() as session:
        one, two = queue.claim_next(session, ana, now), queue.claim_next(session, bo, now)
        assert one is not None
        assert two is not None
        assert [one.job_id, two.job_id] == [first, second]
        assert queue.claim_next(session, bo, now) is None
        with pytest.raises(Conflict, match="somebody else"):
            queue.claim(session, bo, one.id, now)
    with database.write() as session:
        assert queue.claim(session, ana, one.id, now).claim_token == one.claim_token
        late = queue.claim(session, bo, one.id, now + queue.CLAIM + timedelta(seconds=1))
        assert late.claimed_by == bo.key_id
    with pytest.raises(Conflict, match="not claimed by you"):
        decide(database, ana, first, "allow")
    assert word(database, 0) is None


@BOTH
def test_claims_at_the_same_moment_never_give_one_item_twice(database: Database) -> None:
    people = [person(database, f"p{n}") for n in range(6)]
    for number in range(6):
        add_job(database, verdict({FIGHT: 0.5}, number=number))
    got: list[str] = []

    def work(who: Principal) -> None:
        with database.write() as session:
            item = queue.claim_next(session, who)
            got.append(item.id if item else "none")

    threads = [threading.Thread(target=work, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got) - {"none"}) == len([g for g in got if g != "none"])
    assert len(got) == 6


@pytest.mark.parametrize("choice", ["allow", "block"])
def test_a_decision_holds_for_the_next_identical_content(database: Database, ana: Principal, choice: Choice) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.62}), callback_url="https://hooks.example/x")
    take(database, ana, job_id)
    review = decide(database, ana, job_id, choice, categories=(FIGHT,) if choice == "block" else (), reason="seen")
    assert word(database) == choice
    assert word(database, tenant="other") is None
    assert item_of(database, job_id).status == "done"
    assert review.agrees is (choice == "block")
    with database.read() as session:
        assert session.scalars(select(Delivery.event_type)).all() == ["moderation.review.decided"]
        override = overrides.active_override(session, "acme", sha(1))
        assert override is not None
        found = overrides.apply_override(verdict({FIGHT: 0.62}), override, POLICY)
    assert found.decision == choice
    assert found.categories[FIGHT].flagged is (choice == "block")
    assert found.categories[FIGHT].score == 0.62
    assert override.id in found.rationale
    (chain,) = audit.verify(database)
    assert chain.problems == ()


def test_undo_leaves_things_as_they_were(database: Database, ana: Principal, bo: Principal) -> None:
    first = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, first)
    decide(database, ana, first, "allow")
    again = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, again)
    review = decide(database, ana, again, "block", categories=(FIGHT,))
    assert word(database) == "block"
    with pytest.raises(Conflict, match="somebody else"), database.write() as session:
        decisions.undo(session, bo, review.id)
    with database.write() as session:
        decisions.undo(session, ana, review.id)
    assert word(database) == "allow", "what held before holds again"
    item = item_of(database, again)
    assert (item.status, item.claimed_by) == ("open", ana.key_id)
    with pytest.raises(Conflict, match="already"), database.write() as session:
        decisions.undo(session, ana, review.id)
    decide(database, ana, again, "block", categories=(FIGHT,))
    assert word(database) == "block"


def test_undo_has_an_end_and_gives_way_to_newer_decisions(database: Database, ana: Principal) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, job_id)
    review = decide(database, ana, job_id, "allow")
    late = utc_now() + decisions.UNDO + timedelta(seconds=1)
    with pytest.raises(Conflict, match="30 minutes"), database.write() as session:
        decisions.undo(session, ana, review.id, late)
    decide(database, person(database, "eve", "admin"), job_id, "block")
    with pytest.raises(Conflict, match="again since"), database.write() as session:
        decisions.undo(session, ana, review.id)
    assert word(database) == "block"


def test_escalation_goes_to_admins_only_and_comes_back(database: Database, ana: Principal) -> None:
    eve = person(database, "eve", "admin")
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, job_id)
    review = decide(database, ana, job_id, "escalate", reason="beyond me")
    upper = item_of(database, job_id)
    assert (upper.level, upper.reason, upper.round) == (2, "escalated", 2)
    assert word(database) is None
    with database.write() as session:
        assert queue.claim_next(session, ana) is None
        with pytest.raises(NotFound):
            queue.claim(session, ana, upper.id)
    with database.write() as session:
        decisions.undo(session, ana, review.id)
    assert {item_of(database, job_id).status} == {"withdrawn"}
    decide(database, ana, job_id, "escalate")
    take(database, eve, job_id)
    decide(database, eve, job_id, "block")
    assert word(database) == "block"


def test_skipping_needs_a_reason_and_offers_it_to_others_only(
    database: Database, ana: Principal, bo: Principal
) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    item = take(database, ana, job_id)
    with pytest.raises(UsageError, match="why"), database.write() as session:
        queue.skip(session, ana, item.id, " ")
    with database.write() as session:
        queue.skip(session, ana, item.id, "too upsetting")
    with database.write() as session:
        assert queue.claim_next(session, ana) is None
        other = queue.claim_next(session, bo)
        assert other is not None
        assert other.id == item.id
        assert [skip["reason"] for skip in other.skips] == ["too upsetting"]


@pytest.mark.parametrize(("categories", "means"), [((FIGHT,), "block"), (("sexual",), "allow"), ((), "allow")])
def test_to_relabel_is_to_say_what_is_shown_and_the_policy_decides(
    database: Database, ana: Principal, categories: tuple[str, ...], means: str
) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, job_id)
    decide(database, ana, job_id, "relabel", categories=categories)
    assert word(database) == means


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"choice": "burn"}, "one of"), ({"categories": ("violence.figthing",)}, "fighting"),
     ({"reason": "x" * 5000}, "4000"),
     ({"rule": FIGHT, "reason": " "}, "rationale")],
)  # fmt: skip
def test_a_wrong_decision_is_refused_and_leaves_the_claim(
    database: Database, ana: Principal, changes: dict[str, Any], message: str
) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, job_id)
    with pytest.raises(UsageError, match=message):
        decide(database, ana, job_id, **({"choice": "block"} | changes))
    assert item_of(database, job_id).status == "open"


def test_another_tenant_finds_nothing(database: Database, ana: Principal) -> None:
    eve = person(database, "eve", "admin", tenant="other")
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    item = take(database, ana, job_id)
    review = decide(database, ana, job_id, "allow")
    attempts = [
        lambda s: queue.claim(s, eve, item.id),
        lambda s: queue.skip(s, eve, item.id, "x"),
        lambda s: decisions.decide(s, eve, job_id, Decided(choice="allow"), POLICY),
        lambda s: decisions.undo(s, eve, review.id),
        lambda s: appeals.file_appeal(s, eve, job_id, statement="x"),
        lambda s: appeals.give_feedback(s, eve, job_id, correct=True),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound), database.write() as session:
            attempt(session)
    with database.read() as session:
        assert queue.waiting(session, eve, utc_now()) == []
        assert queue.counts(session, eve, utc_now())["waiting"] == 0
        assert appeals.appeals_of(session, "other") == []


def test_an_appeal_goes_to_somebody_else_and_ends_with_a_decision(
    database: Database, ana: Principal, bo: Principal
) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, job_id)
    decide(database, ana, job_id, "block", categories=(FIGHT,))
    with database.write() as session:
        appeals.file_appeal(session, ana, job_id, statement="It is a dance.", reporter_ref="user-7")
    with pytest.raises(Conflict, match="already"), database.write() as session:
        appeals.file_appeal(session, ana, job_id, statement="Again.")
    with pytest.raises(Conflict, match="other than"):
        take(database, ana, job_id)
    with database.write() as session:
        assert queue.claim_next(session, ana) is None
    take(database, bo, job_id)
    review = decide(database, bo, job_id, "allow", reason="It is a dance indeed.")
    with database.read() as session:
        appeal = session.scalars(select(Appeal)).one()
        assert (appeal.status, appeal.resolved_by, appeal.resolution) == (
            "accepted",
            bo.key_id,
            "It is a dance indeed.",
        )
    with database.write() as session:
        decisions.undo(session, bo, review.id)
    with database.read() as session:
        assert session.scalars(select(Appeal)).one().status == "open"
    decide(database, bo, job_id, "block")
    with database.read() as session:
        assert session.scalars(select(Appeal)).one().status == "rejected"


def test_an_appeal_that_meets_a_claim_is_still_for_somebody_else(database: Database, ana: Principal) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.62}))
    take(database, ana, job_id)
    first = decide(database, ana, job_id, "block", categories=(FIGHT,))
    with database.write() as session:  # it waits again, for a second look, and she claims it before anybody objects
        queue.open_item(session, tenant_id="acme", job_id=job_id, sha256=sha(1), reason="sample", risk=0.5)
    take(database, ana, job_id)
    with database.write() as session:
        appeals.file_appeal(session, ana, job_id, statement="It is a dance.")
    with pytest.raises(Conflict, match="other than"):
        decide(database, ana, job_id, "block")
    with pytest.raises(Conflict, match="waits in the queue again"), database.write() as session:
        decisions.undo(session, ana, first.id)  # one job, one place in the queue


def test_an_appeal_needs_a_decision_and_words(database: Database, ana: Principal) -> None:
    running = add_job(database, verdict({FIGHT: 0.5}), queued=False, finished_at=None, status="running")
    done = add_job(database, verdict({FIGHT: 0.5}, number=2))
    for job_id, statement, kind in ((running, "x", Conflict), (done, " ", UsageError), (done, "x" * 5000, UsageError)):
        with pytest.raises(kind), database.write() as session:
            appeals.file_appeal(session, ana, job_id, statement=statement)


def test_work_done_twice_asks_once(database: Database) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.5}))
    with database.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        again = queue.open_item(
            session, tenant_id="acme", job_id=job_id, sha256=job.sha256, reason="uncertain", risk=0.5
        )
    assert again.id == item_of(database, job_id).id


def test_counts_say_what_waits(database: Database, ana: Principal) -> None:
    for number, decision in enumerate(["review", "undecided", "review"]):
        add_job(database, verdict({FIGHT: 0.5}, number=number, decision=decision), age=timedelta(hours=number))
    with database.write() as session:
        queue.claim_next(session, ana)
    with database.read() as session:
        found = queue.counts(session, ana, utc_now())
    assert (found["waiting"], found["claimed"]) == (3, 1)
    assert found["by_reason"] == {"uncertain": 2, "undecided": 1}
    assert 7200 <= found["oldest_seconds"] < 7300


def test_feedback_is_kept_and_its_category_known(database: Database, ana: Principal) -> None:
    job_id = add_job(database, verdict({FIGHT: 0.5}))
    with database.write() as session:
        assert appeals.give_feedback(session, ana, job_id, correct=False, label=FIGHT, note="missed").note == "missed"
    with pytest.raises(GuardError, match=r"violence\.fighting"), database.write() as session:
        appeals.give_feedback(session, ana, job_id, correct=False, label="violence.figthing")


@pytest.mark.parametrize(
    ("scores", "decision", "expected"),
    [({FIGHT: 0.62}, "review", "block"), ({FIGHT: 0.4}, "review", "allow"), ({FIGHT: 0.4}, "block", "block"),
     ({}, "review", None), ({FIGHT: 0.9}, "undecided", None), ({FIGHT: 0.05, "sexual": 0.95}, "review", "block")],
)  # fmt: skip
def test_what_the_machine_leaned_to(scores: dict[str, float], decision: str, expected: str | None) -> None:
    from guard.verdict_json import to_dict

    assert decisions.lean(to_dict(verdict(scores, decision=decision))) == expected


def test_what_was_decided_before_is_shown_under_any_name(database: Database, ana: Principal) -> None:
    for name in ("a.mp4", "b.mp4"):
        job_id = add_job(database, verdict({FIGHT: 0.62}, source=name))
        take(database, ana, job_id)
        decide(database, ana, job_id, "block")
    with database.read() as session:
        found = decisions.history(session, "acme", sha(1))
        assert [job.source for _, job in found] == ["b.mp4", "a.mp4"]
        assert decisions.history(session, "other", sha(1)) == []
        assert len(session.scalars(select(Override)).all()) == 2
