"""Rows that another program wrote and that no client of Millhand or River would: they stop no other job."""

from __future__ import annotations

import pytest

from limited_queue import NOW, LimitedQueue, tenants
from millhand.core.clock import SystemClock
from millhand.core.errors import DriverError
from millhand.core.job import JobState
from millhand.core.limit import Limit, QueueLimit
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.limits.job_store import limit_partition_delete_idle
from millhand.limits.maintainer import LimitMaintainer
from millhand.limits.store import limit_remove, limit_set

ALL_STATES = 0xFF
BIT_AVAILABLE = 1
ARGS = (
    '[1, {"tenant": 2}]',
    '"text"',
    "null",
    '{"tenant": {"a": [1e400]}}',
    '{"tenant": "' + "x" * 100_000 + '"}',
)


async def test_jobs_of_any_args_get_a_partition(shared_queue: LimitedQueue) -> None:
    """Args that are no object, have huge numbers or long texts fail neither a collect nor an admission."""
    await shared_queue.set_limit(at_once=9, by_args=["tenant"])
    await shared_queue.insert_unaware(*"ab")
    for args in ARGS:
        await shared_queue.executor.fetch(
            "INSERT INTO river_job (args, kind, max_attempts, queue, state)"
            " VALUES ($1::text::jsonb, 'push', 5, $2, 'available')",
            [args, shared_queue.queue],
        )

    assert len(await shared_queue.fetch()) == 2 + len(ARGS)
    await shared_queue.check()


async def test_a_job_whose_unique_key_another_has_stops_no_other_job(shared_queue: LimitedQueue) -> None:
    """A job that does not hold its key while it is available, but would as pending, stays available, and others start."""
    await shared_queue.set_limit(at_once=9)
    await shared_queue.insert_unaware(
        "holder", state=JobState.SCHEDULED, unique_key=b"k", unique_states=ALL_STATES
    )
    [taken] = await shared_queue.insert_unaware("taken")
    await shared_queue.executor.fetch(
        "UPDATE river_job SET unique_key = $1::bytea, unique_states = $2::integer::bit(8) WHERE id = $3",
        [b"k", ALL_STATES - BIT_AVAILABLE, taken.id],
    )
    [other] = await shared_queue.insert_unaware("other")

    started = await shared_queue.fetch()

    assert [job.id for job in started] == [other.id]
    assert await shared_queue.state(taken) == "available"


async def test_an_invalid_rate_of_one_limit_stops_no_other_queue(
    limited_driver: AsyncpgDriver, shared_queue: LimitedQueue
) -> None:
    """The leader admits jobs of the queues after it, deletes idle partitions, and its pass still reports the error."""
    wrong = LimitedQueue(limited_driver.pool, "invalid", now=None)
    limits = {
        queue.queue: QueueLimit(
            queue=queue.queue,
            limit=Limit(at_once=1, shared=True),
            declared=None,
            num_running=0,
            updated_at=NOW,
        )
        for queue in (wrong, shared_queue)
    }
    await wrong.set_limit(at_once=1, is_shared=True, rate_allowed=1, rate_seconds=0.0, rate_burst=1)
    await shared_queue.set_limit(at_once=1, is_shared=True)
    await wrong.insert("a")
    [job] = await shared_queue.insert("a")
    maintainer = LimitMaintainer(limited_driver.pool, clock=SystemClock(), limits=lambda: limits)

    with pytest.raises(DriverError, match="division by zero"):
        await maintainer.run_once()
    await limited_driver.pool.run(limit_partition_delete_idle(horizon=NOW))

    assert await shared_queue.state(job) == "available"


async def test_a_job_waits_in_vain_for_no_limit_that_is_removed_and_set_again(tx: Executor) -> None:
    """Between the two, the leader deletes idle partitions: it keeps the arrival of a job that no collect has seen."""
    queue = LimitedQueue(tx, "limited", now=None)
    limit = Limit(at_once=2, by_args=["tenant"])
    await tx.run(limit_set("limited", limit))
    await queue.insert("a")
    await tx.run(limit_remove("limited"))
    await tx.run(limit_partition_delete_idle(horizon=NOW))
    await tx.run(limit_set("limited", limit))

    assert tenants(await queue.fetch()) == ["a"]
    await queue.check()
