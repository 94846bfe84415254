"""The review page in a real Chromium, against a real server with real workers: what a reviewer does in a day."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import Error as BrowserError
from review_cases import item_of, populate
from serving import Running
from sqlalchemy import select

from serve import keys
from serve.demo_clips import ball, write_clip
from serve.store.people import Override
from serve.workers import start_workers
from tests.slow_path_server import with_tokens
from tests.test_slow_path_vllm_server import Reply, completion
from tests.test_slow_path_vllm_server import serving as vlm_serving

CITED = 2
"""Index of the frame that the scripted VLM cites."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A Chromium: the one that is installed, else Playwright's own; without either the tests are skipped."""
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except BrowserError:
            if os.environ.get("CI_REQUIRE_BROWSER"):
                raise
            pytest.skip("no Chromium here: `playwright install chromium`")
        yield browser
        browser.close()


def unsure(number: int, body: dict[str, Any]) -> Reply:
    """Answer as a VLM that cites a moment and does not want to decide."""
    form = body.get("response_format")
    if form is None:
        return with_tokens("no", 0.55)
    rules = form["json_schema"]["schema"]["properties"]["checks"]["properties"]
    times = next(iter(rules.values()))["properties"]["evidence_seconds"]["items"]["enum"]
    cited = times[min(CITED, len(times) - 1)]
    hard = "violence"
    checks = {
        rule: {
            "evidence_seconds": [cited] if rule == hard else [],
            "why": "<b>hard</b> to say",
            "violated": "unsure" if rule == hard else "no",
        }
        for rule in rules
    }
    answer = {
        "observations": [{"start_seconds": cited, "end_seconds": cited, "text": "a ball in the air"}],
        "checks": checks,
        "counter_evidence": [],
        "categories": [],
        "severity": 0,
        "span": None,
        "reason": "Hard to say.",
    }
    return completion(json.dumps(answer))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "ball.mp4"
    write_clip(path, ball, 6.0)
    return path.read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"policy": "default", "detectors": ("flash",)}
    with vlm_serving(unsure) as vlm:
        settings["slow_url"] = vlm.url
        home = tmp_path_factory.mktemp("home")
        with serving.running(home, run=start_workers, settings=settings, review_content_seconds=3600) as run:
            yield run


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    made = chromium.new_context(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(15_000)
    yield made
    made.close()


def open_page(context: BrowserContext) -> Page:
    """Open a page on which any script error, or anything that the content policy refuses, fails the test."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"script error: {error}"))
    page.on("console", lambda line: pytest.fail(line.text) if "Content Security Policy" in line.text else None)
    return page


def sign_in(page: Page, server: Running, *, name: str = "ana", scopes: tuple[str, ...] = ("review",)) -> None:
    with server.service.database.write() as session:
        made = keys.create(session, name=name, scopes=scopes)
    page.goto(f"{server.url}/review")
    page.get_by_label("API key").fill(made.key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="To review").wait_for()


def until(page: Page, condition: str, argument: object = None) -> None:
    """Wait for a condition; the page's own policy forbids the waiting that is built in, which evaluates strings."""
    deadline = time.monotonic() + 15
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def submit(server: Running, content: bytes, name: str) -> dict[str, Any]:
    with server.client("submit", "read") as http:
        made = http.post("/v1/jobs", files={"file": (name, content, "video/mp4")}).json()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            job = http.get(f"/v1/jobs/{made['id']}", params={"wait": 10}).json()
            if job["status"] in ("succeeded", "failed"):
                return {**job, "result": http.get(f"/v1/jobs/{made['id']}/result").json()}
    raise AssertionError(job)


def active(server: Running, sha256: str) -> list[str]:
    with server.service.database.read() as session:
        query = select(Override.decision).where(Override.sha256 == sha256, Override.status == "active")
        return list(session.scalars(query))


def test_a_reviewers_day(server: Running, context: BrowserContext, clip: bytes) -> None:
    first = submit(server, clip, "ball <i>one</i>.mp4")
    assert first["result"]["decision"] == "review", json.dumps(first["result"])[:6000]
    sha256 = first["result"]["verdict"]["sha256"]
    page = open_page(context)
    sign_in(page, server)

    page.keyboard.press("n")  # claim
    page.get_by_role("heading", name="ball <i>one</i>.mp4").wait_for()
    until(page, "() => document.getElementById('video').readyState >= 1")
    assert page.evaluate("document.getElementById('video').muted") is True
    assert "blur" in page.evaluate("getComputedStyle(document.getElementById('video')).filter")

    mark = page.locator(".mark-button.mark-cited").first  # seek to a cited time
    cited = float(mark.get_attribute("data-at") or "nan")
    mark.click()
    until(page, "t => Math.abs(document.getElementById('video').currentTime - t) < 0.05", cited)
    checks = first["result"]["verdict"]["judgement"]["checks"]
    assert cited in [seconds for check in checks for seconds in check["evidence_seconds"]]
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    until(page, "t => Math.abs(document.getElementById('video').currentTime - t) < 0.05", cited + 1)

    page.keyboard.press("b")  # block with the keyboard
    assert page.locator("[name=decision][value=block]").is_checked()
    assert page.evaluate("document.activeElement.id") == "confirm"
    page.keyboard.press("Enter")
    page.get_by_text("Blocked").wait_for()
    assert active(server, sha256) == ["block"]

    page.keyboard.press("u")  # undo
    page.locator("#decide").wait_for()
    assert active(server, sha256) == []

    page.keyboard.press("x")  # extend the policy with this as an example
    assert page.evaluate("document.activeElement.id") == "reason"
    page.keyboard.press("Control+Enter")
    assert page.locator("#decide").is_visible(), "a rationale is asked for"
    page.keyboard.type("A ball may be thrown at people.")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Blocked").wait_for()
    assert active(server, sha256) == ["block"]

    again = submit(server, clip, "another-name.mp4")  # the next identical clip is blocked
    assert again["result"]["decision"] == "block"
    assert "reviewer" in again["result"]["verdict"]["rationale"]

    other = open_page(context.browser.new_context())  # type: ignore[union-attr]
    sign_in(other, server, name="bo", scopes=("review", "admin"))
    other.get_by_role("link", name="Policy").click()
    other.get_by_text("A ball may be thrown at people.").wait_for()
    other.get_by_role("button", name="Confirm").click()
    other.get_by_text("The example is answered.").wait_for()
    other.context.close()
    time.sleep(2.1)  # the tenant's choice of policy is remembered for two seconds
    policy = server.service.policies.resolve("default", None)
    assert policy is not None
    assert sha256 in {e.sha256 for rule in policy.rules.values() for e in rule.exemplars}


@pytest.fixture(scope="module")
def seeded(server: Running) -> str:
    """Fill the pages with a fortnight's worth, and return the address of an item with every part there is."""
    jobs = populate(server.service)
    return f"/review/items/{item_of(server.service.database, jobs[0]).id}"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)], ids=str)
def test_no_page_has_a_serious_fault_and_none_scrolls_sideways(
    server: Running, chromium: Browser, seeded: str, scheme: Any, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = open_page(context)
    page.goto(f"{server.url}/review/sign-in")
    _check(page, f"sign-in-{scheme}-{width}")
    sign_in(page, server, scopes=("review", "admin"))
    pages = {
        "queue": "/review",
        "claim": seeded,
        "dashboard": "/review/dashboard",
        "policy": "/review/policy?rule=violence",
        "error": "/review/items/none",
    }
    for name, path in pages.items():
        page.goto(f"{server.url}{path}")
        if name == "policy":
            page.get_by_label("Clear below").fill("0.05")
            page.get_by_label("Block at").fill("0.5")
            page.get_by_role("button", name="Preview").click()
        _check(page, f"{name}-{scheme}-{width}")
    page.goto(f"{server.url}{seeded}")
    page.get_by_role("button", name="Claim it").click()
    page.locator(".mark-button").nth(1).click()
    for key, name in (("x", "extend"), ("s", "skip"), ("b", "item")):
        page.locator("h1").click()
        page.keyboard.press(key)
        _check(page, f"{name}-{scheme}-{width}")
    page.get_by_role("button", name="Give back").click()
    context.close()


def _check(page: Page, name: str) -> None:
    """Fail for what axe calls serious; keep a picture where REVIEW_SCREENSHOTS names a folder."""
    folder = os.environ.get("REVIEW_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
    found = Axe().run(page).response["violations"]
    bad = [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]
    assert bad == [], page.url
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.url


def test_preferences_and_keys_are_remembered(server: Running, context: BrowserContext) -> None:
    page = open_page(context)
    sign_in(page, server)
    with page.expect_response("**/review/preferences"):
        page.keyboard.press("v")
    with page.expect_response("**/review/preferences"):
        page.get_by_role("button", name="Keys").click()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.blur") == "off"
    page.keyboard.press("g")
    assert page.evaluate("document.documentElement.dataset.grey") == "on", "single keys are switched off"


def test_everything_is_reached_by_tab_and_typing_is_no_command(
    server: Running, context: BrowserContext, seeded: str
) -> None:
    page = open_page(context)
    sign_in(page, server)
    page.goto(f"{server.url}{seeded}")
    page.keyboard.press("c")
    page.locator("#decide").wait_for()
    page.keyboard.press("r")
    page.locator("#reason").fill("")
    page.locator("#reason").focus()
    page.keyboard.type("a best rxes")
    assert page.locator("[name=decision][value=relabel]").is_checked()
    reached = set()
    page.locator("h1").click()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.className"
            )
        )
    assert {"video", "play", "speed", "reason", "confirm", "decision", "category", "thumb"} <= reached
