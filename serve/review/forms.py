"""Who sends a form, and what is in it: what every page's route asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Request

from guard.errors import RateLimited
from serve.depends import service_of
from serve.request_errors import Forbidden, InvalidRequest
from serve.review import sessions
from serve.review.sessions import COOKIE, Visitor


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, as text."""

    fields: Mapping[str, Sequence[str]]

    def one(self, name: str, default: str = "") -> str:
        """Return the first value of a field."""
        return self.fields.get(name, [default])[0]

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a field."""
        return tuple(self.fields.get(name, ()))


async def read_form(request: Request) -> Form:
    """Read a form of ours: no files, a bounded number of fields. Raises `InvalidRequest` for anything else."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise InvalidRequest("This takes a form.")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("This form came from another site.")
    body = await request.body()
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=500)
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidRequest("The form cannot be read.") from error
    return Form(fields)


def visitor_of(request: Request) -> Visitor:
    """Return who is signed in. Raises `Unauthorized` where nobody is, or `RateLimited` like the API."""
    service = service_of(request)
    found = sessions.visitor(service.database, service.keyring, request.cookies.get(COOKIE))
    if not service.limiter.take(found.principal.key_id).allowed:
        raise RateLimited("This key has made too many requests.", hint="Wait a moment.")
    return found


FormDep = Annotated[Form, Depends(read_form)]
VisitorDep = Annotated[Visitor, Depends(visitor_of)]


async def checked_form(request: Request, visitor: VisitorDep) -> Form:
    """Read a form that must carry the session's token."""
    form = await read_form(request)
    sessions.check_form(visitor, form.one("csrf"))
    return form


CheckedForm = Annotated[Form, Depends(checked_form)]
