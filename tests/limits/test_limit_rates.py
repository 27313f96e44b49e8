"""A rate's exact promise: in any W seconds of the clock, at most burst + allowed x W / per jobs of a partition start."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limited_queue import NOW, LimitedQueue, later
from millhand.core.job import JobState
from millhand.core.limit import Limit, Rate
from millhand.db.driver.protocol import Executor
from millhand.limits.job_store import limit_partition_delete_idle
from millhand.limits.store import limit_partition_hold, limit_set

RATES = st.tuples(
    st.integers(1, 50), st.sampled_from([0.1, 1.0, 3.0, 7.0, 60.0, 3_600.0]), st.integers(1, 10)
)
# How far the clock goes on, as a share of the time between two starts, and how many jobs an admission asks for.
STEPS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0.0, 0.5, 0.999999, 1.0, 1.000001, 3.0, 20.0]), st.floats(0, 30)),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=25,
)
# A microsecond is the clock's resolution, and so the error of an instant.
CLOCK_SECONDS = 1e-6


@pytest.fixture
async def queue(tx: Executor) -> LimitedQueue:
    return LimitedQueue(tx, "limited")


class RolledBackError(Exception):
    pass


class Starts:
    """Admissions at instants of the test's own, and the starts that they made."""

    def __init__(self, queue: LimitedQueue, allowed: int, seconds: float, burst: int) -> None:
        self.allowed = allowed
        self.burst = burst
        self.instants: list[datetime] = []
        self.queue = queue
        self.seconds = seconds

    async def begin(self, num_jobs: int = 60) -> None:
        await self.queue.set_limit(
            rate_allowed=self.allowed, rate_seconds=self.seconds, rate_burst=self.burst
        )
        await self.queue.insert(*"a" * num_jobs, scheduled_at=NOW - timedelta(days=1))

    async def admit(self, limit: int = 100) -> int:
        num = len(await self.queue.fetch(limit))
        self.instants += [self.queue.now] * num
        return num

    def pass_time(self, intervals: float) -> None:
        """Let the clock go on by so many times the time between two starts."""
        self.queue.now += timedelta(seconds=intervals * self.seconds / self.allowed)

    def too_many(self) -> list[tuple[datetime, datetime, int]]:
        """Return each window from one start to another that has more starts than promised."""
        instants = sorted(self.instants)
        return [
            (first, last, num)
            for n, first in enumerate(instants)
            for num, last in enumerate(instants[n:], 1)
            if num > self.promised((last - first).total_seconds())
        ]

    def promised(self, seconds: float) -> float:
        return self.burst + self.allowed * (seconds + CLOCK_SECONDS) / self.seconds + 1e-6


@pytest.mark.slow
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=RATES, steps=STEPS)
async def test_no_window_of_any_length_has_more_starts_than_promised(
    queue: LimitedQueue, rate: tuple[int, float, int], steps: list[tuple[float, int]]
) -> None:
    """Random admissions at random instants; and what is due is not kept back."""
    queue.now = NOW
    try:
        async with queue.executor.begin():
            starts = Starts(queue, *rate)
            await starts.begin()
            assert await starts.admit() == starts.burst
            for intervals, limit in steps:
                starts.pass_time(intervals)
                await starts.admit(limit)
            starts.pass_time(starts.burst + 1)
            left = 60 - len(starts.instants)
            assert await starts.admit() == min(starts.burst, left)
            assert starts.too_many() == []
            raise RolledBackError
    except RolledBackError:
        pass


@pytest.mark.slow
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=RATES, steps=st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 6)), min_size=2, max_size=20))
async def test_a_clock_that_goes_back_lets_no_job_start_too_early(
    queue: LimitedQueue, rate: tuple[int, float, int], steps: list[tuple[float, int]]
) -> None:
    """Counted by the clock's furthest instant, which is real time at least: no window has more than promised."""
    queue.now = NOW
    try:
        async with queue.executor.begin():
            starts = Starts(queue, *rate)
            await starts.begin()
            furthest = queue.now
            instants = [furthest] * await starts.admit(1)
            for intervals, limit in steps:
                starts.pass_time(intervals)
                furthest = max(furthest, queue.now)
                instants += [furthest] * await starts.admit(limit)
            starts.instants = instants
            assert starts.too_many() == []
            raise RolledBackError
    except RolledBackError:
        pass


async def test_after_a_clock_that_went_back_jobs_start_again(queue: LimitedQueue) -> None:
    """The partition opens when the clock is where the bucket was last filled, and one interval later."""
    starts = Starts(queue, 1, 1.0, 1)
    await starts.begin()
    queue.now = later(3_600)
    assert await starts.admit() == 1

    queue.now = later(0)
    assert await starts.admit() == 0
    queue.now = later(3_601)

    assert await starts.admit() == 1


async def test_each_attempt_is_a_start(queue: LimitedQueue) -> None:
    """A job that fails and is due again waits for the rate like any other; its end gives no start back."""
    starts = Starts(queue, 1, 10.0, 2)
    await starts.begin(2)
    first = await queue.fetch()
    await queue.end(*first, state=JobState.AVAILABLE, scheduled_at=queue.now)

    assert (len(first), await queue.fetch()) == (2, [])
    queue.now = later(10)
    assert len(await queue.fetch()) == 1
    await queue.check()


async def test_a_rate_survives_a_hold_and_a_change(queue: LimitedQueue) -> None:
    """Neither a hold, nor the end of one, nor another limit fills the bucket."""
    [row] = await queue.executor.fetch("SELECT now() AS now")
    queue.now = row["now"]
    starts = Starts(queue, 1, 10.0, 2)
    await starts.begin(10)
    assert await starts.admit() == 2

    await queue.executor.run(limit_partition_hold("limited", [], timedelta(0)))
    held = await starts.admit()
    rate = Rate(1, per=timedelta(seconds=10), burst=2)
    await queue.executor.run(limit_set("limited", Limit(rate=rate, at_once=100)))
    changed = await starts.admit()

    assert (held, changed) == (0, 0)


async def test_an_idle_partition_whose_bucket_is_not_full_is_kept(queue: LimitedQueue) -> None:
    """A start in ten days: after two idle days its row is not deleted, because a new one would have a full bucket."""
    [row] = await queue.executor.fetch("SELECT now() AS now")
    queue.now = row["now"] - timedelta(days=2)
    starts = Starts(queue, 1, 864_000.0, 2)
    await starts.begin(1)
    await queue.complete(*await queue.fetch())
    await queue.executor.fetch("UPDATE millhand_limit_partition SET updated_at = $1", [queue.now])
    queue.now = row["now"]

    horizon = queue.now - timedelta(days=1)
    deleted = await queue.executor.run(limit_partition_delete_idle(horizon=horizon))
    await queue.executor.fetch(
        "UPDATE millhand_limit_partition SET refilled_at = refilled_at - interval '9 days'"
    )

    assert (deleted, await queue.executor.run(limit_partition_delete_idle(horizon=horizon))) == (0, 1)


@pytest.mark.parametrize("at_once", [None, 1, 5])
async def test_nobody_waits_longer_than_the_rate_says(queue: LimitedQueue, at_once: int | None) -> None:
    """A client that fetches at the instant that the last admission named starts one job each time."""
    await queue.set_limit(rate_allowed=3, rate_seconds=7.0, rate_burst=1, at_once=at_once)
    await queue.insert(*"a" * 10)
    await queue.collect()
    num_started = 0
    for _ in range(25):
        admission = await queue.admit()
        num_started += len(admission.jobs)
        await queue.complete(*admission.jobs)
        if num_started == 10:
            break
        # PostgreSQL's instants are of microseconds, so the last of them may come too early.
        queue.now += timedelta(seconds=(admission.opens_in_seconds or 0) + CLOCK_SECONDS)
        await queue.collect()

    assert num_started == 10
    assert (queue.now - NOW).total_seconds() == pytest.approx(9 * 7 / 3, abs=1e-3)
    await queue.check()
