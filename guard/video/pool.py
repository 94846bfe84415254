"""Worker processes, kept between inputs and replaced when they misbehave."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from typing import Any

from guard.errors import BackendError, DecoderCrashed
from guard.limits import Limits
from guard.video import codec, wire
from guard.video.process import Worker

_WATCH_SECONDS = 0.1


class Pool:
    """At most `size` workers. Any number of threads may borrow; those over `size` wait."""

    def __init__(self, size: int, reader: str, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits
        self._slots = threading.Semaphore(size)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._orders: queue.SimpleQueue[Future[Worker] | None] = queue.SimpleQueue()
        self._keeper: threading.Thread | None = None

    def borrow(self) -> Worker:
        """Return a worker that is ready; give it back with `give_back`. Raises `BackendError`."""
        self._slots.acquire()
        try:
            while True:
                with self._lock:
                    if self._closed:
                        raise _closed()
                    worker = self._idle.pop() if self._idle else None
                if worker is None:
                    return self._start()
                if worker.reusable():
                    return worker
                self._drop(worker)
        except BaseException:
            self._slots.release()
            raise

    def give_back(self, worker: Worker) -> None:
        """Return a worker; one that is spent is dropped."""
        with self._lock:
            keep = not self._closed and worker.reusable()
            if keep:
                self._idle.append(worker)
        if not keep:
            self._drop(worker)
        self._slots.release()

    def close(self) -> None:
        """Stop all workers, those at work included."""
        with self._lock:
            self._closed, self._idle = True, []
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                self._orders.put(None)  # after every order, since none is taken once the pool is closed
        self._kill_all()
        if keeper is not None:
            keeper.join()
        for worker in self._kill_all():  # and what the keeper still started
            self._drop(worker)

    def _kill_all(self) -> list[Worker]:
        with self._lock:
            workers = list(self._all)
        for worker in workers:
            worker.kill("close")
        return workers

    def _start(self) -> Worker:
        order: Future[Worker] = Future()
        with self._lock:
            if self._closed:
                raise _closed()
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="guard-decoder-keeper", daemon=True)
                self._keeper.start()
            self._orders.put(order)
        worker = order.result()
        try:
            worker.wait_ready()
        except BaseException:
            self._drop(worker)
            raise
        return worker

    def _drop(self, worker: Worker) -> None:
        worker.discard()
        with self._lock:
            self._all.discard(worker)

    def _keep(self) -> None:
        # One thread starts every worker, because the parent-death signal follows the thread that forked, not the
        # process: a worker started by a short-lived request thread would die with that thread.
        while True:
            try:
                order = self._orders.get(timeout=_WATCH_SECONDS)
            except queue.Empty:
                self._watch()
                continue
            if order is None:
                return
            try:
                if self._closed:
                    raise _closed()
                worker = Worker(self._reader, self._limits)
                with self._lock:
                    self._all.add(worker)
                order.set_result(worker)
            except BaseException as error:
                order.set_exception(error)
            self._watch()

    def _watch(self) -> None:
        with self._lock:
            workers = list(self._all)
        for worker in workers:
            worker.stop_if_overdue()


def _closed() -> BackendError:
    return BackendError("The decoder is closed.", hint="Make a new one.")


def job_events(
    worker: Worker, message: Mapping[str, Any], limits: Limits, fd: int, label: str
) -> Generator[tuple[dict[str, Any], bytearray], None, dict[str, Any]]:
    """Send one job and yield every message but heartbeats; the last one is the generator's value.

    Raises an `InputError` if the worker dies or lies. Closing the generator early stops the worker: it would go on
    sending into a channel that nobody reads.
    """
    worker.begin(limits)
    try:
        wire.send(worker.channel, message, fd=fd)
        while True:
            event, blob = wire.receive(worker.channel)
            kind = event.get("event")
            if kind in ("done", "error"):
                return event
            if kind == "progress":
                worker.progress(codec.integer(event, "frames"), codec.number(event, "reached_seconds"))
            elif kind in ("frames", "restart"):
                yield event, blob
            else:
                raise wire.WireError(f"unknown event {kind!r:.40}")
    except wire.WireError as error:
        if str(error) == wire.END:
            raise worker.cause_of_death(label) from None
        worker.kill("protocol")
        raise broken_protocol(label, error) from None
    except OSError:
        worker.kill("channel")
        raise worker.cause_of_death(label) from None
    except BaseException:
        worker.kill("abandoned")
        raise
    finally:
        worker.end()


def broken_protocol(label: str, error: Exception) -> DecoderCrashed:
    """Return the error for a worker that sends nonsense: something has taken it over, or broken it."""
    return DecoderCrashed(f"The decoder process broke its protocol on {label!r}: {error!s:.200}.")
