"""The pages of the review: who gets in, what a form may do, what a page shows, and that no text of others can act."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
import serving
from media import render
from review_cases import FIGHT, add_content, add_job, item_of, judged, sha, verdict
from serving import Running
from sqlalchemy import select

from guard.types import Judgement, Observation, RuleCheck
from serve import keys
from serve.review import overrides, rendering, sessions
from serve.routes.review_content import type_of
from serve.store.people import Override, Review, SignIn
from serve.store.tables import Evidence, Tenant, utc_now
from serve.sweeping import sweep

CLIP = render(frames=30)
HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>\u202egpj.exe"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving.running(tmp_path_factory.mktemp("review"), settings={"policy": "screen"}) as run:
        yield run
        for browser in Browser.made:
            browser.http.close()


class Browser:
    """What a browser without scripts does."""

    made: ClassVar[list[Browser]] = []

    def __init__(self, server: Running, *scopes: str, tenant: str = "default", name: str = "ana") -> None:
        with server.service.database.write() as session:
            self.key = keys.create(session, name=name, scopes=scopes or ("review",), tenant=tenant)
        self.http = httpx.Client(base_url=server.url, follow_redirects=True)
        self.token = ""
        self.made.append(self)
        self.answer = self.http.post("/review/sign-in", data={"key": self.key.key})

    def get(self, path: str, **options: object) -> httpx.Response:
        return self.http.get(path, **options)  # type: ignore[arg-type]

    def csrf(self) -> str:
        if not self.token:
            found = re.search(r'data-csrf="([^"]+)"', self.get("/review").text)
            assert found
            self.token = found[1]
        return self.token

    def post(self, path: str, **fields: object) -> httpx.Response:
        return self.http.post(path, data={"csrf": self.csrf(), **fields})  # type: ignore[dict-item]


@pytest.fixture
def ana(server: Running) -> Browser:
    return Browser(server)


def job(server: Running, number: int, *, tenant: str = "default", score: float = 0.62, **changes: object) -> str:
    database = server.service.database
    options = {name: changes.pop(name) for name in ("age", "queued") if name in changes}
    found = verdict({FIGHT: score, "violence.fire": 0.04}, number=number, **changes)  # type: ignore[arg-type]
    job_id = add_job(database, found, tenant=tenant, **options)  # type: ignore[arg-type]
    add_content(server.service, database, job_id, CLIP)
    return job_id


def opened(server: Running, browser: Browser, job_id: str) -> str:
    item = item_of(server.service.database, job_id)
    assert browser.post(f"/review/items/{item.id}/claim").status_code == 200
    return item.id


def word(server: Running, number: int) -> str | None:
    with server.service.database.read() as session:
        found = overrides.active_override(session, "default", sha(number))
        return found.decision if found else None


def test_nobody_sees_anything_without_signing_in(server: Running) -> None:
    job_id = job(server, 1)
    item = item_of(server.service.database, job_id)
    paths = ["/review", f"/review/items/{item.id}", "/review/dashboard", "/review/policy", f"/review/media/{job_id}"]
    with httpx.Client(base_url=server.url) as http:
        for path in paths:
            answer = http.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/review/sign-in"), path
        for path in (
            f"/review/items/{item.id}/decide",
            "/review/next",
            "/review/policy/publish",
            "/review/preferences",
        ):
            assert http.post(path, data={"decision": "allow"}).status_code in (303, 422), path
        http.cookies.set(sessions.COOKIE, "x" * 43, path="/review")
        assert http.get(f"/review/media/{job_id}").status_code == 303


@pytest.mark.parametrize("scopes", [("read", "submit"), ("read",)])
def test_a_key_without_the_scope_does_not_open_the_pages(server: Running, scopes: tuple[str, ...]) -> None:
    browser = Browser(server, *scopes)
    assert browser.answer.status_code == 401
    assert "scope" in browser.answer.text
    assert sessions.COOKIE not in browser.http.cookies


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(server: Running) -> None:
    with server.service.database.write() as session:
        made = keys.create(session, name="bo", scopes=["review"])
    with httpx.Client(base_url=server.url) as http:
        cookie = http.post("/review/sign-in", data={"key": made.key}).headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/review", "Max-Age=43200"):
        assert part.lower() in cookie.lower()
    assert made.key not in cookie
    with server.service.database.read() as session:
        kept = [row.hash for row in session.scalars(select(SignIn))]
    assert cookie.split("=")[1].split(";")[0] not in kept


def test_a_session_ends_by_signing_out_by_time_and_with_its_key(server: Running) -> None:
    one, two, three = Browser(server), Browser(server), Browser(server)
    one.post("/review/sign-out")
    with server.service.database.write() as session:
        keys.revoke(session, two.key.id)
        for row in session.scalars(select(SignIn).where(SignIn.key_id == three.key.id)):
            row.expires_at = utc_now() - timedelta(seconds=1)
    for browser in (one, two, three):
        assert str(browser.get("/review").url).endswith("/sign-in")


def test_guessing_keys_is_slowed_down(tmp_path: Path) -> None:
    with serving.running(tmp_path, settings={"policy": "screen"}) as run, httpx.Client(base_url=run.url) as http:
        found = [http.post("/review/sign-in", data={"key": f"vg_{n}"}).status_code for n in range(14)]
    assert found[:10] == [401] * 10
    assert found[-1] == 429


@pytest.mark.parametrize("token", ["", "x", "ü"])
def test_a_form_from_elsewhere_does_nothing(server: Running, ana: Browser, token: str) -> None:
    job_id = job(server, 2)
    item_id = opened(server, ana, job_id)
    fields = {"decision": "allow", "csrf": token}
    assert ana.http.post(f"/review/items/{item_id}/decide", data=fields).status_code == 403
    other = Browser(server)
    assert ana.http.post(f"/review/items/{item_id}/decide", data=fields | {"csrf": other.csrf()}).status_code == 403
    crossed = ana.http.post(
        f"/review/items/{item_id}/decide",
        data={"decision": "allow", "csrf": ana.csrf()},
        headers={"Sec-Fetch-Site": "cross-site"},
    )
    assert crossed.status_code == 403
    files = ana.http.post(f"/review/items/{item_id}/decide", files={"csrf": ana.csrf()}, data={"decision": "allow"})
    assert files.status_code == 422
    assert word(server, 2) is None


@pytest.mark.parametrize(
    ("choice", "fields", "expected"),
    [
        ("allow", {}, "allow"),
        ("block", {"category": [FIGHT]}, "block"),
        ("block", {"other": "violence.weapon"}, "block"),
        ("relabel", {"category": [FIGHT]}, "block"),
        ("relabel", {}, "allow"),
        ("escalate", {"reason": "beyond me"}, None),
        ("skip", {"skip_reason": "too upsetting"}, None),
    ],
)
def test_every_decision_works_without_scripts(
    server: Running, ana: Browser, choice: str, fields: dict[str, str], expected: str | None
) -> None:
    number = 200 + int.from_bytes(f"{choice}{fields}".encode()) % 10_000
    item_id = opened(server, ana, job(server, number))
    answer = ana.post(f"/review/items/{item_id}/decide", decision=choice, seconds_spent="12.5", **fields)
    assert answer.status_code == 200
    assert word(server, number) == expected
    if expected is not None:
        found = re.search(r'action="(/review/reviews/[^"]+/undo)"', answer.text)
        assert found, "the next page offers to undo"
        assert str(ana.post(found[1]).url).endswith(item_id)
        assert word(server, number) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"decision": ""},
        {"decision": "burn"},
        {"decision": "block", "other": "nonsense.x"},
        {"decision": "extend", "reason": "why"},
        {"decision": "extend", "rule": FIGHT, "reason": ""},
        {"decision": "skip", "skip_reason": ""},
    ],
)
def test_a_form_that_lacks_something_says_so_and_changes_nothing(
    server: Running, ana: Browser, fields: dict[str, str]
) -> None:
    job_id = job(server, 3)
    item_id = opened(server, ana, job_id)
    answer = ana.post(f"/review/items/{item_id}/decide", **fields)
    assert answer.status_code in (400, 422)
    assert "That was not done" in answer.text
    assert word(server, 3) is None
    ana.post(f"/review/items/{item_id}/release")


def test_what_others_wrote_is_shown_and_never_acts(server: Running, ana: Browser) -> None:
    hostile = Judgement(
        status="ok", engine=HOSTILE, reason=HOSTILE, counter_evidence=(HOSTILE,),
        observations=(Observation(start_seconds=1.0, end_seconds=2.0, text=HOSTILE),),
        checks=(RuleCheck(rule=FIGHT, violated="yes", evidence_seconds=(1.0,), why=HOSTILE),),
    )  # fmt: skip
    job_id = job(server, 4, source=HOSTILE, judgement=hostile, rationale=HOSTILE)
    item_id = opened(server, ana, job_id)
    ana.post(f"/review/items/{item_id}/decide", decision="block", category=[FIGHT], reason=HOSTILE)
    again = job(server, 4, source=HOSTILE)
    pages = ["/review", f"/review/items/{item_of(server.service.database, again).id}", f"/review?reason={HOSTILE}",
             "/review/dashboard", "/review/policy", f"/review/policy?rule={HOSTILE}&layer=reviews&saved={HOSTILE}",
             f"/review/items/{item_id}", "/review/sign-in", "/review/items/nothing"]  # fmt: skip
    for path in pages:
        answer = ana.get(path)
        assert "<img src=x" not in answer.text, path
        assert "<script>alert" not in answer.text, path
        assert "\u202e" not in answer.text, path
        _no_inline(answer)
    shown = ana.get(f"/review/items/{item_id}").text
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert "\\u{202e}" in shown


def _no_inline(answer: httpx.Response) -> None:
    """No script, style or handler in the page itself, and a policy that would not run one."""
    html, policy = answer.text, answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert re.findall(r"<script(?![^>]* src=)", html) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+\s*=\s*[\"'](?!x)", re.sub(r"<bdi>.*?</bdi>", "", html)) == []
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"


def test_another_tenant_finds_nothing_of_it(server: Running, ana: Browser) -> None:
    eve = Browser(server, "admin", tenant="other")
    job_id = job(server, 5, source="secret-name.mp4")
    item_id = opened(server, ana, job_id)
    with server.service.database.read() as session:
        frame = session.scalars(select(Evidence.id).where(Evidence.job_id == job_id)).first()
        override = session.scalars(select(Override.id)).first() or "ovr_x"
        review = session.scalars(select(Review.id)).first() or "rvw_x"
    for path in (f"/review/items/{item_id}", f"/review/media/{job_id}", f"/review/evidence/{frame}.jpg"):
        assert eve.get(path).status_code == 404, path
        assert ana.get(path).status_code == 200, path
    posts = {
        f"/review/items/{item_id}/claim": {}, f"/review/items/{item_id}/decide": {"decision": "allow"},
        f"/review/items/{item_id}/renew": {}, f"/review/items/{item_id}/release": {},
        f"/review/reviews/{review}/undo": {}, f"/review/examples/{override}": {"answer": "confirm"},
    }  # fmt: skip
    for path, fields in posts.items():
        assert eve.post(path, **fields).status_code == 404, path
    assert "secret-name" not in eve.get(f"/review?done={review}").text
    assert ana.get("/review/dashboard").text.count("inputs in the last") == 1


def test_the_clip_is_sent_in_parts_and_only_ever_played(server: Running, ana: Browser) -> None:
    job_id = job(server, 6)
    whole, part = (
        ana.get(f"/review/media/{job_id}"),
        ana.get(f"/review/media/{job_id}", headers={"Range": "bytes=10-19"}),
    )
    assert whole.content == CLIP
    assert (part.status_code, part.content) == (206, CLIP[10:20])
    assert whole.headers["content-type"] == "video/mp4"
    assert "sandbox" in whole.headers["content-security-policy"]
    assert whole.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(CLIP, "video/mp4"), (b"<html><script>alert(1)</script>" * 4, "application/octet-stream"),
     (b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>" * 2, "application/octet-stream"),
     (b"\x1aE\xdf\xa3" + bytes(60), "video/webm"), (b"", "application/octet-stream"),
     (b"GIF89a" + bytes(60), "image/gif")],
)  # fmt: skip
def test_the_type_of_content_comes_from_its_first_bytes(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    path.write_bytes(content)
    assert type_of(path) == kind


@pytest.mark.parametrize(
    "name", ["../rendering.py", "..%2frendering.py", "%2e%2e/%2e%2e/keys.py", "review.js/../x", "base.html.j2"]
)
def test_only_listed_files_are_sent(ana: Browser, name: str) -> None:
    assert ana.get(f"/review/static/{name}").status_code == 404
    for listed in rendering.ASSETS:
        assert ana.get(f"/review/static/{listed}").status_code == 200


def test_preferences_are_remembered_over_sessions(server: Running, ana: Browser) -> None:
    assert 'data-blur="on" data-grey="on" data-mute="on"' in ana.get("/review").text
    ana.post("/review/preferences", name="blur", value="off")
    ana.post("/review/preferences", name="nonsense", value="off")
    ana.post("/review/sign-out")
    sweep(server.service)
    ana.http.post("/review/sign-in", data={"key": ana.key.key})
    ana.token = ""
    assert 'data-blur="off" data-grey="on" data-mute="on"' in ana.get("/review").text


def test_a_session_of_long_ago_is_swept(server: Running, ana: Browser) -> None:
    ana.post("/review/sign-out")
    sweep(server.service, utc_now() + sessions.KEEP + timedelta(minutes=1))
    with server.service.database.read() as session:
        assert session.scalars(select(SignIn).where(SignIn.key_id == ana.key.id)).all() == []


def test_an_example_waits_for_a_second_person_and_then_teaches_the_policy(server: Running, ana: Browser) -> None:
    job_id = job(server, 7)
    item_id = opened(server, ana, job_id)
    ana.post(f"/review/items/{item_id}/decide", decision="extend", rule=FIGHT, reason="A brawl, seen from above.")
    assert word(server, 7) == "block", "the very content is blocked at once"
    with server.service.database.read() as session:
        override = session.scalars(select(Override).where(Override.sha256 == sha(7))).one()
    page = ana.get("/review/policy").text
    assert "A brawl, seen from above." in page
    assert "somebody else confirms it" in page
    assert ana.post(f"/review/examples/{override.id}", answer="confirm").status_code == 409
    bo = Browser(server, name="bo")
    assert bo.post(f"/review/examples/{override.id}", answer="confirm").status_code == 200
    assert bo.post(f"/review/examples/{override.id}", answer="reject").status_code == 409
    policy = server.service.policies.resolve("default", "layer:reviews")
    assert policy is not None
    assert [(e.sha256, e.rationale) for e in policy.rules[FIGHT].exemplars] == [(sha(7), "A brawl, seen from above.")]
    with server.service.database.read() as session:
        tenant = session.get(Tenant, "default")
        assert tenant is not None
        assert tenant.policy == "layer:reviews"


def test_a_new_rule_is_made_of_an_example(server: Running, ana: Browser) -> None:
    item_id = opened(server, ana, job(server, 8))
    ana.post(f"/review/items/{item_id}/decide", decision="extend", new_rule="Roof running", reason="Runs over roofs.")
    with server.service.database.read() as session:
        override = session.scalars(select(Override).where(Override.sha256 == sha(8))).one()
    assert Browser(server, name="cy").post(f"/review/examples/{override.id}", answer="confirm").status_code == 200
    policy = server.service.policies.resolve("default", "layer:reviews")
    assert policy is not None
    assert policy.rules["custom.roof_running"].state == "block"


def test_a_policy_is_previewed_by_anyone_and_published_by_admins(server: Running, ana: Browser) -> None:
    job(server, 9, score=0.55)
    edit = {
        "layer": "house",
        "category": FIGHT,
        "state": "block",
        "clear_below": "0.1",
        "block_at": "0.5",
        "definition": "",
    }
    shown = ana.post("/review/policy/preview", **edit)
    assert "would change" in shown.text
    assert "0.55" in shown.text
    assert ana.post("/review/policy/publish", **edit).status_code == 403
    wrong = ana.post("/review/policy/preview", **(edit | {"block_at": "0.05"}))
    assert wrong.status_code == 422
    admin = Browser(server, "admin", "review", name="eve")
    assert "published" in admin.post("/review/policy/publish", **edit).text
    policy = server.service.policies.resolve("default", "layer:house")
    assert policy is not None
    bounds = policy.rules[FIGHT].thresholds
    assert bounds is not None
    assert (bounds.clear_below, bounds.block_at) == (0.1, 0.5)
    assert "Nothing had to change" in admin.post("/review/policy/publish", **edit).text


def test_the_queue_is_paged_and_filtered(server: Running) -> None:
    zed = Browser(server, tenant="zed")
    for number in range(53):
        found = verdict({FIGHT: 0.2 + number / 100}, number=100 + number, source=f"z{number}.mp4")
        add_job(server.service.database, found, tenant="zed")
    first = zed.get("/review").text
    assert first.count('class="row"') == 50
    assert "z52.mp4" in first
    rest = zed.get("/review?start=50").text
    assert rest.count('class="row"') == 3
    assert zed.get("/review?reason=undecided").text.count('class="row"') == 0
    assert zed.get("/review?start=-5&reason=").text.count('class="row"') == 50


def test_a_claim_is_renewed_while_it_is_held(server: Running, ana: Browser) -> None:
    item_id = opened(server, ana, job(server, 20))
    assert ana.post(f"/review/items/{item_id}/renew").status_code == 204
    ana.post(f"/review/items/{item_id}/release")
    assert ana.post(f"/review/items/{item_id}/renew").status_code == 409


def test_an_item_shows_what_a_person_needs(server: Running, ana: Browser) -> None:
    job_id = job(server, 21, judgement=judged(), source="park.mp4")
    item_id = opened(server, ana, job_id)
    html = ana.get(f"/review/items/{item_id}").text
    for text in ("park.mp4", "Two people push each other.", "model output, may be wrong", "Fighting peaks at 0.62",
                 "cited for Fighting (unsure)", "Two or more people hit", "at stake", "0.90", "leans to"):  # fmt: skip
        assert text in html, text
    assert html.count("/review/evidence/") == 3
    assert 'data-at="4.000"' in html


def test_a_job_whose_content_is_gone_can_still_be_decided(server: Running, ana: Browser) -> None:
    job_id = add_job(server.service.database, verdict({}, decision="undecided", number=22))
    eve = Browser(server, tenant="acme")
    item_id = opened(server, eve, job_id)
    html = eve.get(f"/review/items/{item_id}").text
    assert "not kept any more" in html
    assert "undecodable" in html
    assert eve.get(f"/review/media/{job_id}").status_code == 404
    assert eve.post(f"/review/items/{item_id}/decide", decision="block").status_code == 200


def test_the_queue_names_the_rule_that_is_at_stake() -> None:
    bounds = {"a": {"clear_below": 0.22, "block_at": 1.000000001}, "b": {"clear_below": 0.09, "block_at": 0.7}}
    found = {"flagged": False, "stage": "fast", "threshold": 0.7}
    given = {"a": {**found, "score": 0.18, "threshold": 1.000000001}, "b": {**found, "score": 0.10}}
    read = {"categories": given, "route": {"thresholds": bounds, "uncertain": ["b"]}}
    assert rendering.top_category(read) == ("b", 0.10, 0.7)
    given["a"] |= {"score": 0.9, "flagged": True}
    assert rendering.top_category(read) == ("a", 0.9, 1.000000001)
    assert rendering.top_category({"categories": {}, "route": None}) is None


def test_what_the_screen_left_open_without_a_slow_path_is_not_called_sent_to_one(server: Running, ana: Browser) -> None:
    item_id = opened(server, ana, job(server, 77, slow_path="not_configured"))
    assert "left open by the screen" in ana.get(f"/review/items/{item_id}").text
    assert "left open by the screen" in ana.get("/review/dashboard").text
