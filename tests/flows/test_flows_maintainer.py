"""Claims about what the leader finds of flows."""

from __future__ import annotations

import asyncio
import logging

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from factory import NOW
from flow_harness import ended, stalled_release, until_stalled
from millhand.core.clock import SystemClock
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.flows.flow import Flow
from millhand.flows.maintainer import FlowMaintainer
from millhand.testing import ManualClock
from refused_rows import refused


@pytest.mark.slow
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


@pytest.mark.slow
async def test_pass_skips_flows_that_another_transaction_has_locked(harness: ClientHarness) -> None:
    """Ends, joins and cancels of other flows do not wait for it, and the next pass does what is left."""
    ids = []
    async with harness.client(Workers(), queues={}) as client:
        for name in ("ended", "due", "cancelled", "free"):
            flow = Flow(name)
            flow.add(Act(f"{name} last"), after=flow.add(Act(f"{name} first")))
            ids.append((await client.insert_flow(flow)).id)
    ended_id, due_id, cancelled_id, free_id = ids
    firsts = f"SELECT min(job_id) FROM millhand_flow_task WHERE flow_id IN ({ended_id}, {free_id}) GROUP BY flow_id"
    for sql in (
        f"UPDATE river_job SET state = 'completed', finalized_at = now() - interval '1 hour' WHERE id IN ({firsts})",
        f"UPDATE millhand_flow_join SET num_open = 0 WHERE flow_id = {due_id}",
        f"UPDATE millhand_flow SET cancelled_at = now() WHERE id = {cancelled_id}",
    ):
        await harness.execute(sql)
    maintainer = FlowMaintainer(harness.driver.pool, clock=SystemClock())

    async with harness.driver.pool.begin() as tx:
        await tx.fetch(f"SELECT FROM millhand_flow WHERE id <> {free_id} FOR UPDATE")
        async with asyncio.timeout(GENEROUS):
            await maintainer.run_once()
        locked = await _states(harness)
    await maintainer.run_once()

    assert {what for what, state in locked.items() if state == "pending"} == {
        "ended last",
        "due last",
        "cancelled last",
    }
    after = await _states(harness)
    assert {what: after[what] for what in after if what.endswith("last")} == {
        "ended last": "available",
        "due last": "available",
        "cancelled last": "cancelled",
        "free last": "available",
    }


@pytest.mark.slow
async def test_stop_ends_a_release_that_takes_long(harness: ClientHarness) -> None:
    """It may take ten minutes. Nothing of its transaction is written, and the next leader does it."""
    flow = Flow("long")
    flow.add(Act("last"), after=flow.add(Act("first")))
    async with harness.client(Workers(), queues={}) as client:
        await client.insert_flow(flow)
    await harness.execute(
        "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE args ->> 'what' = 'first'"
    )
    maintainer = FlowMaintainer(harness.driver.pool, clock=SystemClock())

    async with stalled_release(harness):
        await maintainer.start()
        await until_stalled(harness)
        await asyncio.wait_for(maintainer.stop(), GENEROUS)
    stopped = await _states(harness)
    await FlowMaintainer(harness.driver.pool, clock=SystemClock()).run_once()

    assert (stopped["last"], (await _states(harness))["last"]) == ("pending", "available")


@pytest.mark.slow
async def test_flow_whose_change_is_refused_blocks_no_other(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A user's trigger raises for a task that a count, a release or a cancel would change.

    It is logged once and left out for a while, and the other flows go on.
    """
    ids = {}
    async with harness.client(Workers(), queues={}) as client:
        for name in ("ended", "due", "cancelled", "good ended", "good due", "good cancelled"):
            flow = Flow(name)
            flow.add(Act(f"{name} last"), after=flow.add(Act(f"{name} first")))
            ids[name] = (await client.insert_flow(flow)).id
    jobs = {job.args["what"]: job.id for job in await harness.rows()}
    for sql in (
        "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE args ->> 'what' LIKE '%ended first'",
        f"UPDATE millhand_flow_join SET num_open = 0 WHERE flow_id IN ({ids['due']}, {ids['good due']})",
        f"UPDATE millhand_flow SET cancelled_at = now() WHERE id IN ({ids['cancelled']}, {ids['good cancelled']})",
    ):
        await harness.execute(sql)
    maintainer = FlowMaintainer(harness.driver.pool, clock=ManualClock(NOW))

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        async with refused(
            harness.driver.pool, *(jobs[f"{name} last"] for name in ("ended", "due", "cancelled"))
        ):
            for _ in range(2):
                await maintainer.run_once()

    states = await _states(harness)
    assert {what: state for what, state in states.items() if what.endswith("last")} == {
        "ended last": "pending",
        "due last": "pending",
        "cancelled last": "pending",
        "good ended last": "available",
        "good due last": "available",
        "good cancelled last": "cancelled",
    }
    assert [(one.msg, vars(one).get("job_id"), vars(one).get("flow_id")) for one in caplog.records] == [
        ("flow not continued", jobs["ended first"], None),
        ("flow not continued", None, ids["due"]),
        ("flow not continued", None, ids["cancelled"]),
    ]


async def _states(harness: ClientHarness) -> dict[str, str]:
    return {job.args["what"]: job.state.value for job in await harness.rows()}
