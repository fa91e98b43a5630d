"""Rate limits, back-off and turns, with a clock that stands still until it is told."""

from datetime import UTC, datetime

import pytest

from bibier_hf.llm.pacing import RateLimiter, ServerPool, parse_retry_after


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("limits", "tokens", "waits"),
    [
        ((None, None), 50, [0, 0, 0]),
        ((60, None), 50, [0, 1, 2]),
        ((None, 600), 50, [0, 5, 10]),
        ((60, 600), 5, [0, 1, 2]),  # the narrower limit counts
    ],
)
def test_requests_are_spread_evenly(limits, tokens, waits):
    clock = Clock()
    limiter = RateLimiter(*limits, clock=clock)
    assert [limiter.reserve(tokens) for _ in waits] == pytest.approx(waits)
    clock.now += 60
    assert limiter.reserve(tokens) == 0


def test_a_server_that_fails_rests_longer_each_time():
    clock = Clock()
    pool = ServerPool(["a"], base_delay_s=1, longest_delay_s=5, clock=clock)
    rests = []
    for _ in range(6):
        pool.failed("a")
        pool.failed("a")  # under way at the same time: no second failure
        rests.append(pool.next()[1])
        clock.now += 10
    for rest, longest in zip(rests, [1, 2, 4, 5, 5, 5], strict=True):
        assert longest / 2 <= rest <= longest
    pool.succeeded("a")
    pool.failed("a", retry_after_s=7)
    assert pool.next() == ("a", 7)


def test_the_others_stand_in():
    pool = ServerPool(["a", "b", "c"], clock=Clock())
    assert [pool.next()[0] for _ in range(4)] == ["a", "b", "c", "a"]
    pool.failed("b")
    assert [pool.next()[0] for _ in range(4)] == ["c", "a", "c", "a"]


def test_retry_after():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert parse_retry_after("2.5") == 2.5
    assert parse_retry_after("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30
    assert parse_retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert parse_retry_after(None) is None
    assert parse_retry_after("soon") is None
