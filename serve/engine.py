"""The bridge from the service to `Guard`: one set of decoder processes for all policies, bounded lines, futures."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guard.config import Settings
from guard.errors import Capacity
from guard.interfaces import Detector
from guard.types import Policy, Verdict
from serve.micro_batches import coalesce
from serve.settings import ServeSettings
from serve.text_batches import TextBatcher

if TYPE_CHECKING:
    from guard.api import Guard

log = logging.getLogger(__name__)

_GUARDS = 16
"""Policies kept ready; building one for another policy takes some 50 ms."""
_WAITING_FOR_SLOW = 32
"""Threads beyond those that screen: each waits for one answer of the slow path."""


@dataclass(slots=True)
class _Held:
    guard: Guard
    users: int = 0
    evicted: bool = False


class Engine:
    """Judges media and texts under any policy. Safe for threads."""

    def __init__(self, settings: Settings, serve: ServeSettings) -> None:
        """Load the models and start the threads; decoder processes start with the first clip.

        Raises:
            UsageError: a setting, a part or the policy is not there or not valid.
        """
        from guard.api import Guard
        from serve.scan import share_cores

        self.settings = settings
        self._lock = threading.Lock()
        self._max_pending = serve.max_pending_media
        self._detectors: dict[tuple[str, str], Detector] = {}
        self._base = self._sharing(Guard.load(settings))
        share_cores(settings.workers)
        self._held: OrderedDict[str, _Held] = OrderedDict({_key(self._base.policy): _Held(self._base, users=1)})
        self._pending = 0
        threads = settings.workers + (_WAITING_FOR_SLOW if settings.slow_url else 0)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="guard-media")
        self._texts = TextBatcher(
            self._base.check_texts, max_pending=serve.max_pending_texts, threads=4 if settings.slow_url else 1
        )

    @property
    def guard(self) -> Guard:
        """The guard of the service's own policy."""
        return self._base

    @property
    def pending_media(self) -> int:
        """Images and clips that wait or are being judged."""
        return self._pending

    @property
    def pending_texts(self) -> int:
        """Texts that wait."""
        return self._texts.pending

    def media_policy(self, policy: Policy | None) -> Policy:
        """Return the policy that decides on images and clips."""
        return policy or self._base.policy

    def text_policy(self, policy: Policy | None) -> Policy:
        """Return the policy that decides on texts."""
        return self._base.text_policy(policy)

    def require_room(self, media: int) -> None:
        """Raise `Capacity` where so many images and clips would not be taken now; `submit_media` asks again."""
        if media and self._pending + media > self._max_pending:
            raise Capacity(f"{self._pending} images and clips wait already; at most {self._max_pending} may.")

    def submit_media(self, source: Path | bytes, policy: Policy | None, *, name: str) -> Future[Verdict]:
        """Put an image or a clip in line. Raises `Capacity` where too many wait."""
        with self._lock:
            if self._pending >= self._max_pending:
                raise Capacity(f"{self._pending} images and clips wait already; at most {self._max_pending} may.")
            self._pending += 1
        try:
            future = self._pool.submit(self.check_media, source, policy, name=name)
        except RuntimeError as error:
            self._done(None)
            raise Capacity("The service is shutting down.") from error
        future.add_done_callback(self._done)
        return future

    def submit_texts(self, texts: Sequence[str], policy: Policy | None) -> list[Future[Verdict]]:
        """Put texts in line. Raises `Capacity` where too many wait."""
        return self._texts.submit(texts, self.text_policy(policy))

    def check_media(self, source: Path | bytes, policy: Policy | None, *, name: str) -> Verdict:
        """Judge an image or a clip in the calling thread: for job workers, whose number is bounded by itself."""
        with self._using(self.media_policy(policy)) as guard:
            return guard.check(source, name=name)

    @contextmanager
    def using(self, policy: Policy | None) -> Iterator[Guard]:
        """Yield the guard of a policy; it stays open until the block ends."""
        with self._using(self.media_policy(policy)) as guard:
            yield guard

    def ready(self) -> bool:
        """Whether new work would be taken."""
        return self._pending < self._max_pending

    def close(self) -> None:
        """Finish what is in line, and end threads and decoder processes."""
        self._texts.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            held = list(self._held.values())
            self._held.clear()
        for one in held:
            if one.guard is not self._base:
                self._close(one.guard)
        self._base.close()

    def _done(self, _: Any) -> None:
        with self._lock:
            self._pending -= 1

    @contextmanager
    def _using(self, policy: Policy) -> Iterator[Guard]:
        held = self._hold(policy)
        try:
            yield held.guard
        finally:
            with self._lock:
                held.users -= 1
                over = held.evicted and held.users == 0
            if over:
                self._close(held.guard)

    def _hold(self, policy: Policy) -> _Held:
        with self._lock:
            held = self._held.get(_key(policy))
            if held is not None:
                held.users += 1
                self._held.move_to_end(_key(policy))
                return held
        built = self._build(policy)
        with self._lock:
            held = self._held.setdefault(_key(policy), _Held(built))
            held.users += 1
            unused = self._evict()
        for guard in [*unused, *([] if held.guard is built else [built])]:
            self._close(guard)
        return held

    def _evict(self) -> list[Guard]:
        """Take out the policies that were not asked for in longest; return the guards that nobody uses."""
        unused = []
        while len(self._held) > _GUARDS:
            oldest = next(key for key, held in self._held.items() if held.guard is not self._base)
            held = self._held.pop(oldest)
            held.evicted = True
            if held.users == 0:
                unused.append(held.guard)
        return unused

    def _build(self, policy: Policy) -> Guard:
        """Build the guard of another policy over the decoder processes that are there."""
        from guard.api import Guard

        guard = self._sharing(Guard.load(self.settings, policy=policy))
        own = guard.pipeline.stages.decoder
        guard.pipeline.stages = replace(guard.pipeline.stages, decoder=self._base.pipeline.stages.decoder)
        if guard.pipeline.stages.judge is None:  # a judge fetches its pictures through the decoder it was built with
            getattr(own, "close", lambda: None)()
        return guard

    def _sharing(self, guard: Guard) -> Guard:
        """Put the detectors that are loaded already in place of their like: models are held once for all policies."""
        stages = guard.pipeline.stages
        with self._lock:
            shared = tuple(self._detectors.setdefault((d.name, d.fingerprint), d) for d in stages.detectors)
        coalesce(shared)
        guard.pipeline.stages = replace(stages, detectors=shared)
        return guard

    @staticmethod
    def _close(guard: Guard) -> None:
        """Close a guard of another policy: its threads and connections, not the shared decoder."""
        try:
            guard.pipeline.close()
        except Exception:
            log.warning("a guard was not closed", exc_info=True)


def _key(policy: Policy) -> str:
    """Policies of one hash decide alike, but a verdict names the one that was asked for."""
    return f"{policy.hash}/{policy.version}/{policy.name}"
