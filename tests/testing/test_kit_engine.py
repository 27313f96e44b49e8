"""Flows, limits, holds, schedules and outcomes in a test's transaction, as in production."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import asyncpg
import pytest
from sample_jobs import START, new_client

from millhand.client import Client
from millhand.core.errors import JobSnooze
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.limit import Rate
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.flows.flow import Flow, FlowState
from millhand.testing import Counts, Drained, drain, time_travel, work

CALLS = InsertOpts(queue="calls")
workers = Workers()


@workers.add(kind="call", output=True)
def call(account: str, number: int = 0) -> int:
    if number == 13:
        raise ValueError(account)
    return number


@dataclass(frozen=True)
class Busy:
    kind: ClassVar[str] = "busy"


@dataclass(frozen=True)
class Pass:
    kind: ClassVar[str] = "pass"


@workers.add()
async def do_nothing(job: Job[Pass]) -> None: ...


@workers.add()
async def busy(job: Job[Busy]) -> None:
    if "snoozes" not in job.metadata:
        raise JobSnooze(timedelta(minutes=5), hold_partition=True)


def new_flow() -> Flow:
    flow = Flow("report")
    first = flow.add(call.args("a", 1), name="first")
    flow.add(call.args("a", 2), after=[first], name="second")
    return flow


def numbers(drained: Drained) -> list[Any]:
    return [one.job.args["number"] for one in drained.worked]


async def insert(client: Client, tx: Any, *jobs: tuple[str, int], opts: InsertOpts = CALLS) -> None:
    await client.insert_many([(call.args(account, number), opts) for account, number in jobs], tx=tx)


async def test_drain_works_all_tasks_of_a_flow(url: str, any_tx: Any) -> None:
    """A task that waits for another is worked after it, and the flow ends, in the test's transaction."""
    client = new_client(url, workers=workers)
    inserted = await client.insert_flow(new_flow(), tx=any_tx)

    drained = await drain(client, tx=any_tx)

    assert numbers(drained) == [1, 2]
    assert (await client.flows.get(inserted.id, tx=any_tx)).state is FlowState.COMPLETED


async def test_drain_goes_on_with_a_flow_whose_task_was_cancelled(url: str, any_tx: Any) -> None:
    """A task that the test cancels cancels the task that waits for it, and a retry in the transaction runs both."""
    client = new_client(url, workers=workers)
    flow = await client.insert_flow(new_flow(), tx=any_tx)
    first, second = await client.flows.tasks(flow.id, tx=any_tx)
    await client.jobs.cancel(first.job_id, tx=any_tx)

    assert await drain(client, tx=any_tx) == Drained()
    assert (await client.jobs.get(second.job_id, tx=any_tx)).state is JobState.CANCELLED

    await client.flows.retry(flow.id, tx=any_tx)
    assert numbers(await drain(client, tx=any_tx)) == [1, 2]
    [listed] = await client.flows.list(state="completed", tx=any_tx)
    assert listed.id == flow.id


async def test_flow_is_cancelled_in_a_transaction(url: str, any_tx: Any) -> None:
    """`client.flows.cancel` with `tx` cancels all jobs of the flow there."""
    client = new_client(url, workers=workers)
    flow = await client.insert_flow(new_flow(), tx=any_tx)

    assert (await client.flows.cancel(flow.id, tx=any_tx)).state is FlowState.CANCELLED
    assert await drain(client, tx=any_tx) == Drained()


async def test_travelled_clock_releases_tasks_of_a_flow(url: str, any_tx: Any) -> None:
    """A waiting task is due at the clock of the test, also when that is years before the database's."""
    client = new_client(url, workers=workers)
    with time_travel(client, tx=any_tx, now=START) as travel:
        await client.insert_flow(new_flow())
        assert numbers(await travel.work_for(minutes=1)) == [1, 2]


@pytest.mark.slow
async def test_drain_works_a_limited_queue(url: str, any_tx: Any) -> None:
    """All jobs of a queue with a limit at once are worked, because each attempt releases its slot."""
    client = new_client(url, workers=workers)
    await client.limits.set("calls", at_once=1, by_args=["account"], tx=any_tx)
    await insert(client, any_tx, ("a", 1), ("a", 2), ("b", 3))
    await client.insert(call.args("a", 4), tx=any_tx)

    drained = await drain(client, tx=any_tx)

    assert drained.counts == Counts(completed=4)
    assert not any(one.running or one.waiting for one in await client.limits.partitions("calls", tx=any_tx))


@pytest.mark.slow
async def test_drain_starts_what_a_rate_allows_now(url: str, any_tx: Any) -> None:
    """Drain works as many jobs as may start at its clock and returns; `work_for` starts the others in time."""
    client = new_client(url, workers=workers)
    with time_travel(client, tx=any_tx, now=START) as travel:
        await client.limits.set("calls", rate=Rate(1, per=timedelta(minutes=1), burst=2))
        await insert(client, None, *[("a", number) for number in range(4)])

        assert numbers(await drain(client)) == [0, 1]
        assert numbers(await drain(client)) == []
        await travel.advance(minutes=1)
        assert numbers(await drain(client)) == [2]
        later = await travel.work_for(minutes=5)

    assert numbers(later) == [3]
    assert later.worked[0].job.finalized_at == START + timedelta(minutes=2)


@pytest.mark.slow
async def test_halted_partition_stays_in_order_after_a_discard(url: str, any_tx: Any) -> None:
    """In order and with a halt, a discarded job stops its own partition until it is resumed."""
    client = new_client(url, workers=workers)
    await client.limits.set("calls", in_order=True, halt=True, by_args=["account"], tx=any_tx)
    once = InsertOpts(queue="calls", max_attempts=1)
    await insert(client, any_tx, ("a", 13), ("a", 2), ("b", 3), opts=once)

    assert numbers(await drain(client, tx=any_tx)) == [13, 3]
    [halted] = await client.limits.halted("calls", tx=any_tx)
    assert halted.key == '["a"]'
    await client.limits.resume("calls", "a", tx=any_tx)
    assert numbers(await drain(client, tx=any_tx)) == [2]


@pytest.mark.slow
async def test_jobs_in_order_wait_for_a_retry(url: str, any_tx: Any) -> None:
    """A failed job of an ordered partition is attempted again before the next one starts."""
    client = new_client(url, workers=workers)
    with time_travel(client, tx=any_tx, now=START) as travel:
        await client.limits.set("calls", in_order=True)
        await insert(client, None, ("a", 13), ("a", 2), opts=InsertOpts(queue="calls", max_attempts=2))

        assert numbers(await drain(client)) == [13]
        assert numbers(await travel.work_for(hours=1)) == [13, 2]


@pytest.mark.slow
async def test_snooze_holds_its_partition(url: str, any_tx: Any) -> None:
    """A job that snoozes with `hold_partition` stops the jobs behind it until the clock is there."""
    client = new_client(url, workers=workers)
    with time_travel(client, tx=any_tx, now=START) as travel:
        await client.limits.set("calls", at_once=1)
        await client.insert(Busy(), CALLS)
        await insert(client, None, ("a", 1))

        assert (await drain(client)).counts == Counts(snoozed=1)
        assert (await travel.work_for(minutes=4)).counts == Counts()
        assert (await travel.work_for(minutes=2)).counts == Counts(completed=2)


@pytest.mark.slow
async def test_schedule_inserts_at_its_instants(url: str, any_tx: Any) -> None:
    """A schedule in the database inserts a job at each instant that the clock passes."""
    client = new_client(url, workers=workers)
    with time_travel(client, tx=any_tx, now=START) as travel:
        await client.schedules.set(JobSchedule(id="hourly", args=call.args("a", 7), cron="0 * * * *"))
        drained = await travel.work_for(hours=3)

    assert [one.job.finalized_at for one in drained.worked] == [START + timedelta(hours=n) for n in (1, 2, 3)]


async def test_drain_deletes_completed_jobs_that_are_not_kept(url: str, any_tx: Any) -> None:
    """With `keep_completed=False`, the result has the row, and the table has not."""
    client = new_client(url, workers=workers, keep_completed=False)
    await client.insert(Pass(), tx=any_tx)

    [one] = (await drain(client, tx=any_tx)).worked

    assert one.job.state is JobState.COMPLETED
    assert (await client.jobs.list(tx=any_tx)).jobs == ()


async def test_work_of_a_limited_queue_holds_no_slot(url: str, any_tx: Any) -> None:
    """`work` starts its job whatever the limit says, and leaves nothing of it in the queue."""
    client = new_client(url, workers=workers)
    await client.limits.set("calls", at_once=1, tx=any_tx)

    assert (await work(client, call.args("a", 1), CALLS, tx=any_tx)).job.output == 1
    assert await drain(client, tx=any_tx) == Drained()
    assert not any(one.running or one.waiting for one in await client.limits.partitions("calls", tx=any_tx))


@pytest.mark.slow
async def test_time_travel_needs_no_tables_of_millhand(url: str) -> None:
    """On River's tables alone there are no limits and no schedules, and a job is worked all the same."""
    driver = AsyncpgDriver(url, "millhand_kit_river_alone")
    await driver.open()
    try:
        await driver.pool.execute_script(f"CREATE SCHEMA {driver.schema}")
        await Migrator(driver, "main").up()
        client = new_client(url, workers=workers, schema=driver.schema)
        connection = await asyncpg.connect(url)
        transaction = connection.transaction()
        await transaction.start()
        with time_travel(client, tx=connection, now=START) as travel:
            await client.insert(call.args("a", 1))
            drained = await travel.work_for(hours=1)
        await transaction.rollback()
        await connection.close()
    finally:
        await driver.pool.execute_script(f"DROP SCHEMA {driver.schema} CASCADE")
        await driver.close()

    assert numbers(drained) == [1]
