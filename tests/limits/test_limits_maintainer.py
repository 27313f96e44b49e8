"""The maintainer of limits: what it repairs after kills, and after changes by other programs."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from client_harness import GENEROUS
from limited_queue import CLIENT, NOW, LimitedQueue, tenants
from millhand.core.clock import SystemClock
from millhand.core.job import JobState
from millhand.core.limit import Limit, QueueLimit
from millhand.db.driver.protocol import Executor
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.limits import maintainer as limit_maintainer
from millhand.limits.job_store import limited_job_release_ended
from millhand.limits.maintainer import LimitMaintainer


@pytest.fixture
async def queue(tx: Executor) -> LimitedQueue:
    return LimitedQueue(tx, "limited", now=None)


def maintainer(queue: LimitedQueue, **limit: object) -> LimitMaintainer:
    limits = {} if not limit else {queue.queue: _queue_limit(queue.queue, Limit(**limit))}
    return LimitMaintainer(queue.executor, clock=SystemClock(), limits=lambda: limits)


def _queue_limit(queue: str, limit: Limit) -> QueueLimit:
    return QueueLimit(queue=queue, limit=limit, declared=None, num_running=0, updated_at=SystemClock().now())


async def test_slots_of_jobs_that_another_program_ended_are_released(queue: LimitedQueue) -> None:
    """A Go worker's completion, a deleted row and a rescued job each free a slot; a running job keeps its own."""
    await queue.set_limit(at_once=4)
    completed, deleted, rescued, running = await queue.insert(*"abcd")
    await queue.insert(*"efgh")
    await queue.fetch()
    await queue.executor.fetch(
        "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = $1", [completed.id]
    )
    await queue.executor.fetch("DELETE FROM river_job WHERE id = $1", [deleted.id])
    await queue.executor.fetch(
        "UPDATE river_job SET state = 'retryable', scheduled_at = now() + interval '1 hour' WHERE id = $1",
        [rescued.id],
    )

    await maintainer(queue, at_once=4).run_once()

    assert tenants(await queue.fetch()) == ["e", "f", "g"]
    assert running.id in [row["job_id"] for row in await queue.limited_jobs()]
    await queue.check()


async def test_a_job_in_order_waits_before_all_others_for_its_next_attempt(queue: LimitedQueue) -> None:
    """A job that is available again gets the slot back, although others wait."""
    await queue.set_limit(at_once=1, in_order=True)
    await queue.insert(*"ab")
    [job] = await queue.fetch()
    await queue.executor.fetch("UPDATE river_job SET state = 'available' WHERE id = $1", [job.id])

    before = await queue.fetch()
    await maintainer(queue, in_order=True).run_once()
    after = await queue.fetch()

    assert (before, tenants(after)) == ([], ["a"])
    await queue.check()


async def test_a_shared_queue_gives_go_workers_only_jobs_with_slots(queue: LimitedQueue) -> None:
    """What Go inserted or failed is pending until it is admitted; then it is available, up to at_once."""
    await queue.set_limit(at_once=2, is_shared=True)
    jobs = await queue.insert_unaware(*"abc")
    pending = await queue.insert_unaware("d", state=JobState.PENDING)
    retryable = await queue.insert_unaware("e", state=JobState.RETRYABLE)

    await maintainer(queue, at_once=2, shared=True).run_once()

    states = [await queue.state(job) for job in [*jobs, *pending, *retryable]]
    assert states == ["available", "available", "pending", "pending", "pending"]
    await queue.check()


async def test_a_job_of_a_workflow_is_left_pending(queue: LimitedQueue) -> None:
    """It waits for other jobs, not for a slot."""
    await queue.set_limit(at_once=2, is_shared=True)
    [job] = await queue.insert_unaware("a", state=JobState.PENDING, encoded_metadata='{"workflow_id": "w"}')

    await maintainer(queue, at_once=2, shared=True).run_once()

    assert (await queue.state(job), await queue.limited_jobs()) == ("pending", [])


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        pytest.param({"at_once": 1}, "available", id="exclusive"),
        pytest.param({"at_once": 1, "in_order": True}, "pending", id="in order"),
    ],
)
async def test_jobs_of_kinds_that_no_python_client_knows_are_left_to_go(
    queue: LimitedQueue, columns: dict[str, int], state: str
) -> None:
    """A Python program inserted such a job, so it waits for a slot. It is made available if there are Go clients."""
    await queue.set_limit(**columns)
    [known] = await queue.insert("a")
    [other] = await queue.insert("b", kind="only_go")
    await register(queue.executor, queue.queue, "push")
    await maintainer(queue, **columns).run_once()
    before = await queue.state(other)
    # A Go client writes the row of its queue. A time of whole seconds has not the mark of a command.
    await queue.executor.fetch(
        "INSERT INTO river_queue (name, updated_at) VALUES ($1, date_trunc('second', now()) - interval '1 minute')",
        [queue.queue],
    )

    await maintainer(queue, **columns).run_once()

    assert (before, await queue.state(other), await queue.state(known)) == ("pending", state, "pending")
    await queue.check()


async def register(executor: Executor, queue: str, *kinds: str) -> None:
    heartbeat = ClientHeartbeatParams(
        id=CLIENT, hostname="here", kinds=kinds, pid=42, queue_updates={}, queues={queue: 1},
        heartbeat_interval=timedelta(seconds=5), version="1.2.3",
    )  # fmt: skip
    await executor.run(client_heartbeat(heartbeat, started_at=None))


async def test_a_queue_that_is_shared_no_more_keeps_its_later_jobs(queue: LimitedQueue) -> None:
    """A job that waited as pending for its next attempt still starts when it is due."""
    await queue.set_limit(at_once=1, is_shared=True)
    await queue.insert("a")
    [job] = await queue.fetch()
    await queue.end(job, state=JobState.RETRYABLE, scheduled_at=NOW, shared_ids=[job.id])
    await queue.set_limit(at_once=1)

    await maintainer(queue, at_once=1).run_once()

    assert [started.id for started in await queue.fetch()] == [job.id]
    await queue.check()


async def test_jobs_of_a_removed_limit_become_available(
    queue: LimitedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """No job waits for a slot of a limit that is gone."""
    await queue.set_limit(at_once=1)
    jobs = await queue.insert(*"abc")
    await queue.fetch()
    await queue.executor.fetch("DELETE FROM millhand_limit")

    with caplog.at_level(logging.INFO, "millhand.limits"):
        await maintainer(queue).run_once()

    assert [await queue.state(job) for job in jobs] == ["running", "available", "available"]
    assert [(record.msg, record.num_jobs) for record in caplog.records] == [("limit removed", 2)]


async def test_a_wrong_count_is_corrected_and_logged(
    queue: LimitedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts and jobs with slots agree again, and the log names the partition."""
    await queue.set_limit(at_once=2, total=5)
    await queue.insert(*"ab")
    await queue.fetch()
    await queue.executor.fetch("UPDATE millhand_limit_partition SET running = 7")

    with caplog.at_level(logging.ERROR, "millhand.limits"):
        await maintainer(queue, at_once=2, total=5).run_once()

    assert [(record.msg, record.partition_key) for record in caplog.records] == [
        ("limit count corrected", "[]")
    ]
    await queue.check()


async def test_idle_partitions_are_deleted_after_a_day(queue: LimitedQueue) -> None:
    """A partition in which nothing happened for a day is forgotten, unless it has settings of its own."""
    await queue.set_limit(at_once=2, by_args=["tenant"])
    await queue.insert(*"abc")
    await queue.complete(*await queue.fetch())
    await queue.insert("c")
    await queue.fetch()
    await queue.executor.fetch("UPDATE millhand_limit_partition SET updated_at = now() - interval '25 hours'")
    await queue.executor.fetch(
        "UPDATE millhand_limit_partition SET weight = 3 WHERE partition_key = '[\"b\"]'"
    )

    await maintainer(queue, at_once=2, by_args=["tenant"]).run_once()

    assert list(await queue.partitions()) == ['["b"]', '["c"]']


async def test_without_limits_a_pass_runs_no_statement(queue: LimitedQueue) -> None:
    """After the first pass of a term nothing is asked."""

    class Counted:
        def __init__(self, executor: Executor) -> None:
            self.executor, self.num = executor, 0

        async def run(self, query: object) -> object:
            self.num += 1
            return await self.executor.run(query)

    counted = Counted(queue.executor)
    service = LimitMaintainer(counted, clock=SystemClock(), limits=dict)

    await service.run_once()
    first = counted.num
    await service.run_once()

    assert (first, counted.num) == (1, 1)


@pytest.mark.parametrize("limit", [{"at_once": 1, "in_order": True}, {"at_once": 1, "is_shared": True}])
async def test_the_slot_of_a_deleted_job_is_released_also_in_order_and_in_shared_queues(
    queue: LimitedQueue, limit: dict[str, object]
) -> None:
    """A running job whose row was deleted has no state. Its slot is released, and the next job starts."""
    await queue.set_limit(**limit)
    await queue.insert(*"ab")
    [job] = await queue.fetch()
    await queue.executor.fetch("DELETE FROM river_job WHERE id = $1", [job.id])

    await queue.executor.run(limited_job_release_ended())

    assert tenants(await queue.fetch()) == ["b"]
    await queue.check()


async def test_a_job_of_a_transaction_that_outlives_the_limit_becomes_available(queue: LimitedQueue) -> None:
    """It is committed after the limit's other jobs became available, and the leader looks for such jobs for an hour."""
    await queue.set_limit(at_once=1)
    service = maintainer(queue, at_once=1)
    await service.run_once()
    [job] = await queue.insert("a")
    limits = {}
    service._limits = lambda: limits
    await queue.executor.fetch("UPDATE millhand_limited_job SET queue = 'hidden'")
    await queue.executor.fetch("DELETE FROM millhand_limit")
    await service.run_once()

    await queue.executor.fetch("UPDATE millhand_limited_job SET queue = 'limited'")
    before = await queue.state(job)
    service._search_at = 0.0
    await service.run_once()

    assert (before, await queue.state(job)) == ("pending", "available")


async def test_a_retryable_job_whose_unique_key_another_job_has_is_not_parked(queue: LimitedQueue) -> None:
    """As pending it would need the key; the pass goes on for all other jobs."""
    await queue.set_limit(at_once=2, is_shared=True)
    states = 0b11010001  # not retryable
    [failed, other] = await queue.insert_unaware("a", "b", state=JobState.RETRYABLE)
    await queue.executor.fetch(
        "UPDATE river_job SET unique_key = 'k', unique_states = $2::integer::bit(8) WHERE id = $1",
        [failed.id, states],
    )
    [duplicate] = await queue.insert_unaware("c", state=JobState.SCHEDULED)
    await queue.executor.fetch(
        "UPDATE river_job SET unique_key = 'k', unique_states = $2::integer::bit(8) WHERE id = $1",
        [duplicate.id, states],
    )

    await maintainer(queue, at_once=2, shared=True).run_once()

    assert [await queue.state(job) for job in (failed, other)] == ["retryable", "pending"]


async def test_stop_waits_for_one_statement_of_many(
    queue: LimitedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a statement always finds another batch, a pass goes on; it ends when the leader stops."""
    monkeypatch.setattr(limit_maintainer, "MAINTENANCE_BATCH_SIZE", 0)
    await queue.set_limit(at_once=1)
    endless = maintainer(queue, at_once=1)

    await endless.start()
    await asyncio.wait_for(endless.stop(), GENEROUS)

    assert not endless.is_running
