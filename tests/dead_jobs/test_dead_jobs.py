"""Dead letters of real clients: a job that fails is copied by the leader, and a retry works it."""

from __future__ import annotations

import asyncio

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from dead_jobs import dead_ids
from millhand.client import Client
from millhand.core.insert_opts import InsertOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.service import Service
from millhand.testing import Probe


def service_of(client: Client, name: str) -> Service:
    engine = client._engine
    assert engine is not None
    return next(
        one
        for maintainer in engine.leadership.maintainers
        for one in maintainer._services
        if one.name == name
    )


@pytest.mark.slow
async def test_a_discard_is_copied_after_the_next_pass_of_the_history(harness: ClientHarness) -> None:
    """The leader's copier has passed; a job fails; the history's writer sees the discard and wakes the copier."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.attempt == 1:
            raise ValueError(job.args.what)

    client = harness.client(workers, leader_election=True)
    async with asyncio.timeout(GENEROUS), client:
        copier, history = (service_of(client, name) for name in ("DeadJobCopier", "HistoryWriter"))
        probe = Probe(copier)
        await probe.wait("copied")
        with client.subscribe() as events:
            id = (await client.insert(Act("no"), InsertOpts(max_attempts=1))).job.id
            await harness.next(events)
            history.wake_event.set()
            while not await probe.wait("copied"):
                pass
            copied = await dead_ids(harness.driver.pool)
            await client.dead.retry(id)
            await harness.announce()
            event = await harness.next(events)

    assert copied == [id]
    assert (event.kind.value, await dead_ids(harness.driver.pool)) == ("job_completed", [])
