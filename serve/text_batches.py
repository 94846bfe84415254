"""One thread that judges texts of many requests together.

It takes whatever waits when it becomes free: a lone text waits for nobody, and under load batches grow by themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from guard.errors import Capacity, GuardError
from guard.types import Policy, Verdict

Check = Callable[[Sequence[str], Policy], list[Verdict]]
MAX_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    text: str
    policy: Policy
    answer: Future[Verdict] = field(default_factory=Future)


class TextBatcher:
    """Judges texts in batches of one policy, in the order in which they came. Safe for threads."""

    def __init__(self, check: Check, *, max_pending: int, threads: int = 1) -> None:
        """Start the threads; more than one where a slow path makes batches wait."""
        self._check = check
        self._max_pending = max_pending
        self._line: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"guard-texts-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Number of texts that wait."""
        return len(self._line)

    def submit(self, texts: Sequence[str], policy: Policy) -> list[Future[Verdict]]:
        """Put texts in line, all or none. Raises `Capacity` where the line is full, or closed."""
        asked = [_Waiting(text=text, policy=policy) for text in texts]
        with self._ready:
            if self._closed:
                raise Capacity("The service is shutting down.")
            if len(self._line) + len(asked) > self._max_pending:
                raise Capacity(f"{len(self._line)} texts wait already; at most {self._max_pending} may.")
            self._line.extend(asked)
            self._ready.notify()
        return [one.answer for one in asked]

    def close(self) -> None:
        """Judge what waits, and end the threads."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._take():
            live = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            try:
                verdicts = self._check([one.text for one in live], live[0].policy) if live else []
            except GuardError as error:
                for one in live:
                    one.answer.set_exception(error)
            except BaseException as error:
                for one in live:
                    one.answer.set_exception(error)
            else:
                for one, verdict in zip(live, verdicts, strict=True):
                    one.answer.set_result(verdict)

    def _take(self) -> list[_Waiting]:
        """Return the texts at the head of the line that share a policy; none once all is done."""
        with self._ready:
            while not self._line and not self._closed:
                self._ready.wait()
            batch: list[_Waiting] = []
            while self._line and len(batch) < MAX_BATCH and _same(self._line[0], batch):
                batch.append(self._line.popleft())
            return batch


def _same(one: _Waiting, batch: Sequence[_Waiting]) -> bool:
    """Whether `one` may join: a batch has one policy, down to its name, which verdicts show."""
    if not batch:
        return True
    mine, theirs = one.policy, batch[0].policy
    return mine is theirs or (mine.hash, mine.name, mine.version) == (theirs.hash, theirs.name, theirs.version)
