"""Webhooks: signatures that two independent verifiers accept, and deliveries that arrive in the end or say why not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import databases
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError, OpenAI
from sqlalchemy import select
from web import LOOPBACK, PUBLIC, FakeNetwork, Web, body, redirect, serving

from guard.errors import UrlBlocked, UsageError
from serve import deliveries, outbox, webhooks
from serve.deliveries import DeliveryWorker, SendRules
from serve.outbound import Reach
from serve.signing import Signer
from serve.store.migrate import migrate
from serve.store.people import Delivery, DeliveryAttempt, WebhookEndpoint
from serve.store.session import Database
from serve.store.tables import Tenant, utc_now

SIGNER = Signer(b"s" * 32)
OPEN = Reach(allowed_networks=LOOPBACK)
SECRET = webhooks.new_secret()


def openai_accepts(headers: dict[str, str], content: bytes, secret: str) -> bool:
    client = OpenAI(api_key="none", webhook_secret=secret)
    try:
        client.webhooks.verify_signature(content, headers)
    except InvalidWebhookSignatureError:
        return False
    return True


def library_accepts(headers: dict[str, str], content: bytes, secret: str) -> bool:
    try:
        standardwebhooks.Webhook(secret).verify(content, headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def ours_accepts(headers: dict[str, str], content: bytes, secret: str) -> bool:
    try:
        webhooks.verify([secret], headers, content)
    except webhooks.InvalidSignature:
        return False
    return True


VERIFIERS = [openai_accepts, library_accepts, ours_accepts]


@pytest.mark.parametrize("accepts", VERIFIERS)
def test_verifiers_accept_ours_and_nothing_tampered(accepts: Any) -> None:
    content = webhooks.event_body("moderation.job.completed", "evt_1", {"job_id": "job_1", "name": "ü"}).encode()
    now = int(time.time())
    headers = webhooks.sign([SECRET], "evt_1", now, content)
    assert accepts(headers, content, SECRET)
    assert (
        accepts({name.title(): value for name, value in headers.items()}, content, SECRET) or accepts is openai_accepts
    )
    assert not accepts(headers, content + b" ", SECRET)
    assert not accepts(headers, content, webhooks.new_secret())
    for name, value in (("webhook-id", "evt_2"), ("webhook-timestamp", str(now - 1)), ("webhook-signature", "v1,AAAA")):
        assert not accepts(headers | {name: value}, content, SECRET)


@pytest.mark.parametrize("accepts", VERIFIERS)
@pytest.mark.parametrize(("age", "fine"), [(-280, True), (280, True), (-400, False), (400, False)])
def test_a_replay_after_five_minutes_is_refused(accepts: Any, age: int, fine: bool) -> None:
    headers = webhooks.sign([SECRET], "evt_1", int(time.time()) - age, b"{}")
    assert accepts(headers, b"{}", SECRET) == fine


@pytest.mark.parametrize("accepts", VERIFIERS)
def test_while_a_secret_rotates_either_one_verifies(accepts: Any) -> None:
    old, new = webhooks.new_secret(), webhooks.new_secret()
    headers = webhooks.sign([new, old], "evt_1", int(time.time()), b"{}")
    assert [accepts(headers, b"{}", secret) for secret in (old, new, SECRET)] == [True, True, False]


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_refused(missing: str) -> None:
    headers = webhooks.sign([SECRET], "evt_1", int(time.time()), b"{}")
    del headers[missing]
    assert not ours_accepts(headers, b"{}", SECRET)


def test_openai_unwraps_an_event_of_ours_to_its_type_and_data() -> None:
    content = webhooks.event_body("moderation.job.completed", "evt_1", {"job_id": "job_1"})
    headers = webhooks.sign([SECRET], "evt_1", int(time.time()), content.encode())
    event = OpenAI(api_key="none", webhook_secret=SECRET).webhooks.unwrap(content, headers)
    assert (event.id, event.type) == ("evt_1", "moderation.job.completed")


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!!", "whsec_" + "AAAA" * 4, "whsec_" + "AAAA" * 30])
def test_a_poor_secret_is_refused(secret: str) -> None:
    with pytest.raises(UsageError):
        webhooks.secret_bytes(secret)


def test_an_event_is_thin_and_known() -> None:
    with pytest.raises(ValueError, match="20000"):
        webhooks.event_body("moderation.ping", "evt_1", {"x": "y" * 20_000})
    with pytest.raises(ValueError, match="an event is one of"):
        webhooks.event_body("made.up", "evt_1", {})
    with pytest.raises(ValueError, match="event id"):
        webhooks.sign([SECRET], "evt.1", 1, b"")


@given(st.floats(0, 1, exclude_max=True))
def test_ten_tries_are_spread_over_three_days(chance: float) -> None:
    delays = [webhooks.delay_seconds(n, chance) for n in range(1, webhooks.MAX_ATTEMPTS)]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(delays))
    assert 0.8 * 75.6 * 3600 - 60 <= sum(d or 0 for d in delays) <= 1.2 * 75.6 * 3600 + 60
    assert webhooks.delay_seconds(webhooks.MAX_ATTEMPTS, chance) is None


@pytest.mark.parametrize(
    ("status", "attempts", "state"),
    [(200, 1, "delivered"), (204, 9, "delivered"), (302, 1, "pending"), (400, 1, "pending"), (500, 9, "pending"),
     (None, 1, "pending"), (410, 1, "dead"), (500, 10, "dead"), (None, 10, "dead")],
)  # fmt: skip
def test_only_2xx_is_success_and_410_ends_it(status: int | None, attempts: int, state: str) -> None:
    found = webhooks.outcome(status, attempts, 0.5)
    assert found.state == state
    assert (found.disable is not None) == (state == "dead")


@pytest.mark.parametrize(
    ("header", "least"),
    [("60", 60), ("999999999999", 86400), ("-5", 5), ("soon", 5), ("Wed, 21 Oct 2015 07:28:00 GMT", 5), (None, 5),
     ("Wed, 21 Oct 2215 07:28:00 GMT", 86400), ("٣", 5)],
)  # fmt: skip
def test_a_receiver_can_ask_for_more_time_never_for_less(header: str | None, least: float) -> None:
    assert webhooks.outcome(429, 1, 0.5, header).delay_seconds == pytest.approx(least)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/hooks.sqlite3")
    migrate(made)
    with made.write() as session:
        session.add_all([Tenant(id="a", name="a"), Tenant(id="b", name="b")])
    yield made
    made.close()


@pytest.fixture
def worker(database: Database) -> Iterator[DeliveryWorker]:
    made = DeliveryWorker(database, SIGNER, SendRules(reach=OPEN, total_seconds=1), chance=lambda: 0.5)
    yield made
    made.close()


def endpoint(database: Database, url: str, **changes: Any) -> WebhookEndpoint:
    with database.write() as session:
        return outbox.add_endpoint(session, "a", url=url, reach=OPEN, **changes)


def tell(database: Database, **changes: Any) -> int:
    with database.write() as session:
        return outbox.enqueue(session, "a", "moderation.ping", {"n": 1}, **changes)


def only(database: Database) -> tuple[Delivery, list[DeliveryAttempt]]:
    with database.read() as session:
        delivery = session.scalars(select(Delivery)).one()
        attempts = session.scalars(select(DeliveryAttempt).order_by(DeliveryAttempt.number)).all()
    return delivery, list(attempts)


def make_due(database: Database) -> None:
    with database.write() as session:
        session.scalars(select(Delivery)).one().next_attempt_at = utc_now() - timedelta(seconds=1)


def test_an_event_reaches_every_endpoint_that_wants_it_once(database: Database, worker: DeliveryWorker) -> None:
    with serving({"/all": body(b""), "/some": body(b""), "/job": body(b"")}) as web:
        everything = endpoint(database, f"{web.url}/all")
        endpoint(database, f"{web.url}/some", events=["moderation.job.completed"])
        for _ in range(2):  # the same work done twice tells once
            tell(database, event_id="evt_x", callback_url=f"{web.url}/job")
        worker.run_once()
        assert worker.run_once() == 0
    by_path = {request.path: request for request in web.seen}
    assert len(web.seen) == 2
    assert set(by_path) == {"/all", "/job"}
    for path, secret in (("/all", everything.secret), ("/job", outbox.callback_secret(SIGNER, "a"))):
        request = by_path[path]
        assert all(accepts(request.headers, request.body, secret) for accepts in VERIFIERS)
        assert not library_accepts(request.headers, request.body, outbox.callback_secret(SIGNER, "b"))
        assert json.loads(request.body)["data"] == {"n": 1}


def test_a_failed_try_is_logged_and_repeated_with_the_same_id(database: Database, worker: DeliveryWorker) -> None:
    with serving({"/hook": body(b"", 503, {"Retry-After": "120"})}) as web:
        endpoint(database, f"{web.url}/hook")
        tell(database)
        before = utc_now()
        worker.run_once()
        delivery, attempts = only(database)
        assert (delivery.status, delivery.attempts, [a.status for a in attempts]) == ("pending", 1, [503])
        assert 115 < (delivery.next_attempt_at - before).total_seconds() < 125
        assert worker.run_once() == 0
        web.routes["/hook"] = body(b"")
        make_due(database)
        worker.run_once()
    delivery, attempts = only(database)
    assert (delivery.status, [a.status for a in attempts]) == ("delivered", [503, 200])
    assert len({request.headers["webhook-id"] for request in web.seen}) == 1


def test_a_receiver_that_is_gone_is_not_asked_again_until_somebody_redelivers(
    database: Database, worker: DeliveryWorker
) -> None:
    with serving({"/hook": body(b"", 410)}) as web:
        made = endpoint(database, f"{web.url}/hook")
        tell(database)
        worker.run_once()
        delivery, _ = only(database)
        assert delivery.status == "dead"
        with database.read() as session:
            row = session.get(WebhookEndpoint, made.id)
            assert row is not None
            assert row.disabled_reason == "the receiver answered 410 Gone"
        assert tell(database) == 0
        web.routes["/hook"] = body(b"")
        with database.write() as session:
            outbox.redeliver(session, "a", delivery.id)
        worker.run_once()
    delivery, attempts = only(database)
    assert (delivery.status, [a.status for a in attempts]) == ("delivered", [410, 200])
    with pytest.raises(UsageError), database.write() as session:
        outbox.redeliver(session, "b", delivery.id)


def test_a_redirect_is_a_failure_and_is_not_followed(database: Database, worker: DeliveryWorker) -> None:
    with serving({"/hook": redirect("/inside"), "/inside": body(b"")}) as web:
        endpoint(database, f"{web.url}/hook")
        tell(database)
        worker.run_once()
    assert [request.path for request in web.seen] == ["/hook"]
    assert only(database)[1][0].status == 302


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]/", "http://localhost/", "http://10.0.0.1/hook",
    "ftp://a.example/", "http://169.254.169.254/latest"])  # fmt: skip
def test_a_private_address_is_refused_when_it_is_given(database: Database, url: str) -> None:
    with pytest.raises(UrlBlocked), database.write() as session:
        outbox.add_endpoint(session, "a", url=url, reach=Reach())


def test_a_name_that_turns_private_is_refused_when_it_is_sent_to(database: Database) -> None:
    with serving({"/hook": body(b"")}) as web:
        net = FakeNetwork(names={"hooks.example": [[PUBLIC], ["10.0.0.1"]]}, port=web.port)
        with database.write() as session:
            outbox.add_endpoint(session, "a", url="http://hooks.example/hook", reach=net.reach())
        worker = DeliveryWorker(database, SIGNER, SendRules(reach=net.reach()))
        for _ in range(2):
            tell(database)
            worker.run_once()
        worker.close()
    assert len(web.seen) == 1
    with database.read() as session:
        assert sorted(session.scalars(select(Delivery.status))) == ["dead", "delivered"]
        assert "url_blocked" in session.scalars(select(DeliveryAttempt.error)).all()


def test_silence_and_a_closed_port_are_failures_with_a_code(database: Database, worker: DeliveryWorker) -> None:
    def silent(handler: Any) -> None:
        time.sleep(1.5)

    with serving({"/hook": silent}) as web:
        url = f"{web.url}/hook"
        endpoint(database, url)
        tell(database)
        worker.run_once()
        assert only(database)[1][0].error == "timeout"
    make_due(database)
    worker.run_once()
    assert only(database)[1][1].error == "url_fetch_failed"


def test_rotation_signs_with_both_until_its_time_is_over(database: Database, worker: DeliveryWorker) -> None:
    with serving({"/hook": body(b"")}) as web:
        made = endpoint(database, f"{web.url}/hook")
        with database.write() as session:
            row = session.get(WebhookEndpoint, made.id)
            assert row is not None
            new = outbox.rotate(session, row)
        tell(database)
        worker.run_once()
        with database.write() as session:
            row = session.get(WebhookEndpoint, made.id)
            assert row is not None
            row.previous_until = utc_now() - timedelta(seconds=1)
        tell(database)
        worker.run_once()
    first, second = web.seen
    assert [ours_accepts(first.headers, first.body, s) for s in (made.secret, new)] == [True, True]
    assert [ours_accepts(second.headers, second.body, s) for s in (made.secret, new)] == [False, True]


@pytest.mark.parametrize("kind", databases.KINDS)
def test_a_lease_keeps_others_away_and_runs_out(kind: str, tmp_path: Path) -> None:
    database = databases.fresh(kind, tmp_path)
    with database.write() as session:
        session.add(Tenant(id="a", name="a"))
    endpoint(database, "http://hooks.example/")
    tell(database)
    rules, now = SendRules(), utc_now()
    with database.write() as session:
        (due,) = deliveries.claim(session, "one", now, rules, SIGNER)
    with database.write() as session:
        assert deliveries.claim(session, "two", now, rules, SIGNER) == []
        assert len(deliveries.claim(session, "two", now + timedelta(seconds=61), rules, SIGNER)) == 1
    late = deliveries.Answer(status=500, error=None, retry_after=None, duration_ms=1)
    with database.write() as session:
        assert deliveries.record(session, due, "one", late, 0.5) is None
    database.close()


def test_one_receiver_cannot_take_every_sender(database: Database) -> None:
    for name in ("slow", "other"):
        endpoint(database, f"http://{name}.example/", events=["moderation.ping"])
    for _ in range(20):
        tell(database)
    with database.write() as session:
        due = deliveries.claim(session, "w", utc_now(), SendRules(at_once=8), SIGNER)
    assert sorted(d.url for d in due) == ["http://other.example/"] * 2 + ["http://slow.example/"] * 2


def test_a_long_line_of_one_receiver_does_not_hide_the_others(database: Database) -> None:
    endpoint(database, "http://slow.example/", events=["moderation.ping"])
    for _ in range(300):
        tell(database)
    endpoint(database, "http://late.example/", events=["moderation.ping"])
    tell(database)
    with database.write() as session:
        due = deliveries.claim(session, "w", utc_now(), SendRules(at_once=8), SIGNER)
    assert "http://late.example/" in {d.url for d in due}


def test_the_sender_goes_on_after_an_error_that_nobody_foresaw(database: Database) -> None:
    import threading

    chances = iter([ZeroDivisionError])

    def chance() -> float:
        for error in chances:
            raise error
        return 0.5

    with serving({"/hook": body(b"")}) as web:
        endpoint(database, f"{web.url}/hook")
        rules = SendRules(reach=OPEN, lease_seconds=0.1)
        worker = DeliveryWorker(database, SIGNER, rules, idle_seconds=0.05, chance=chance)
        thread = threading.Thread(target=worker.run)
        thread.start()
        tell(database)
        deadline = time.monotonic() + 10
        while only(database)[0].status != "delivered":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.close()
        thread.join(5)


def test_a_deleted_endpoint_leaves_no_delivery_waiting(database: Database, worker: DeliveryWorker) -> None:
    made = endpoint(database, "http://hooks.example/")
    tell(database)
    with database.write() as session:
        session.delete(session.get(WebhookEndpoint, made.id))
    assert worker.run_once() == 0
    assert only(database)[0].status == "dead"


def test_endpoints_are_bounded_and_their_events_known(database: Database) -> None:
    with pytest.raises(UsageError, match="no event"):
        endpoint(database, "http://hooks.example/", events=["nonsense"])
    for number in range(20):
        endpoint(database, f"http://hooks.example/{number}")
    with pytest.raises(UsageError, match="at most 20"):
        endpoint(database, "http://hooks.example/more")


def test_the_worker_runs_until_stopped(database: Database) -> None:
    import threading

    with serving({"/hook": body(b"")}) as web:
        endpoint(database, f"{web.url}/hook")
        worker = DeliveryWorker(database, SIGNER, SendRules(reach=OPEN), idle_seconds=30)
        thread = threading.Thread(target=worker.run)
        thread.start()
        tell(database)
        worker.wake()
        _wait_for(web)
        worker.close()
        thread.join(5)
        assert not thread.is_alive()


def _wait_for(web: Web) -> None:
    deadline = time.monotonic() + 5
    while not web.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    assert web.seen


def test_secrets_hold_thirty_two_random_bytes() -> None:
    assert len(base64.b64decode(SECRET.removeprefix("whsec_"))) == 32
    assert webhooks.new_secret() != SECRET
