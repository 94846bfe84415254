"""How often one key may ask: a token bucket each, in this process.

With several processes behind one address each holds buckets of its own, so give each its share of the rate. Names of
the headers follow the IETF draft "RateLimit header fields for HTTP" (draft-ietf-httpapi-ratelimit-headers-10).
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from guard.types import require

_REMEMBERED = 100_000
"""Buckets kept; the least recently used goes first, and comes back full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`burst` requests at once, refilled at `per_second`."""

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        require(0 < self.per_second < math.inf, "per_second", "greater than 0 and finite", self.per_second)
        require(self.burst >= 1, "burst", "at least 1", self.burst)


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many requests are left, and as of when."""

    tokens: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of one request."""

    allowed: bool
    remaining: int
    """Whole requests left."""
    retry_after_seconds: float
    """How long until this request would be allowed; 0 where it was."""
    reset_seconds: float
    """How long until the bucket is full again."""
    rate: Rate

    def headers(self) -> dict[str, str]:
        """Return the headers that tell a client; with `Retry-After` where it was refused."""
        window = math.ceil(self.rate.burst / self.rate.per_second)
        found = {
            "RateLimit-Policy": f'"key";q={self.rate.burst};w={window}',
            "RateLimit": f'"key";r={self.remaining};t={math.ceil(self.reset_seconds)}',
        }
        if not self.allowed:
            found["Retry-After"] = str(max(1, math.ceil(self.retry_after_seconds)))
        return found


def take(bucket: Bucket | None, rate: Rate, now: float, cost: float = 1.0) -> tuple[Bucket, Taken]:
    """Take `cost` requests from a bucket, or nothing where there are fewer. Pure.

    At 2 a second and a burst of 5, six requests at once leave the sixth to wait 0.5 s.
    """
    before = Bucket(rate.burst, now) if bucket is None else bucket
    elapsed = max(0.0, now - before.at)  # a clock that goes back gives nothing and takes nothing
    tokens = min(float(rate.burst), before.tokens + elapsed * rate.per_second)
    allowed = tokens + 1e-9 >= cost
    left = max(0.0, tokens - cost) if allowed else tokens
    wait = 0.0 if allowed else (min(cost, rate.burst) - tokens) / rate.per_second
    taken = Taken(
        allowed=allowed,
        remaining=int(left + 1e-9),
        retry_after_seconds=wait,
        reset_seconds=(rate.burst - left) / rate.per_second,
        rate=rate,
    )
    return Bucket(left, max(now, before.at)), taken


class RateLimiter:
    """Buckets by name. Safe for threads."""

    def __init__(self, rate: Rate, *, clock: Callable[[], float] = time.monotonic, remember: int = _REMEMBERED) -> None:
        self.rate = rate
        self._clock, self._remember = clock, remember
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, name: str, *, cost: float = 1.0, rate: Rate | None = None) -> Taken:
        """Take from the bucket of `name`; `rate` overrides the common one for whoever has terms of their own."""
        with self._lock:
            bucket, taken = take(self._buckets.get(name), rate or self.rate, self._clock(), cost)
            self._buckets[name] = bucket
            self._buckets.move_to_end(name)
            while len(self._buckets) > self._remember:
                self._buckets.popitem(last=False)
        return taken

    def forget(self, name: str) -> None:
        """Let the bucket of `name` start full again, such as after a sign-in that was right."""
        with self._lock:
            self._buckets.pop(name, None)
