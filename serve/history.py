"""Writes the score history behind the answers: in groups, so that no request waits for the disk."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert

from guard.errors import GuardError
from guard.types import Verdict
from serve.store.session import Database
from serve.store.tables import ScoreHistory, utc_now

log = logging.getLogger(__name__)

_EVERY_SECONDS = 0.5
_MOST = 20_000
"""Lines that wait; above it the oldest are dropped and counted: a statistic must not hold the service up."""


def history_row(
    verdict: Verdict, *, tenant_id: str, kind: str, latency_ms: float, job_id: str | None = None
) -> dict[str, Any]:
    """Return the line of one verdict: scores and decisions, no content."""
    scores = {c: s.score for c, s in verdict.categories.items() if s.score is not None}
    seconds = verdict.coverage.decoded_seconds if verdict.coverage and kind == "video" else 0.0
    return {
        "tenant_id": tenant_id,
        "at": utc_now(),
        "kind": kind,
        "job_id": job_id,
        "sha256": verdict.sha256,
        "policy_name": verdict.policy.name[:255],
        "policy_hash": verdict.policy.hash,
        "decision": verdict.decision,
        "path": verdict.route.path if verdict.route else "none",
        "degraded": verdict.degraded,
        "error_code": verdict.error.code if verdict.error else None,
        "latency_ms": round(latency_ms, 2),
        "media_seconds": round(seconds, 3),
        "scores": scores,
    }


class HistoryWriter:
    """One thread that writes lines twice a second."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines: deque[Mapping[str, Any]] = deque(maxlen=_MOST)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guard-history", daemon=True)
        self._thread.start()

    def add(self, row: Mapping[str, Any]) -> None:
        """Put a line in the queue."""
        self._lines.append(row)

    def flush(self) -> None:
        """Write what waits."""
        rows = []
        while self._lines:
            rows.append(self._lines.popleft())
        if rows:
            with self._database.write() as session:
                session.execute(insert(ScoreHistory), rows)

    def close(self) -> None:
        """Write the rest and end the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            self._try()
        self._try()

    def _try(self) -> None:
        try:
            self.flush()
        except GuardError:
            log.warning("score history was not written", exc_info=True)
        except Exception:
            log.exception("score history was not written")
