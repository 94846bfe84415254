"""The token bucket, beside a slow count of what a bucket may let through."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from serve.ratelimit import Bucket, Rate, RateLimiter, take

RATE = Rate(per_second=2, burst=5)


def test_a_burst_passes_and_the_next_waits_for_its_token() -> None:
    bucket: Bucket | None = None
    for left in (4, 3, 2, 1, 0):
        bucket, taken = take(bucket, RATE, 100.0)
        assert (taken.allowed, taken.remaining) == (True, left)
        assert "Retry-After" not in taken.headers()
    bucket, taken = take(bucket, RATE, 100.0)
    assert (taken.allowed, taken.retry_after_seconds, taken.reset_seconds) == (False, 0.5, 2.5)
    assert taken.headers() == {"RateLimit-Policy": '"key";q=5;w=3', "RateLimit": '"key";r=0;t=3', "Retry-After": "1"}
    assert take(bucket, RATE, 100.5)[1].allowed


@given(st.lists(st.floats(0, 3), max_size=60))
def test_no_stretch_lets_through_more_than_burst_and_refill(gaps: list[float]) -> None:
    bucket, now, passed = None, 0.0, []
    for gap in gaps:
        now += gap
        bucket, taken = take(bucket, RATE, now)
        if taken.allowed:
            passed.append(now)
        else:  # waiting exactly as long as told is enough
            assert take(bucket, RATE, now + taken.retry_after_seconds)[1].allowed
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= RATE.burst + RATE.per_second * (passed[j] - start) + 1e-6


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket, _ = take(Bucket(0.0, 100.0), RATE, 50.0)
    assert not take(bucket, RATE, 100.0)[1].allowed


def test_keys_do_not_share_and_threads_do_not_double() -> None:
    limiter = RateLimiter(Rate(per_second=0.001, burst=50), clock=lambda: 0.0)
    allowed: list[bool] = []
    threads = [
        threading.Thread(target=lambda: allowed.extend(limiter.take("a").allowed for _ in range(25))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(allowed), len(allowed)) == (50, 100)
    assert limiter.take("b").allowed
    assert limiter.take("c", rate=Rate(per_second=1, burst=1)).remaining == 0


def test_memory_is_bounded_and_the_forgotten_start_full() -> None:
    limiter = RateLimiter(Rate(per_second=0.001, burst=1), clock=lambda: 0.0, remember=2)
    assert limiter.take("a").allowed
    assert not limiter.take("a").allowed
    for name in ("b", "c"):
        limiter.take(name)
    assert limiter.take("a").allowed


def test_what_is_forgotten_starts_full() -> None:
    limiter = RateLimiter(Rate(per_second=0.001, burst=1), clock=lambda: 0.0)
    assert [limiter.take("a").allowed for _ in range(2)] == [True, False]
    limiter.forget("a")
    limiter.forget("never seen")
    assert limiter.take("a").allowed
