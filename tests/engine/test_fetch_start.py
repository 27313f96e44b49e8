"""When fetches begin at a start, and jobs before it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.event import EventKind
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.fetch_start import RECHECK_SECONDS_MAX
from proxy import proxied

INSERT = """
INSERT INTO river_job (kind, args, max_attempts, scheduled_at)
VALUES ('act', '{"what": "old"}', 25, now() - interval '1 hour')
"""


@pytest.mark.slow
async def test_job_before_the_start_is_found_by_the_next_check(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job with an old instant and without a notification is worked, though polls are an hour apart."""
    # As if dead entries were in the way.
    monkeypatch.setattr("millhand.engine.fetch_start.SLOW_SECONDS", -1.0)
    monkeypatch.setattr("millhand.engine.fetch_start.MANY_BLOCKS", -1)
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        pass

    async with harness.client(workers, fetch_poll_interval=timedelta(hours=1)) as client:
        for n in range(3):
            await harness.work(client, Act(str(n)))
        [producer] = client._engine.queues.producers.values()
        assert producer._fetch_starts.recheck_at is not None
        with client.subscribe() as events:
            await harness.execute(INSERT)
            event = await asyncio.wait_for(anext(events), RECHECK_SECONDS_MAX + GENEROUS)

    assert event.kind is EventKind.JOB_COMPLETED


@pytest.mark.slow
async def test_slow_network_turns_no_starts_on(harness: ClientHarness) -> None:
    """Each fetch takes more than 10 ms without any dead entry; all begin at the beginning, so no late commit waits."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        pass

    async with proxied(harness.url) as proxy, harness.client(workers, database=proxy.url) as client:
        proxy.slow(0.01)
        for n in range(8):
            await harness.work(client, Act(str(n)))
        assert client._engine is not None
        [producer] = client._engine.queues.producers.values()
        recheck_at = producer._fetch_starts.recheck_at
        proxy.restore()

    assert recheck_at is None
