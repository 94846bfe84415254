"""From values to pages: templates with autoescaping, a policy that admits no inline script or style, files by list."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from guard.errors import GuardError
from serve.failures import failure_of
from serve.request_errors import InvalidRequest, Unauthorized
from serve.review import drawing
from serve.review.sessions import Visitor
from serve.terminal import safe

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No inline script or style, nothing from elsewhere: a text that slipped through as HTML could do nothing."""
PAGE_HEADERS = {"Content-Security-Policy": CSP, "Cross-Origin-Opener-Policy": "same-origin"}
ASSETS: Mapping[str, str] = {
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "pages.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
SIGN_IN = "/review/sign-in"
_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


class PageRoute(APIRoute):
    """Answers errors with a page, and who is not signed in with the way to sign in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, errors caught."""
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except Unauthorized:
                if request.headers.get("accept", "").startswith("application/json"):
                    raise
                return RedirectResponse(SIGN_IN, 303)
            except RequestValidationError:
                return failed(InvalidRequest("A field of this form is missing or not allowed."))
            except GuardError as error:
                return failed(error)

        return handler


def page(template: str, visitor: Visitor | None, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page. `visitor` is None before signing in."""
    html = environment().get_template(template).render(visitor=visitor, version=asset_version(), **values)
    return HTMLResponse(html, status_code=status, headers=PAGE_HEADERS)


def failed(error: GuardError, status: int | None = None) -> HTMLResponse:
    """Return the page of an error: its message and the next step, never more."""
    found = status or failure_of(error).status
    shown = {"code": error.code, "message": error.message, "hint": error.hint}
    return page("error.html.j2", None, status=found, error=shown)


def asset(name: str) -> tuple[bytes, str]:
    """Return a file of the pages and its type. Raises `KeyError` for any other name."""
    return _asset(name), ASSETS[name]


@cache
def asset_version() -> str:
    """Return a name for the present content of all files: a new version is a new address."""
    return hashlib.sha256(b"".join(_asset(name) for name in sorted(ASSETS))).hexdigest()[:12]


@cache
def environment() -> Environment:
    """Return the templates. An unknown name in one is an error; every value is escaped."""
    made = Environment(
        loader=PackageLoader("serve.review"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "clock": drawing.clock, "visible": visible, "plain": safe, "score": score, "percent": percent,
        "path": path_segment, "age": age, "top_category": top_category,
        "words": lambda text: str(text).replace("_", " "),
        "n": lambda value: f"{value:.1f}",
    }  # fmt: skip
    return made


def visible(text: object) -> Markup:
    r"""Return text of somebody else's with what hides or reorders other text shown as what it is: `\u{202e}`."""
    parts = []
    for character in str(text):
        if unicodedata.category(character) in _HIDDEN and character != "\n":
            parts.append(f'<span class="escaped">\\u{{{ord(character):x}}}</span>')
        else:
            parts.append(str(escape(character)))
    return Markup(f"<bdi>{''.join(parts)}</bdi>")  # noqa: S704 - every character is escaped above


def score(value: float | None) -> str:
    """Return a score as people read it: 0.62, and 0.003 where two digits would say 0.00."""
    if value is None:
        return "–"
    return f"{value:.3f}" if 0 < value < 0.01 else f"{value:.2f}"


def percent(part: float, whole: float) -> str:
    """Return a share, or a dash where there is nothing to share."""
    return "–" if not whole else f"{100 * part / whole:.1f} %"


def age(seconds: float) -> str:
    """Return a stretch of time in the largest unit that fits: 40 s, 5 min, 3 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def top_category(verdict: Mapping[str, Any]) -> tuple[str, float, float | None] | None:
    """Return category, score and threshold of the rule at stake.

    Violated rules go before those left open, and open ones before clear ones: a clear 0.18 is nobody's question where
    another rule is open at 0.10. Among equals, the score that is highest beside its thresholds.
    """
    route = verdict.get("route") or {}
    bounds, uncertain = route.get("thresholds") or {}, set(route.get("uncertain") or ())

    def concern(name: str, found: Mapping[str, Any]) -> tuple[bool, bool, float, float]:
        low = (bounds.get(name) or {}).get("clear_below")
        high = found["threshold"] or 1.0
        score: float = found["score"]
        still_open = name in uncertain or found["stage"] == "none" or (low is not None and low <= score < high)
        bar = high if found["flagged"] or low is None else low
        return found["flagged"], still_open and found["stage"] != "slow", score / max(bar, 1e-6), score

    scored = {name: found for name, found in verdict["categories"].items() if found["score"] is not None}
    if not scored:
        return None
    name = max(scored, key=lambda each: concern(each, scored[each]))
    return name, scored[name]["score"], scored[name]["threshold"]


def path_segment(text: str) -> str:
    """Return text as one segment of a path."""
    return quote(text, safe="")


@cache
def _asset(name: str) -> bytes:
    if name not in ASSETS:
        raise KeyError(name)
    return (files("serve.review") / "static" / name).read_bytes()
