"""Partitions take turns: each that waits starts `weight` jobs a round, whatever the others have."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from limited_queue import LimitedQueue, tenants
from millhand.db.driver.protocol import Executor
from millhand.limits.store import limit_partition_set

NAMES = "abcdefgh"
SIZES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30)), min_size=2, max_size=8)
PREFIXES = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@pytest.fixture
async def queue(tx: Executor) -> LimitedQueue:
    return LimitedQueue(tx, "limited")


class RolledBackError(Exception):
    pass


async def weigh(queue: LimitedQueue, weights: dict[str, int]) -> None:
    for name, weight in weights.items():
        await queue.executor.run(limit_partition_set(queue.queue, [name], weight=weight))


async def admit_all(queue: LimitedQueue, limit: int) -> list[str]:
    """Repeat an admission that had fewer jobs than it asked for and says that there are more."""
    admitted: list[str] = []
    has_more = True
    while has_more and len(admitted) < limit:
        admission = await queue.admit(limit - len(admitted))
        admitted += tenants(admission.jobs)
        has_more = admission.has_more
    return admitted


@pytest.mark.slow
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=SIZES, limits=PREFIXES, at_once=st.integers(1, 20))
# The second partition has no jobs, and the third has turns for more jobs than an admission reads of it.
@example(sizes=[(1, 3), (2, 0), (4, 8)], limits=[10], at_once=8)
async def test_no_waiting_partition_is_more_than_a_round_behind(
    queue: LimitedQueue, sizes: list[tuple[int, int]], limits: list[int], at_once: int
) -> None:
    """After any admissions of any size, a partition that waits and has room has had its weight in all rounds but one."""
    try:
        async with queue.executor.begin():
            await queue.set_limit(at_once=at_once, by_args=["tenant"])
            weights = {name: weight for name, (weight, _) in zip(NAMES, sizes, strict=False)}
            waiting = Counter({name: num for name, (_, num) in zip(NAMES, sizes, strict=False)})
            await weigh(queue, weights)
            for name, num in waiting.items():
                if num:
                    await queue.insert(*name * num)
            await queue.collect()
            started: Counter[str] = Counter()
            for limit in limits:
                admitted = await admit_all(queue, limit)
                free = sum(min(num, at_once) - started[name] for name, num in waiting.items())
                assert len(admitted) == min(limit, free)
                started.update(admitted)
                rounds = max(Fraction(started[name], weights[name]) for name in weights)
                behind = [
                    name
                    for name in weights
                    if started[name] < min(waiting[name], at_once)
                    and Fraction(started[name], weights[name]) < rounds - 1
                ]
                assert behind == []
            raise RolledBackError
    except RolledBackError:
        pass


async def test_an_admission_with_fewer_jobs_than_asked_for_says_that_more_wait(queue: LimitedQueue) -> None:
    """Of many partitions only the next turns are read. Five of these have one job each, so the sixth has jobs left."""
    await queue.set_limit(at_once=20, by_args=["tenant"])
    await queue.insert(*"abcde", *"f" * 20)
    await queue.collect()

    first = await queue.admit(10)
    second = await queue.admit(10 - len(first.jobs))

    assert (5 < len(first.jobs) < 10, first.has_more) == (True, True)
    assert len(first.jobs) + len(second.jobs) == 10


@pytest.mark.slow
async def test_a_partition_that_was_full_for_long_does_not_catch_up(queue: LimitedQueue) -> None:
    """Two long jobs kept it from its turns. When they end, it takes turns with the others, and makes up for one round."""
    await queue.set_limit(at_once=2, total=3, by_args=["tenant"])
    await queue.insert(*"aa")
    long = await queue.fetch()
    await queue.insert(*"a" * 30, *"b" * 60)
    for _ in range(20):
        await queue.complete(*await queue.fetch())
    await queue.complete(*long)

    started = []
    for _ in range(12):
        [job] = await queue.fetch(1)
        started.append(job.args["tenant"])
        await queue.complete(job)

    counts = [Counter(started[:num]) for num in range(1, 13)]
    assert max(one["a"] - one["b"] for one in counts) <= 2
    await queue.check()


@pytest.mark.slow
@pytest.mark.parametrize("arrives", [True, False])
async def test_weights_hold_while_one_slot_is_shared(queue: LimitedQueue, arrives: bool) -> None:
    """With a total of one and one slot each, a weight of three is three jobs of four, also while jobs arrive."""
    await queue.set_limit(at_once=1, total=1, by_args=["tenant"])
    await weigh(queue, {"a": 3, "b": 1})
    await queue.insert(*"a" * 30, *"b" * 30)

    started: Counter[str] = Counter()
    for _ in range(24):
        [job] = await queue.fetch()
        started[job.args["tenant"]] += 1
        if arrives:
            await queue.insert(*"ab")
            await queue.collect()
        await queue.complete(job)

    assert abs(started["a"] - 18) <= 3
    await queue.check()


async def test_an_idle_partition_does_not_save_turns(queue: LimitedQueue) -> None:
    """What waited for nothing starts at the turn of those that wait, not in front of them by all that it left out."""
    await queue.set_limit(at_once=100, by_args=["tenant"])
    await queue.insert("a", *"b" * 60)
    await queue.complete(*await queue.fetch(40))
    await queue.insert(*"a" * 30)

    started = tenants(await queue.fetch(10))

    assert abs(started.count("a") - started.count("b")) <= 2
    await queue.check()
