"""A flow that a real client works to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.errors import JobCancel
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.flows.flow import Flow, FlowRow, FlowState
from millhand.flows.store import flow_get


async def work(harness: ClientHarness, flow: Flow) -> tuple[list[str], FlowRow]:
    """
    Insert a flow, work it to its end, and return the args of its jobs in the order of their starts.

    A job whose args begin with "fail" is cancelled by its worker.
    """
    workers, worked = Workers(), list[str]()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)
        if job.args.what.startswith("fail"):
            raise JobCancel("as it should")

    client = harness.client(workers)
    async with asyncio.timeout(GENEROUS), client:
        inserted = await client.insert_flow(flow)
        row = await ended(harness, inserted.id)
    return worked, row


async def ended(harness: ClientHarness, id: int) -> FlowRow:
    """Return a flow once it has ended."""
    while True:
        row = await harness.driver.pool.run(flow_get(id))
        if row.state is not FlowState.RUNNING:
            return row


@contextlib.asynccontextmanager
async def stalled_release(harness: ClientHarness) -> AsyncIterator[None]:
    """Let each release of a task take longer than any test."""
    await harness.execute(
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$"
    )
    await harness.execute(
        "CREATE TRIGGER stall BEFORE UPDATE ON millhand_flow_task "
        "FOR EACH ROW WHEN (NEW.state = 'released') EXECUTE FUNCTION stall()"
    )
    try:
        yield
    finally:
        await harness.execute("DROP TRIGGER stall ON millhand_flow_task")
        await harness.execute("DROP FUNCTION stall()")


async def until_stalled(harness: ClientHarness) -> None:
    """Return when a release has begun that does not end."""
    sleeping = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    async with asyncio.timeout(GENEROUS):
        while not await harness.driver.pool.fetch(sleeping):
            pass
