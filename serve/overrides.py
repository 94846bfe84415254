"""Looks up what people decided about content before; `serve.review.overrides` says what follows from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy import select

from guard.types import Policy, Verdict
from serve.review.overrides import apply_override
from serve.store.people import Override
from serve.store.session import Database

_REMEMBER_SECONDS = 2.0
"""A tenant without overrides is asked about this often, not on every text."""


class OverrideBook:
    """Overrides by content. Safe for threads."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._none_until: dict[str, float] = {}

    def none_for(self, tenant_id: str) -> bool:
        """Whether this tenant had no override a moment ago; costs no query."""
        return self._none_until.get(tenant_id, 0.0) > self._clock()

    def apply(self, tenant_id: str, verdicts: Sequence[Verdict], policy: Policy) -> list[Verdict]:
        """Return the verdicts, those on content that a person decided about as that person did."""
        found = self.find(tenant_id, [v.sha256 for v in verdicts if v.sha256 is not None])
        return [apply_override(v, found[v.sha256], policy) if v.sha256 in found else v for v in verdicts]

    def find(self, tenant_id: str, contents: Sequence[str]) -> dict[str | None, Override]:
        """Return the newest active override by SHA-256, for those contents that have one."""
        if not contents or self.none_for(tenant_id):
            return {}
        own = select(Override).where(Override.tenant_id == tenant_id, Override.status == "active")
        with self._database.read() as session:
            wanted = own.where(Override.sha256.in_(contents)).order_by(Override.created_at, Override.id)
            rows = session.scalars(wanted).all()
            if not rows and session.scalar(own.with_only_columns(Override.id).limit(1)) is None:
                with self._lock:
                    self._none_until[tenant_id] = self._clock() + _REMEMBER_SECONDS
        return {row.sha256: row for row in rows}
