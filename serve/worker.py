"""Judges jobs: claims them, keeps their leases alive, ends them, and puts them back when it is asked to stop."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from guard.errors import DecoderCrashed, GuardError, InputNotFound
from guard.types import Verdict
from guard.verdict import failed
from serve import jobs
from serve.blobs import Stored
from serve.fetch import fetch
from serve.finishing import Outcome, finish
from serve.pictures import take_pictures
from serve.receiving import used_bytes
from serve.service import Service
from serve.store.tables import Job, utc_now

log = logging.getLogger(__name__)

GRACE_SECONDS = 8.0
"""How long a stopping worker lets running jobs end before it puts them back."""


class JobWorker:
    """Threads that judge jobs, and one that keeps their leases."""

    def __init__(
        self, service: Service, *, threads: int | None = None, on_end: Callable[[], None] | None = None
    ) -> None:
        """Prepare a worker.

        Args:
            service: the parts.
            threads: jobs judged at once.
            on_end: called after each job that ended, such as to wake the sender of webhooks.
        """
        self._service = service
        self._count = threads or service.serve.job_threads or service.settings.workers
        self.owner = f"{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(6)}"
        self._on_end = on_end or (lambda: None)
        self._stop = threading.Event()
        self._wake = threading.Condition()
        self._running = 0
        self._threads = [threading.Thread(target=self._work, name=f"guard-job-{n}") for n in range(self._count)]
        self._keeper = threading.Thread(target=self._keep, name="guard-leases", daemon=True)

    def start(self) -> JobWorker:
        """Start the threads."""
        for thread in (*self._threads, self._keeper):
            thread.daemon = True
            thread.start()
        return self

    def wake(self) -> None:
        """Look for work at once: a job was just taken in by this process."""
        with self._wake:
            self._wake.notify()

    def close(self) -> None:
        """Take no more, give what runs a moment to end, and put the rest back in the queue."""
        self._stop.set()
        with self._wake:
            self._wake.notify_all()
        until = time.monotonic() + GRACE_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
        self._keeper.join(timeout=5)
        try:
            with self._service.database.write() as session:
                back = jobs.release(session, self.owner)
            if back:
                log.info("put %d jobs back", back)
        except GuardError:
            log.warning("leases were not given back; they run out by themselves", exc_info=True)

    def run_one(self) -> bool:
        """Claim and judge one job in the calling thread; False where none may run now."""
        job = self._claim()
        if job is None:
            return False
        try:
            self._run(job)
        except Exception:
            log.exception("job %s was not ended; its lease runs out", job.id)
        return True

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                found = self.run_one()
            except GuardError as error:
                log.warning("no job can be claimed: %s", error.code)
                found = False
            except Exception:
                log.exception("no job can be claimed")
                found = False
            if not found:
                with self._wake:
                    self._wake.wait(self._service.serve.poll_seconds)

    def _claim(self) -> Job | None:
        """Look before taking the write lock: an idle worker must not get in the way."""
        service, now = self._service, utc_now()
        with service.database.read() as session:
            if jobs.counts(session)["queued"] == 0:
                return None
        with service.database.write() as session:
            return jobs.claim(session, self.owner, service.serve, now)

    def _run(self, job: Job) -> None:
        started = time.perf_counter()
        outcome = self._judge(job, started)
        error = outcome.verdict.error
        again = outcome.verdict.decision == "undecided" and error is not None and error.retryable
        service = self._service
        with service.database.write() as session:
            tries = again and job.attempts < service.serve.max_attempts
            if tries and jobs.postpone(session, job.id, self.owner, utc_now()):
                return
            ended = finish(session, service.serve, job.id, self.owner, outcome)
            over = ended is not None and ended.purge_at is not None and ended.purge_at <= utc_now() and not ended.hold
            content = ended.blob if ended is not None and over else None
            if ended is not None and over:
                ended.blob = None
        if ended is None:  # somebody else has it now, and will keep pictures of their own
            for picture in outcome.pictures:
                service.blobs.delete(picture["blob"])
            log.warning("job %s was taken over; its verdict here is dropped", job.id)
            return
        service.blobs.delete(content)
        service.metrics.job(ended.status)
        service.metrics.verdict("video", outcome.verdict)
        self._on_end()

    def _judge(self, job: Job, started: float) -> Outcome:
        service = self._service
        try:
            policy = service.policies.resolve(job.tenant_id, job.policy)
            path = self._content(job)
            with service.engine.using(policy) as guard:
                verdict = guard.check(path, name=job.source)
                overrides = service.overrides.find(job.tenant_id, [verdict.sha256] if verdict.sha256 else [])
                (verdict,) = service.overrides.apply(job.tenant_id, [verdict], guard.policy)
                pictures = take_pictures(guard, path, verdict, service.blobs) if job.keep_evidence else []
        except GuardError as error:
            return Outcome(verdict=self._failed(job, error), elapsed_ms=_ms(started))
        except Exception:
            log.exception("job %s failed", job.id)
            unexpected = GuardError("An unexpected error stopped the job; the log has the details.")
            return Outcome(verdict=self._failed(job, unexpected), elapsed_ms=_ms(started))
        word = overrides.get(verdict.sha256)
        return Outcome(
            verdict=verdict, elapsed_ms=_ms(started), pictures=pictures, override_id=word.id if word else None
        )

    def _failed(self, job: Job, error: GuardError) -> Verdict:
        policy = self._service.engine.guard.policy
        return failed(source=job.source, sha256=job.sha256, policy=policy, error=error.info())

    def _content(self, job: Job) -> Path:
        """Return where the content lies; fetch it first where the job names an address."""
        service = self._service
        if job.blob is None and job.url is not None:
            service.blobs.require_room(0, used_bytes(service))
            name = service.blobs.new_name()
            with service.blobs.create(name) as file:
                fetched = fetch(job.url, file, service.fetch_rules(service.serve.max_upload_bytes))
            self._keep_content(job, Stored(name=name, sha256=fetched.sha256, size_bytes=fetched.size_bytes))
        if job.blob is None:
            raise InputNotFound("The content of the job is gone.", hint="Submit it again.")
        return service.blobs.path(job.blob)

    def _keep_content(self, job: Job, stored: Stored) -> None:
        with self._service.database.write() as session:
            row = session.get_one(Job, job.id)
            if row.lease_owner == self.owner:
                row.blob, row.sha256, row.size_bytes = stored.name, stored.sha256, stored.size_bytes
        job.blob, job.sha256, job.size_bytes = stored.name, stored.sha256, stored.size_bytes

    def _keep(self) -> None:
        """Renew leases three times in their length, and take back those that ran out elsewhere."""
        every = self._service.serve.lease_seconds / 3
        while not self._stop.wait(every):
            try:
                self._beat()
            except Exception:
                log.exception("leases were not renewed")

    def _beat(self) -> None:
        service, now = self._service, utc_now()
        with service.database.write() as session:
            jobs.heartbeat(session, self.owner, service.serve, now)
            lost = jobs.reap(session, self.owner, service.serve, now)
        for job_id in lost:
            self._give_up(job_id)

    def _give_up(self, job_id: str) -> None:
        service = self._service
        with service.database.write() as session:
            job = session.get_one(Job, job_id)
            error = DecoderCrashed(f"{job.attempts} workers died while they judged it.")
            finish(
                session, service.serve, job_id, self.owner, Outcome(verdict=self._failed(job, error), elapsed_ms=0.0)
            )
        self._on_end()


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
