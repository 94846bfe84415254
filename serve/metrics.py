"""Counters for Prometheus, in a registry of their own. They count; they name no content and no tenant."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from guard.types import Verdict

_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What `/metrics` shows of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "guard_requests_total",
            "Requests by route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "guard_request_seconds", "Time to answer.", ("method", "route"), buckets=_BUCKETS, registry=self.registry
        )
        self._verdicts = Counter(
            "guard_verdicts_total", "Verdicts.", ("kind", "decision", "path", "degraded"), registry=self.registry
        )
        self._errors = Counter(
            "guard_verdict_errors_total", "Verdicts with an error.", ("code",), registry=self.registry
        )
        self._jobs = Counter("guard_jobs_total", "Jobs that ended, by status.", ("status",), registry=self.registry)
        self.pending = Gauge("guard_pending", "Inputs that wait in this process.", ("kind",), registry=self.registry)
        self.queued = Gauge(
            "guard_jobs_queued", "Jobs in the database, by status.", ("status",), registry=self.registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)

    def verdict(self, kind: str, verdict: Verdict) -> None:
        """Count one verdict."""
        path = verdict.route.path if verdict.route else "none"
        self._verdicts.labels(kind, verdict.decision, path, str(verdict.degraded).lower()).inc()
        if verdict.error is not None:
            self._errors.labels(verdict.error.code).inc()

    def job(self, status: str) -> None:
        """Count a job that ended."""
        self._jobs.labels(status).inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
