"""The workers of one process: jobs, batches, webhooks, sweeps. In the API's process, or in one of their own."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from serve.batches import BatchWorker
from serve.deliveries import DeliveryWorker, SendRules
from serve.service import Service
from serve.sweeping import Sweeper
from serve.worker import JobWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """What `start_workers` started."""

    jobs: JobWorker
    batches: BatchWorker
    deliveries: DeliveryWorker
    sending: threading.Thread
    sweeper: Sweeper

    def close(self) -> None:
        """Stop them in the order in which they make work for each other."""
        self.batches.close()
        self.jobs.close()
        self.deliveries.close()
        self.sending.join(timeout=10)
        self.sweeper.close()


def start_workers(service: Service, *, threads: int | None = None) -> Workers:
    """Start everything that works behind the API."""
    deliveries = DeliveryWorker(service.database, service.signer, SendRules(reach=service.reach))
    jobs = JobWorker(service, threads=threads, on_end=deliveries.wake).start()
    service.on_job.append(jobs.wake)
    sending = threading.Thread(target=deliveries.run, name="guard-webhooks", daemon=True)
    sending.start()
    return Workers(
        jobs=jobs,
        batches=BatchWorker(service).start(),
        deliveries=deliveries,
        sending=sending,
        sweeper=Sweeper(service).start(),
    )
