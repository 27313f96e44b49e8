"""Claims about what the leader finds of flows."""

from __future__ import annotations

import asyncio

from client_harness import GENEROUS, Act, ClientHarness
from flow_harness import ended
from millhand.flow import Flow
from millhand.job import Job
from millhand.worker import Workers


async def test_leader_counts_tasks_that_another_program_ended(harness: ClientHarness) -> None:
    """Jobs that were completed, cancelled and deleted by hand are counted, and what waits for them is decided."""
    flow = Flow("by hand")
    completed, cancelled, deleted = (flow.add(Act(f"{number}")) for number in range(3))
    flow.add(Act("after"), after=completed)
    flow.add(Act("alert"), after=[cancelled, deleted], when="failed")
    flow.add(Act("never"), after=deleted)
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        """Do nothing."""

    paused = harness.client(workers, queues={}, leader_election=False)
    async with paused:
        inserted = await paused.insert_flow(flow)
    await harness.execute(
        "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE args ->> 'what' = '0'"
    )
    await harness.execute(
        "UPDATE river_job SET state = 'cancelled', finalized_at = now() - interval '1 hour' WHERE args ->> 'what' = '1'"
    )
    await harness.execute("DELETE FROM river_job WHERE args ->> 'what' = '2'")
    async with asyncio.timeout(GENEROUS), harness.client(workers, leader_election=True):
        row = await ended(harness, inserted.id)

    states = {job.args["what"]: job.state.value for job in await harness.rows()}
    assert states == {
        "0": "completed",
        "1": "cancelled",
        "after": "completed",
        "alert": "completed",
        "never": "cancelled",
    }
    assert (row.num_failed, row.num_skipped) == (3, 0)
