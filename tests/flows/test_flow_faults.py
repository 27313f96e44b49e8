"""Flows on each driver, through a pooler, without notifications, in limited queues, and beside locks of others."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from flow_counts import MISCOUNTED
from flow_harness import ended, stalled_release, until_stalled
from flow_world import CLIENT, FlowWorld, Node, flow_of, run_and_count
from limited_queue import LimitedQueue
from millhand.client import Client
from millhand.core.config import QueueConfig
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.job import JobState
from millhand.core.limit import Limit
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.query import TIMEOUT_SECONDS
from millhand.engine.end_writer import ends_of_completed
from millhand.engine.store.job import job_complete_many
from millhand.flows import resolver
from millhand.flows.flow import Flow, FlowRow, FlowState
from millhand.flows.store import flow_get
from millhand.limits.job_store import limited_job_complete_many
from pooler import pgbouncer
from repeats import first_of

ENDS = {
    "first": "completed",
    "fails": "cancelled",
    "both": "cancelled",
    "below": "cancelled",
    "alert": "completed",
    "clean up": "completed",
    "never": "cancelled",
    "sum": "completed",
    **{f"part {number}": "completed" for number in range(3)},
}


def graph() -> Flow:
    """Return a flow with each `when`, a group, and a task that fails."""
    flow = Flow("all")
    first, fails = flow.add(Act("first")), flow.add(Act("fails"))
    both = flow.add(Act("both"), after=[first, fails])
    below = flow.add(Act("below"), after=both)
    flow.add(Act("alert"), after=fails, when="failed")
    flow.add(Act("clean up"), after=[below, first], when="ended")
    flow.add(Act("never"), after=first, when="failed")
    parts = flow.add_many((Act(f"part {number}") for number in range(3)), after=first)
    flow.add(Act("sum"), after=parts)
    return flow


def workers(worked: list[str] | None = None) -> Workers:
    made = Workers()

    @made.add()
    async def act(job: Job[Act]) -> None:
        if worked is not None:
            worked.append(job.args.what)
        if job.args.what == "fails":
            raise JobCancel("as it should")

    return made


async def run(harness: ClientHarness, client: Client, flow: Flow) -> FlowRow:
    async with asyncio.timeout(GENEROUS), client:
        inserted = await client.insert_flow(flow)
        return await ended(harness, inserted.id)


async def states(harness: ClientHarness) -> dict[str, str]:
    return {job.args["what"]: job.state.value for job in await harness.rows()}


async def assert_counted(harness: ClientHarness) -> None:
    assert await harness.driver.pool.fetch(MISCOUNTED.replace("/* schema */", "")) == []


@contextlib.asynccontextmanager
async def way(harness: ClientHarness, name: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the settings of a client."""
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(pgbouncer(harness.url)) if "pooler" in name else harness.url
        settings: dict[str, Any] = {}
        if name != "polls":
            settings["database"] = PsycopgDriver(url, pool_size=2)
        if name != "psycopg":
            settings |= {"poll_only": True, "fetch_poll_interval": timedelta(milliseconds=20)}
        yield settings


@pytest.mark.parametrize("name", first_of("polls through a pooler", "polls", "psycopg"))
async def test_flow_ends_in_each_way_of_connecting(harness: ClientHarness, name: str) -> None:
    """Without a leader, without notifications, on psycopg and through PgBouncer, tasks go on."""
    async with way(harness, name) as settings:
        row = await run(harness, harness.client(workers(), **settings), graph())

    assert await states(harness) == ENDS
    assert (row.state, row.num_failed, row.num_skipped) == (FlowState.FAILED, 3, 1)
    await assert_counted(harness)


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of("psycopg", "polls through a pooler"))
async def test_statements_of_flows_run_on_psycopg(harness: ClientHarness, name: str) -> None:
    """A cancel, a retry, an add and a pass of the leader change what they change on asyncpg."""
    async with way(harness, name) as settings, contextlib.AsyncExitStack() as stack:
        driver = settings["database"]
        await driver.open()
        stack.push_async_callback(driver.close)
        world = FlowWorld(driver.pool)
        id = (await world.insert([Node(), Node(frozenset({0})), Node(frozenset({0}), "failed", 2)])).id
        [job] = await world.fetch()
        added = await world.add(job, 2)
        await world.end([job], JobState.DISCARDED, is_counted=False)
        await world.maintain()
        failed = await world.task_states()
        await world.control.cancel(id)
        cancelled = await world.row(id)
        await world.control.retry(id, mode="all")
        listed = await world.control.list(state="running")
        tasks = await world.control.tasks(id)
        await world.check()

    assert failed == ["failed", "waiting", "released", "released", "released", "released"]
    assert (len(added), cancelled.state, cancelled.num_failed) == (2, FlowState.CANCELLED, 6)
    assert [row.id for row in listed] == [id]
    assert [task.state.value for task in tasks] == ["released", *["waiting"] * 3, *["released"] * 2]


@pytest.mark.slow
async def test_flow_in_a_limited_queue_waits_for_slots(harness: ClientHarness) -> None:
    """Waiting tasks take no slots; released ones wait for them, and no more run at once than the limit allows."""
    num_running, most, made = 0, 0, Workers()

    @made.add()
    async def act(job: Job[Act]) -> None:
        nonlocal num_running, most
        num_running += 1
        most = max(most, num_running)
        await asyncio.sleep(0)
        num_running -= 1
        if job.args.what == "fails":
            raise JobCancel("as it should")

    queue = QueueConfig(max_workers=10, limit=Limit(at_once=2))
    row = await run(harness, harness.client(made, queues={"default": queue}), graph())

    assert (row.num_open, most) == (0, 2)
    assert await states(harness) == ENDS
    await assert_counted(harness)


@pytest.mark.slow
async def test_tasks_that_snooze_fail_and_are_deleted_when_they_complete(harness: ClientHarness) -> None:
    """A snooze and a retry do not end a task; its row is kept even where completed jobs are deleted."""
    worked: list[str] = []
    made = Workers()

    @made.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)
        if job.args.what == "snoozes" and worked.count("snoozes") == 1:
            raise JobSnooze(timedelta(0))
        if job.args.what == "fails once" and job.attempt == 1:
            raise ValueError("once")

    flow = Flow("again")
    parents = [flow.add(Act("snoozes")), flow.add(Act("fails once"))]
    flow.add(Act("last"), after=parents)
    client = harness.client(made, keep_completed=False, leader_election=True)
    row = await run(harness, client, flow)

    assert (row.state, row.num_failed) == (FlowState.COMPLETED, 0)
    assert worked[-1] == "last"
    assert sorted(worked[:-1]) == ["fails once", "fails once", "snoozes", "snoozes"]
    assert set((await states(harness)).values()) == {"completed"}


@pytest.mark.slow
async def test_locked_flow_holds_up_no_other_job(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Its task's end is written without the flow, other jobs end meanwhile, and the leader counts when the lock is gone."""
    async with harness.client(Workers(), queues={}) as inserter:
        id = (await inserter.insert_flow(flow_of([Node(), Node(frozenset({0}))]))).id
        await inserter.insert(Act("plain"))

    async def completed() -> bool:
        found = await states(harness)
        return {found["0"], found["plain"]} == {"completed"}

    async with asyncio.timeout(2 * GENEROUS), contextlib.AsyncExitStack() as stack:
        async with harness.driver.pool.begin() as tx:
            await tx.fetch("SELECT FROM millhand_flow FOR UPDATE")
            await stack.enter_async_context(harness.client(workers(), leader_election=True))
            while not await completed():
                pass
            locked = await harness.driver.pool.run(flow_get(id))
        row = await ended(harness, id)

    assert (locked.num_open, row.state) == (2, FlowState.COMPLETED)
    # The wait for the lock ended by its own limit, and not with the whole statement after ten times as long.
    told = {record.msg for record in caplog.records}
    assert told & {"flow tasks not counted", "completions waiting"} == {"flow tasks not counted"}
    assert (await states(harness))["1"] == "completed"
    await assert_counted(harness)


class Recorded:
    """Runs statements, and keeps how long each may take."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.seconds: dict[str, float] = {}

    async def run(self, query: Any) -> Any:
        self.seconds[query.name] = query.timeout_seconds
        return await self._executor.run(query)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Recorded]:
        async with self._executor.begin():
            yield self


@pytest.mark.parametrize("left", [math.inf, 2.0])
async def test_count_takes_no_longer_than_a_completion_and_ends_with_a_flush(
    tx: Executor, left: float
) -> None:
    """A release may take minutes, but a client that ends jobs leaves it to the leader then."""
    world, recorded = FlowWorld(tx), Recorded(tx)
    await world.insert([Node(), Node(frozenset({0}))])
    [job] = await world.fetch()
    query = job_complete_many(
        client_id=CLIENT,
        ids=[job.id],
        attempted_ats=[job.attempted_at or job.created_at],
        finalized_ats=[job.created_at],
    )

    await run_and_count(recorded, query, [job], ends_of_completed, left)

    most = min(left, TIMEOUT_SECONDS)
    assert await world.task_states() == ["completed", "released"]
    assert 0 < recorded.seconds["flow_count_ended"] <= most
    assert 0 < recorded.seconds["flow_release"] <= most


@pytest.mark.slow
async def test_release_that_does_not_end_holds_up_neither_an_outcome_nor_a_stop(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gives it up, writes the outcome alone, and leaves what waits for it to the leader."""
    monkeypatch.setattr(resolver, "COUNT_SECONDS", 1.0)
    async with harness.client(Workers(), queues={}) as inserter:
        await inserter.insert_flow(flow_of([Node(), Node(frozenset({0}))]))

    async with asyncio.timeout(GENEROUS), stalled_release(harness), harness.client(workers()):
        await until_stalled(harness)

    assert await states(harness) == {"0": "completed", "1": "pending"}


@pytest.mark.slow
async def test_leader_goes_on_where_a_long_chain_of_cancels_stops(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain that is longer than the levels of one transaction is cancelled to its end."""
    monkeypatch.setattr(resolver, "LEVELS_MAX", 5)
    flow = flow_of([Node(), *(Node(frozenset({place})) for place in range(12))], "chain")
    made = Workers()

    @made.add()
    async def act(job: Job[Act]) -> None:
        raise JobCancel("as it should")

    row = await run(harness, harness.client(made, leader_election=True), flow)

    assert (row.state, row.num_failed) == (FlowState.FAILED, 13)
    await assert_counted(harness)


async def test_retried_task_that_waited_for_a_slot_waits_for_its_parents(tx: Executor) -> None:
    """A task is cancelled while it waits for a slot of a limit. After a retry, it waits for its parents first."""
    world, queue = FlowWorld(tx), LimitedQueue(tx, "default", now=None)
    await queue.set_limit(at_once=9)
    id = (await world.insert([Node(), Node(frozenset({0}))])).id
    [parent] = await queue.fetch()
    await run_and_count(
        tx,
        limited_job_complete_many(
            client_id=CLIENT,
            ids=[parent.id],
            attempted_ats=[parent.attempted_at or parent.created_at],
            finalized_ats=[parent.created_at],
        ),
        [parent],
        ends_of_completed,
    )
    await queue.collect()
    waiting = await world.states()
    await world.control.cancel(id)
    await world.control.retry(id, mode="all")

    started = await queue.fetch()

    assert waiting[1] == ("released", "pending")
    assert [job.id for job in started] == [parent.id]
    assert (await world.states())[1] == ("waiting", "pending")
