"""The rate limiter: requests are evenly spaced, never above the rate in any window, and below it only after pauses."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.sources.http.rate_limiter import HostLimiters, RateLimiter
from stash_sense_pipeline_tests.sources.conftest import VirtualTime

RATES = st.floats(min_value=0.5, max_value=6000)
SMALL = 1e-6


@st.composite
def traffic(draw: st.DrawFn) -> list[tuple[float, int, float | None]]:
    """Bursts: the idle seconds before each, its number of requests, and a pause in seconds set before it."""
    burst = st.tuples(st.floats(0, 100), st.integers(1, 6), st.none() | st.floats(min_value=0, max_value=500))
    return draw(st.lists(burst, min_size=1, max_size=8))


@pytest.mark.slow
@given(rate=RATES, bursts=traffic(), overshoot=st.floats(0, 0.5))
def test_requests_never_exceed_the_rate_in_any_window(rate, bursts, overshoot):
    time = VirtualTime(overshoot=overshoot)
    limiter = RateLimiter(rate, time.clock)
    granted: list[float] = []
    pauses: list[tuple[int, float]] = []

    async def ask() -> None:
        await limiter.wait()
        granted.append(time.seconds)

    async def run() -> None:
        for idle, askers, pause in bursts:
            time.seconds += idle
            if pause is not None:
                limiter.pause(pause)
                pauses.append((len(granted), time.seconds + pause))
            await asyncio.gather(*(ask() for _ in range(askers)))

    asyncio.run(run())
    interval = 60 / rate
    slack = min(0.002, interval / 10)
    assert all(later - earlier >= interval - slack - SMALL for earlier, later in pairwise(granted))
    for start in granted:
        within = [moment for moment in granted if start <= moment < start + 60]
        assert len(within) <= (60 + slack) / interval + 1 + SMALL
    assert all(moment >= end - SMALL for before, end in pauses for moment in granted[before:])


@given(rate=RATES, count=st.integers(2, 50))
def test_a_steady_stream_is_sent_at_the_rate(rate, count):
    time = VirtualTime()
    limiter = RateLimiter(rate, time.clock)

    async def run() -> None:
        for _ in range(count):
            await limiter.wait()

    began = time.seconds
    asyncio.run(run())
    assert time.seconds - began == pytest.approx((count - 1) * 60 / rate)


@given(rate=RATES, count=st.integers(2, 50), late=st.floats(0, 1))
def test_half_of_the_delay_of_late_timers_is_caught_up(rate, count, late):
    interval = 60 / rate
    overshoot = late * min(0.002, interval / 10)
    time = VirtualTime(overshoot=overshoot)
    limiter = RateLimiter(rate, time.clock)
    granted: list[float] = []

    async def run() -> None:
        for _ in range(count):
            await limiter.wait()
            granted.append(time.seconds)

    asyncio.run(run())
    # The first request does not wait, so it is not late.
    assert granted[-1] - granted[0] == pytest.approx((count - 1) * interval + count * overshoot / 2)


def test_waiting_requests_are_permitted_first_come_first_served(virtual_time):
    limiter = RateLimiter(60, virtual_time.clock)
    served: list[int] = []

    async def ask(number: int) -> None:
        await limiter.wait()
        served.append(number)

    async def run() -> None:
        await asyncio.gather(*(ask(number) for number in range(10)))

    asyncio.run(run())
    assert served == list(range(10))


def test_a_pause_delays_a_request_that_waits_already(virtual_time):
    limiter = RateLimiter(60, virtual_time.clock)

    async def run() -> float:
        await limiter.wait()
        waiting = asyncio.create_task(limiter.wait())
        await asyncio.sleep(0)  # it sleeps for its slot
        limiter.pause(30)
        paused_at = virtual_time.seconds
        await waiting
        return virtual_time.seconds - paused_at

    assert asyncio.run(run()) >= 30


def test_hosts_do_not_wait_for_each_other(virtual_time):
    limiters = HostLimiters(60, virtual_time.clock, {"slow.example:443": 6})
    assert limiters.of("a.example:443") is limiters.of("a.example:443")

    async def run() -> None:
        await limiters.of("a.example:443").wait()
        await limiters.of("b.example:443").wait()
        await limiters.of("slow.example:443").wait()

    asyncio.run(run())
    assert virtual_time.slept == []
    assert limiters.of("a.example:443").next_in == pytest.approx(1)
    assert limiters.of("slow.example:443").next_in == pytest.approx(10)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_permits_no_request_is_refused(rate, virtual_time):
    with pytest.raises(ValueError, match="must be above 0"):
        RateLimiter(rate, virtual_time.clock)
